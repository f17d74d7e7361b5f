"""The scheduler on a fake clock: when runs start, what becomes of each slot, and that what is ended has ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from fake_clock import FakeClock, settle
from scheduling import Work, every, running
from sexton.errors import UsageError
from sexton.scheduler import (
    At,
    CatchUp,
    Cron,
    Job,
    Limits,
    OnInterrupted,
    Origin,
    Outcome,
    Overlap,
    RunContext,
    RunFailed,
    RunState,
    RunStore,
    UnknownJob,
    UnknownRun,
)
from sexton.scheduler.rows import Draft

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]
HOUR = 3600.0


def held() -> Work:
    return Work(hold=True)


# Time


async def test_each_slot_runs_once_at_its_time(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(10),)) as bench:
        await bench.clock.advance(9.99)
        assert bench.work.slots == []
        await bench.clock.advance(0.01)
        assert bench.work.slots == ["12:00:10"]
        await bench.clock.advance(20)
        assert bench.work.slots == ["12:00:10", "12:00:20", "12:00:30"]
        assert await bench.states() == ["ran"] * 3
        assert all(run.started_at == run.slot for run in await bench.rows())


async def test_a_slow_run_does_not_shift_the_slots_after_it(tmp_path: Path) -> None:
    clock = FakeClock()

    async def slow(context: RunContext) -> Outcome:
        await clock.sleep(3.3)
        return Outcome()

    async with running(tmp_path, clock=clock, perform=slow, jobs=(every(10),)) as bench:
        await clock.advance(45)
        assert [run.slot.second for run in await bench.rows() if run.slot] == [10, 20, 30, 40]
        assert all(run.started_at == run.slot for run in await bench.rows())


async def test_a_clock_set_back_fires_no_time_on_the_wall_twice(tmp_path: Path) -> None:
    job = Job(name="tick", schedule=Cron(expression="* * * * *"))
    async with running(tmp_path, jobs=(job,)) as bench:
        await bench.clock.advance(121)
        bench.clock.jump(-600)
        await bench.clock.advance(600)
        assert bench.work.slots == ["12:01:00", "12:02:00"]
        await bench.clock.advance(60)
        assert bench.work.slots == ["12:01:00", "12:02:00", "12:03:00"]
        assert [round(event.data["seconds"]) for event in bench.events("clock.jumped")] == [-600]  # type: ignore[arg-type]


@pytest.mark.sqlite_only("long, and about arithmetic")
@pytest.mark.parametrize(("seconds", "step", "back"), [(121, 60, 600), (1807, 600, 7_777.7), (45, 1, 5), (45, 30, 4)])
async def test_intervals_go_on_when_the_clock_is_set_back(
    tmp_path: Path, seconds: float, step: float, back: float
) -> None:
    """Never early by a clock that does not jump, never silent for two intervals, and no slot has two runs."""
    clock = FakeClock()
    starts: list[float] = []

    async def note(context: RunContext) -> Outcome:
        starts.append(clock.monotonic())
        assert context.run.slot is not None
        assert context.run.slot <= clock.now()
        return Outcome()

    async with running(tmp_path, clock=clock, perform=note, jobs=(every(step),)) as bench:
        for _ in range(3):
            await clock.advance(seconds)
            clock.jump(-back)
            await clock.advance(step * 2.5 + 1)
        gaps = [later - earlier for earlier, later in pairwise(starts)]
        assert min(gaps) >= step - 1.001  # A second is how long it may take to be noticed, and a start so be late.
        assert max(gaps) < 2 * step + 1.001
        slots = [run.slot for run in await bench.rows()]
        assert len(slots) == len(set(slots)) == len(starts)


async def test_two_gateways_that_see_the_same_jump_bring_an_interval_back_once(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(60),)) as bench:
        await bench.clock.advance(121)
        bench.clock.jump(-600)
        store = RunStore(bench.database)
        first = await store.realign(now=bench.clock.now(), jump=timedelta(seconds=-600))
        second = await store.realign(now=bench.clock.now(), jump=timedelta(seconds=-600))
        assert (first, second) == (("tick",), ())


async def test_intervals_go_on_when_the_clock_was_set_back_while_no_gateway_ran(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running(tmp_path, clock=clock, jobs=(every(60),)) as bench:
        await clock.advance(121)
    clock.jump(-HOUR)
    async with running(tmp_path, clock=clock) as bench:
        await clock.advance(180)
        assert bench.work.slots == ["11:04:00", "11:05:00"]


async def test_slots_of_a_pause_are_counted_when_the_clock_was_set_back_in_it(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(60),)) as bench:
        await bench.scheduler.pause("tick")
        await bench.clock.advance(601)
        bench.clock.jump(-HOUR)
        await bench.clock.advance(600)
        await bench.scheduler.resume("tick")
        await bench.clock.advance(60)
        rows = await bench.rows()
        assert [(str(run.state), run.count) for run in rows] == [("skipped", 20), ("ran", 1)]


async def test_a_retry_does_not_wait_for_a_clock_that_was_set_back(tmp_path: Path) -> None:
    async def fail(context: RunContext) -> Outcome:
        raise RunFailed("no")

    async with running(tmp_path, perform=fail, jobs=(every(86_400, retries=1, retry_backoff=60),)) as bench:
        await bench.scheduler.run_now("tick")
        await settle()
        bench.clock.jump(-HOUR)
        await bench.clock.advance(302)
        assert await bench.states() == ["failed", "failed"]


async def test_a_clock_set_forward_or_a_sleep_runs_the_latest_slot_and_records_the_others(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(60),)) as bench:
        await bench.clock.advance(61)
        bench.clock.jump(600)
        await bench.clock.advance(6)  # No longer than the longest sleep.
        assert bench.work.slots == ["12:01:00", "12:11:00"]
        missed = [run for run in await bench.rows() if run.state is RunState.MISSED]
        assert [(run.count, run.slot, run.slot_end) for run in missed] == [
            (9, datetime(2026, 11, 1, 12, 2, tzinfo=UTC), datetime(2026, 11, 1, 12, 10, tzinfo=UTC))
        ]
        await bench.clock.advance(60)
        assert bench.work.slots == ["12:01:00", "12:11:00", "12:12:00"]


async def test_forward_and_back_again_runs_no_slot_twice(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(60, catch_up=CatchUp.ALL),)) as bench:
        await bench.clock.advance(61)
        bench.clock.jump(600)
        await bench.clock.advance(10)
        bench.clock.jump(-600)
        await bench.clock.advance(700)
        slots = [run.slot for run in bench.work.started]
        assert len(slots) == len(set(slots)) == 1 + 10 + 11
        assert bench.work.slots[11:] == [f"12:{minute:02}:00" for minute in range(2, 13)]


async def test_what_waits_for_its_turn_does_not_wait_for_a_clock_that_was_set_back(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10, overlap=Overlap.QUEUE),)) as bench:
        await bench.clock.advance(20)
        bench.clock.jump(-600)
        await bench.work.let_end(0)
        assert bench.work.slots == ["12:00:10", "12:00:20"]


async def test_a_clock_that_was_hours_ahead_and_is_corrected_does_not_silence_a_job(tmp_path: Path) -> None:
    clock = FakeClock(datetime(2038, 1, 19, tzinfo=UTC))
    async with running(tmp_path, clock=clock, jobs=(every(60),)) as bench:
        await clock.advance(61)
        clock.jump((datetime(2026, 11, 1, 12, tzinfo=UTC) - clock.now()).total_seconds())
        await clock.advance(70)
        assert bench.work.slots == ["00:01:00", "12:01:00"]


@pytest.mark.sqlite_only("long, and about arithmetic")
async def test_a_slot_that_has_its_row_does_not_run_again_after_a_correction(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(600),)) as bench:
        await bench.clock.advance(1201)
        bench.clock.jump(-3.5 * HOUR)
        await bench.clock.advance(700)
        assert bench.work.slots == ["12:10:00", "12:20:00", "09:00:00"]
        bench.clock.jump(3 * HOUR)
        await bench.clock.advance(1900)
        slots = [run.slot for run in bench.work.started]
        assert len(slots) == len(set(slots))
        assert bench.work.slots[-1] == "12:30:00"


async def test_jitter_delays_the_start_within_its_bound(tmp_path: Path) -> None:
    job = every(60, jitter=30)
    async with running(tmp_path, jobs=(job,)) as bench:
        planned = await bench.scheduler.next_times("tick", 10)
        await bench.clock.advance(635)
        starts = [run.started_at for run in await bench.rows()]
        assert starts == list(planned)
        assert len({start - run.slot for start, run in zip(planned, await bench.rows(), strict=True) if run.slot}) == 10


async def test_a_one_shot_runs_once_and_one_that_has_passed_is_told(tmp_path: Path) -> None:
    soon = Job(name="soon", schedule=At(time=datetime(2026, 11, 1, 12, 0, 30, tzinfo=UTC)))
    past = Job(name="past", schedule=At(time=datetime(2026, 10, 1, tzinfo=UTC)))
    async with running(tmp_path, jobs=(soon, past)) as bench:
        await bench.clock.advance(120)
        assert bench.work.slots == ["12:00:30"]
        assert await bench.states("past") == ["missed"]
        assert await bench.scheduler.next_times("soon") == ()


async def test_cron_in_the_jobs_own_time_zone(tmp_path: Path) -> None:
    job = Job(name="brief", schedule=Cron(expression="30 7 * * *"), timezone="Europe/Amsterdam")
    async with running(tmp_path, jobs=(job,)) as bench:
        assert (await bench.scheduler.next_times(job, 1))[0] == datetime(2026, 11, 2, 6, 30, tzinfo=UTC)
        assert (await bench.scheduler.jobs())[0].next_at == datetime(2026, 11, 2, 6, 30, tzinfo=UTC)


# Missed slots


@pytest.mark.parametrize(
    ("policy", "ran", "missed"),
    [
        (CatchUp.NONE, [], 60),
        (CatchUp.LATEST, ["13:00:00"], 59),
        (CatchUp.ALL, [*(f"12:{minute}:00" for minute in range(51, 60)), "13:00:00"], 50),
    ],
)
async def test_slots_that_passed_while_no_gateway_ran(
    tmp_path: Path, policy: CatchUp, ran: list[str], missed: int
) -> None:
    clock = FakeClock()
    job = every(60, catch_up=policy, catch_up_window=600)
    async with running(tmp_path, clock=clock, jobs=(job,)):
        pass
    await clock.advance(HOUR + 30)
    async with running(tmp_path, clock=clock) as bench:
        assert bench.work.slots == ran
        assert {run.trigger for run in bench.work.started} <= {"catch_up"}
        assert [run.count for run in await bench.rows() if run.state is RunState.MISSED] == [missed]


async def test_a_year_without_a_gateway_is_one_row(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running(tmp_path, clock=clock, jobs=(every(1),)):
        pass
    clock.jump(365 * 86_400)
    async with running(tmp_path, clock=clock) as bench:
        rows = await bench.rows()
        assert [(str(run.state), run.count) for run in rows] == [("missed", 365 * 86_400 - 1), ("ran", 1)]


async def test_a_pause_is_one_row_and_nothing_runs_in_it(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(1),)) as bench:
        await bench.clock.advance(2)
        await bench.scheduler.pause("tick")
        await bench.scheduler.pause("tick")
        await bench.clock.advance(100)
        assert len(bench.work.slots) == 2
        (status,) = await bench.scheduler.jobs()
        assert status.paused_at == datetime(2026, 11, 1, 12, 0, 2, tzinfo=UTC)
        await bench.scheduler.resume("tick")
        (status,) = await bench.scheduler.jobs()
        assert status.paused_at is None
        await bench.clock.advance(1)
        assert bench.work.slots == ["12:00:01", "12:00:02", "12:01:43"]
        skipped = [run for run in await bench.rows() if run.state is RunState.SKIPPED]
        assert [(run.count, run.reason) for run in skipped] == [(100, "paused")]
        assert [event.kind for event in bench.events("job.paused", "job.resumed")] == ["job.paused", "job.resumed"]


# Overlap


async def test_overlap_skip(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10),)) as bench:
        await bench.clock.advance(30)
        await bench.work.let_end(0)
        await bench.clock.advance(10)
        assert bench.work.slots == ["12:00:10", "12:00:40"]
        assert await bench.states() == ["ran", "skipped", "skipped", "running"]
        assert len(bench.events("run.skipped")) == 2


async def test_overlap_queue(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10, overlap=Overlap.QUEUE),)) as bench:
        await bench.clock.advance(30)
        assert await bench.states() == ["running", "queued", "queued"]
        for number in range(2):
            await bench.work.let_end(number)
        assert bench.work.slots == ["12:00:10", "12:00:20", "12:00:30"]


async def test_a_queue_does_not_grow_without_end(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(1, overlap=Overlap.QUEUE),)) as bench:
        await bench.clock.advance(110)
        states = await bench.states()
        assert (states.count("running"), states.count("queued"), states.count("skipped")) == (1, 100, 9)


async def test_overlap_replace_ends_the_old_run_first(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10, overlap=Overlap.REPLACE),)) as bench:
        await bench.clock.advance(20)
        assert bench.work.slots == ["12:00:10", "12:00:20"]
        assert bench.work.cancelled == [bench.work.started[0].id]
        assert [(str(run.state), run.reason) for run in await bench.rows()] == [
            ("cancelled", "replaced by the next run"),
            ("running", None),
        ]


async def test_overlap_replace_waits_for_work_that_takes_its_time_to_end(tmp_path: Path) -> None:
    clock = FakeClock()
    going: list[int] = []

    async def stubborn(context: RunContext) -> Outcome:
        going.append(+1)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await clock.sleep(3)
            going.append(-1)
        return Outcome()

    async with running(tmp_path, clock=clock, perform=stubborn, jobs=(every(10, overlap=Overlap.REPLACE),)) as bench:
        await clock.advance(22)
        assert going == [1]
        assert await bench.states() == ["running", "queued"]
        await clock.advance(1)
        assert going == [1, -1, 1]
        assert await bench.states() == ["cancelled", "running"]
        await bench.scheduler.cancel((await bench.rows())[-1].id)
        await clock.advance(4)


async def test_overlap_parallel_up_to_the_jobs_concurrency(tmp_path: Path) -> None:
    job = every(10, overlap=Overlap.PARALLEL, concurrency=2)
    async with running(tmp_path, work=held(), jobs=(job,)) as bench:
        await bench.clock.advance(30)
        assert await bench.states() == ["running", "running", "queued"]
        await bench.work.let_end(1)
        assert await bench.states() == ["running", "ran", "running"]


# Limits


async def test_the_limit_on_all_runs_and_priority(tmp_path: Path) -> None:
    jobs = tuple(every(10, name=name, priority=priority) for name, priority in (("low", -1), ("mid", 0), ("high", 5)))
    async with running(tmp_path, work=held(), jobs=jobs, limits=Limits(overall=1)) as bench:
        await bench.clock.advance(10)
        await bench.work.let_end(0)
        await bench.work.let_end(1)
        assert [run.job for run in bench.work.started] == ["high", "mid", "low"]


async def test_the_limit_on_a_resource_does_not_hold_up_others(tmp_path: Path) -> None:
    jobs = (
        every(10, name="a", resources=("browser",), priority=2),
        every(10, name="b", resources=("browser", "disk"), priority=1),
        every(10, name="c", resources=("disk",)),
    )
    limits = Limits(overall=8, per_resource={"browser": 1})
    async with running(tmp_path, work=held(), jobs=jobs, limits=limits) as bench:
        await bench.clock.advance(10)
        assert [run.job for run in bench.work.started] == ["a", "c"]
        await bench.work.let_end(0)
        assert [run.job for run in bench.work.started] == ["a", "c", "b"]


async def test_a_long_queue_of_one_job_does_not_starve_another(tmp_path: Path) -> None:
    crowd = every(10, name="crowd", overlap=Overlap.QUEUE, priority=9)
    async with running(tmp_path, work=held(), jobs=(crowd, every(1000, name="late"))) as bench:
        await bench.clock.advance(1000)
        assert (await bench.states("crowd")).count("queued") == 99
        assert "late" in [run.job for run in bench.work.started]


# Ends


async def test_a_failure_is_told_in_the_actions_words(tmp_path: Path) -> None:
    async def fail(context: RunContext) -> Outcome:
        context.log("about to fail")
        raise RunFailed("The server 'time' has no tools.", output="partial", details={"calls": 1})

    async with running(tmp_path, perform=fail, jobs=(every(10),)) as bench:
        await bench.clock.advance(10)
        (run,) = await bench.rows()
        record = await bench.scheduler.run_record(run.id)
        assert (run.state, run.error, run.output, run.details) == (
            "failed", "The server 'time' has no tools.", "partial", {"calls": 1},
        )  # fmt: skip
        assert [line.text for line in record.log] == ["about to fail"]
        assert bench.events("run.ended")[0].data["error"] == run.error


async def test_a_defect_of_an_action_fails_its_run_only_and_leaves_its_traceback(tmp_path: Path) -> None:
    async def broken(context: RunContext) -> Outcome:
        async with anyio.create_task_group():
            raise ZeroDivisionError("by zero")
        return Outcome()

    async with running(tmp_path, perform=broken, jobs=(every(10),)) as bench:
        await bench.clock.advance(20)
        run, after = await bench.rows()
        record = await bench.scheduler.run_record(run.id)
        assert (run.state, run.error, after.state) == ("failed", "by zero", "failed")
        assert "ZeroDivisionError: by zero" in record.log[-1].text


async def test_retries_with_growing_pauses_then_success(tmp_path: Path) -> None:
    tries: list[datetime] = []

    async def third_time_lucky(context: RunContext) -> Outcome:
        tries.append(context.run.started_at or datetime.min.replace(tzinfo=UTC))
        if context.run.attempt < 3:
            raise RunFailed("not yet")
        return Outcome(output="done")

    async with running(tmp_path, perform=third_time_lucky, jobs=(every(100, retries=3, retry_backoff=4),)) as bench:
        await bench.clock.advance(130)
        assert [(str(run.state), run.attempt, str(run.trigger)) for run in await bench.rows()] == [
            ("failed", 1, "schedule"), ("failed", 2, "retry"), ("ran", 3, "retry"),
        ]  # fmt: skip
        pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(tries)]
        assert 3 <= pauses[0] <= 5
        assert 6 <= pauses[1] <= 10
        assert len({run.slot for run in await bench.rows()}) == 1


async def test_retries_end(tmp_path: Path) -> None:
    async def fail(context: RunContext) -> Outcome:
        raise RunFailed("never")

    async with running(tmp_path, perform=fail, jobs=(every(1000, retries=2),)) as bench:
        await bench.clock.advance(1500)
        assert await bench.states() == ["failed"] * 3


async def test_the_timeout_ends_the_work(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(100, timeout=7),)) as bench:
        await bench.clock.advance(106.9)
        assert bench.work.cancelled == []
        await bench.clock.advance(0.1)
        assert bench.work.cancelled == [bench.work.started[0].id]
        (run,) = await bench.rows()
        assert (run.state, run.reason) == ("failed", "timeout")
        assert "timeout of 7 s" in (run.error or "")


async def test_progress_holds_off_the_idle_timeout_and_no_longer(tmp_path: Path) -> None:
    clock = FakeClock()

    async def three_steps(context: RunContext) -> Outcome:
        for step in range(3):
            await clock.sleep(4)
            context.progress(f"step {step}")
        await anyio.sleep_forever()
        return Outcome()

    async with running(tmp_path, clock=clock, perform=three_steps, jobs=(every(100, idle_timeout=5),)) as bench:
        await clock.advance(116.9)
        assert await bench.states() == ["running"]
        await clock.advance(0.1)
        (run,) = await bench.rows()
        assert (run.state, run.reason) == ("failed", "idle_timeout")
        record = await bench.scheduler.run_record(run.id)
        assert [line.text for line in record.log] == ["step 0", "step 1", "step 2"]
        assert [event.data["text"] for event in bench.events("run.progress")] == ["step 0", "step 1", "step 2"]


async def test_what_a_run_says_is_kept_while_it_goes_on_and_when_it_is_ended(tmp_path: Path) -> None:
    said = "one\n"

    async def talk(context: RunContext) -> Outcome:
        context.output_so_far = lambda: said
        context.log("up")
        await anyio.sleep_forever()
        return Outcome()

    async with running(tmp_path, perform=talk, jobs=(every(10, timeout=60),)) as bench:
        await bench.clock.advance(12)
        (run,) = await bench.rows()
        record = await bench.scheduler.run_record(run.id)
        assert (str(run.state), run.output, [line.text for line in record.log]) == ("running", "one\n", ["up"])
        said = "two\n" * 1_000
        await bench.clock.advance(58)
        record = await bench.scheduler.run_record(run.id)
        assert (str(record.run.state), record.run.reason, record.output) == ("failed", "timeout", said)
        assert [line.text for line in record.log] == ["up"]


async def test_a_draft_that_comes_after_the_end_changes_nothing(tmp_path: Path) -> None:
    async def talk(context: RunContext) -> Outcome:
        context.log("up")
        return Outcome(output="done")

    async with running(tmp_path, perform=talk, jobs=(every(10),)) as bench:
        await bench.clock.advance(10)
        (run,) = await bench.rows()
        late = Draft(run=run.id, fence=1, size=1, output="half done", log=())
        await RunStore(bench.database).keep_drafts([late])
        record = await bench.scheduler.run_record(run.id)
        assert (record.output, record.run.output, [line.text for line in record.log]) == ("done", "done", ["up"])


async def test_cancel_ends_the_work_of_a_running_run(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10, retries=5),)) as bench:
        await bench.clock.advance(10)
        await bench.scheduler.cancel(bench.work.started[0].id)
        await settle()
        assert bench.work.cancelled == [bench.work.started[0].id]
        (run,) = await bench.rows()
        assert (run.state, run.reason) == ("cancelled", "cancelled by hand")


async def test_cancel_of_a_waiting_run_and_of_one_that_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10, overlap=Overlap.QUEUE),)) as bench:
        await bench.clock.advance(20)
        first, waiting = await bench.rows()
        assert (await bench.scheduler.cancel(waiting.id)).state == "cancelled"
        await bench.work.let_end(0)
        assert (await bench.scheduler.cancel(first.id)).state == "ran"
        assert await bench.states() == ["ran", "cancelled"]
        with pytest.raises(UnknownRun):
            await bench.scheduler.cancel("nonsense")


async def test_work_that_does_not_end_is_reported_and_keeps_its_place(tmp_path: Path) -> None:
    let_go = anyio.Event()

    async def deaf(context: RunContext) -> Outcome:
        with anyio.CancelScope(shield=True):
            await let_go.wait()
        return Outcome()

    async with running(tmp_path, perform=deaf, jobs=(every(10, timeout=5),)) as bench:
        await bench.clock.advance(76)
        assert [event.data["seconds"] for event in bench.events("run.stuck")] == [30, 60]
        assert (await bench.states())[0] == "running"
        let_go.set()
        await settle()
        assert (await bench.states())[0] == "failed"


async def test_a_large_output_is_kept_whole_in_the_record_and_short_in_the_list(tmp_path: Path) -> None:
    async def talk(context: RunContext) -> Outcome:
        return Outcome(output="ab\0\ud800" + "x" * 50_000, details={"tokens": 3})

    async with running(tmp_path, perform=talk, jobs=(every(10),)) as bench:
        await bench.clock.advance(10)
        (run,) = await bench.rows()
        record = await bench.scheduler.run_record(run.id)
        assert len(run.output or "") == 2_000
        assert record.output == "ab\N{REPLACEMENT CHARACTER}?" + "x" * 50_000
        assert record.run.details == {"tokens": 3}


async def test_slots_that_are_skipped_behind_a_run_that_hangs_do_not_pile_up(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(1),), limits=Limits(history=30)) as bench:
        await bench.clock.advance(200)
        states = await bench.states()
        assert states[0] == "running"
        assert 30 <= states.count("skipped") < 60


async def test_slots_that_are_skipped_do_not_push_the_runs_out_of_the_history(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(1),), limits=Limits(history=30)) as bench:
        for number in range(25):
            await bench.clock.advance(1)
            await bench.work.let_end(number)
        await bench.clock.advance(200)
        states = await bench.states()
        assert states.count("ran") == 25
        assert 30 <= states.count("skipped") < 60


async def test_history_keeps_the_newest_and_pages(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(1),), limits=Limits(history=30)) as bench:
        await bench.clock.advance(100)
        rows = await bench.rows()
        assert 30 <= len(rows) < 60
        assert rows[-1].slot == bench.clock.now()
        page = await bench.scheduler.runs(limit=10)
        following = await bench.scheduler.runs(limit=10, before=page[-1].id)
        assert [run.id for run in (*page, *following)] == [run.id for run in reversed(rows)][:20]
        assert await bench.scheduler.runs("tick", RunState.FAILED) == ()


# After a tick


async def test_the_sweep_comes_when_all_runs_of_a_tick_have_ended(tmp_path: Path) -> None:
    sweeps: list[int] = []
    work = held()

    async def sweep() -> None:
        sweeps.append(len(work.ended))

    jobs = (every(10, name="a"), every(10, name="b"), every(15, name="c"))
    async with running(tmp_path, work=work, jobs=jobs, after_tick=sweep) as bench:
        await bench.clock.advance(10)
        await work.let_end(0)
        assert sweeps == []
        await bench.clock.advance(5)  # Another tick starts and ends while b still runs.
        await work.let_end(2)
        assert sweeps == [2]
        await work.let_end(1)
        assert sweeps == [2, 3]


async def test_a_sweep_that_fails_does_not_stop_the_jobs(tmp_path: Path) -> None:
    async def sweep() -> None:
        raise OSError("no such thing")

    async with running(tmp_path, jobs=(every(10),), after_tick=sweep) as bench:
        await bench.clock.advance(30)
        assert len(bench.work.ended) == 3


# Drain


async def test_drain_lets_runs_end_and_starts_no_more(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10, name="a"), every(15, name="b"))) as bench:
        await bench.clock.advance(10)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.scheduler.drain, 60)
            await bench.clock.advance(20)
            await bench.work.let_end(0)
        assert await bench.states() == ["ran"]


async def test_drain_ends_what_takes_too_long_and_the_next_start_runs_it_again(tmp_path: Path) -> None:
    clock = FakeClock()
    job = every(HOUR, on_interrupted=OnInterrupted.RERUN)
    async with running(tmp_path, clock=clock, work=held(), jobs=(job,)) as bench:
        await clock.advance(HOUR)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.scheduler.drain, 60)
            await clock.advance(61)
        (run, again) = await bench.rows()
        assert (run.state, run.reason, again.state) == ("interrupted", "the gateway was stopped", "queued")
    async with running(tmp_path, clock=clock) as bench:
        assert bench.work.slots == ["13:00:00"]
        assert await bench.states() == ["interrupted", "ran"]


async def test_being_cancelled_ends_the_runs_and_records_them(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running(tmp_path, clock=clock, work=held(), jobs=(every(10),)) as bench:
        await clock.advance(10)
        work = bench.work
    assert work.cancelled == [work.started[0].id]
    async with running(tmp_path, clock=clock) as bench:
        assert await bench.states() == ["interrupted"]


# Jobs


async def test_a_reload_touches_only_what_changed(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        jobs = [every(10, name="same"), every(10, name="other"), every(10, name="gone")]
        await bench.scheduler.replace_config_jobs(jobs)
        await bench.scheduler.pause("same")
        await bench.scheduler.put_job(every(5, name="mine", origin=Origin.RUNTIME))
        changes = await bench.scheduler.replace_config_jobs(
            [jobs[0], replace(jobs[1], timeout=3.0), every(7, name="new")]
        )
        assert (changes.added, changes.changed, changes.removed) == (("new",), ("other",), ("gone",))
        statuses = {status.job.name: status.job for status in await bench.scheduler.jobs()}
        assert sorted(statuses) == ["mine", "new", "other", "same"]
        assert statuses["same"].paused
        assert statuses["other"].timeout == 3
        assert (
            await bench.scheduler.replace_config_jobs([jobs[0], replace(jobs[1], timeout=3.0), every(7, name="new")])
        ).changed == ()


async def test_config_and_runtime_jobs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.scheduler.replace_config_jobs([every(10, name="a")])
        await bench.scheduler.put_job(every(10, name="b", origin=Origin.RUNTIME))
        with pytest.raises(UsageError, match="stands in the config file"):
            await bench.scheduler.put_job(every(20, name="a", origin=Origin.RUNTIME))
        with pytest.raises(UsageError, match="added at run time"):
            await bench.scheduler.replace_config_jobs([every(10, name="a"), every(10, name="b")])
        with pytest.raises(UsageError, match="stands in the config file"):
            await bench.scheduler.remove_job("a")


async def test_a_job_that_is_removed_leaves_its_history(tmp_path: Path) -> None:
    job = every(10, overlap=Overlap.QUEUE, origin=Origin.RUNTIME)
    async with running(tmp_path, work=held(), jobs=(job,)) as bench:
        await bench.clock.advance(20)
        await bench.scheduler.remove_job("tick")
        await bench.work.let_end(0)
        await bench.clock.advance(60)
        assert [(str(run.state), run.reason) for run in await bench.rows()] == [
            ("ran", None), ("cancelled", "the job was removed"),
        ]  # fmt: skip
        with pytest.raises(UnknownJob):
            await bench.scheduler.remove_job("tick")


async def test_run_now(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(Job(name="by hand"),)) as bench:
        first = await bench.scheduler.run_now("by hand")
        await settle()
        second = await bench.scheduler.run_now("by hand")
        await settle()
        assert [run.id for run in bench.work.started] == [first.id]
        await bench.work.let_end(0)
        assert [run.id for run in bench.work.started] == [first.id, second.id]
        assert {run.trigger for run in await bench.rows()} == {"manual"}
        with pytest.raises(UnknownJob, match="The jobs are: by hand"):
            await bench.scheduler.run_now("nobody")


async def test_a_job_is_shown_with_what_it_does_now_and_did_last(tmp_path: Path) -> None:
    async with running(tmp_path, work=held(), jobs=(every(10),)) as bench:
        await bench.clock.advance(10)
        await bench.work.let_end(0)
        await bench.clock.advance(10)
        (status,) = await bench.scheduler.jobs()
        assert [str(run.state) for run in status.active] == ["running"]
        assert status.last is not None
        assert status.last.id == bench.work.started[0].id
        assert status.next_at == bench.clock.now() + timedelta(seconds=10)


async def test_every_run_is_told_from_its_start_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, jobs=(every(10),)) as bench:
        await bench.clock.advance(10)
        kinds = [event.kind for event in bench.journal.since(0)]
        assert kinds == ["job.added", "run.started", "run.ended"]
        ended = bench.journal.since(0)[-1]
        assert ended.subject == "tick"
        assert ended.data["state"] == "ran"
        assert ended.data["output"] == "did tick"
