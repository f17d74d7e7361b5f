"""When a node ends its work by itself, and when others may settle it: never the second before the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_clock import FakeClock, settle
from scheduling import Work, every, running
from sexton.daemon.node import last_resort, place_of
from sexton.database import DatabaseError, Failure
from sexton.scheduler import OnInterrupted, Outcome, RunContext, RunFailed, RunState, RunStore
from sexton.scheduler.claim import Claimer
from sexton.scheduler.gateways import GONE_FOR, Beats, Gateway, this_gateway
from sexton.scheduler.lease import (
    BEAT_EVERY,
    ENDED_FOR_US_AFTER,
    GIVE_UP_AFTER,
    KILL_AFTER,
    ONE_MACHINE,
    SEVERAL_MACHINES,
    Hold,
)
from sexton.scheduler.node_rows import Pulse
from sexton.scheduler.run_task import CUT_OFF

SECONDS = st.integers(0, 10_000)
# SIGKILL after the fence and the proof that nothing is left; and far more than any two clocks differ.
ENDED_WITHIN = KILL_AFTER + 10.0
DRIFT = 0.02


@given(sent=SECONDS, committed=st.integers(0, 60), seen=st.integers(0, 30), shift=st.integers(-1000, 1000))
def test_a_node_has_ended_its_work_before_others_may_settle_it(
    sent: int, committed: int, seen: int, shift: int
) -> None:
    """Whatever time the last beat took to the database, and from there to the one who watches it."""
    times = SEVERAL_MACHINES
    assert times.fence_after is not None
    hold = Hold(times, now=sent)
    hold.renewed(sent)
    ended_by_itself = sent + (hold.left(sent) + ENDED_WITHIN) * (1 + DRIFT)
    beats, here, other = Beats(times), this_gateway("here"), Gateway(id="other", name="other", process={})
    first_seen = sent + committed + seen
    assert beats.dead([other], here, at=first_seen + shift) == ()
    assert beats.dead([other], here, at=first_seen + shift + times.settle_after) == ()
    may_be_settled = first_seen + times.settle_after * (1 - DRIFT)
    assert ended_by_itself < may_be_settled


def test_a_minute_without_the_database_ends_no_work() -> None:
    """The last beat may have been sent a whole interval before, and the next takes a while to be answered."""
    hold = Hold(SEVERAL_MACHINES, now=0.0)
    assert hold.left(60.0 + BEAT_EVERY + 5.0) > 0


def test_on_one_machine_a_beat_that_is_late_ends_nothing() -> None:
    assert Hold(ONE_MACHINE, now=0.0).left(1e9) > 0


def test_a_process_that_is_gone_is_settled_once_its_trees_have_had_their_time() -> None:
    beats, here = Beats(SEVERAL_MACHINES), this_gateway("here", place="a")
    other = Gateway(id="other", name="other", process={**here.process, "place": "b", "started": "1"})
    assert beats.dead([other], here, at=0.0) == ()
    assert beats.dead([other], here, at=GONE_FOR - 0.1) == ()
    assert beats.dead([other], here, at=GONE_FOR) == (other,)


def test_who_had_our_data_folder_is_gone_also_after_the_machine_was_started_anew() -> None:
    beats, here = Beats(SEVERAL_MACHINES), this_gateway("here", place="a")
    before = Gateway(id="before", name="here", process={**here.process, "boot": "an earlier one"})
    elsewhere = replace(before, id="elsewhere", process={**before.process, "place": "b"})
    assert beats.dead([before, elsewhere], here, at=0.0) == ()
    assert beats.dead([before, elsewhere], here, at=15.1) == (before,)


def test_a_copy_of_our_data_folder_that_beats_is_alive() -> None:
    beats, here = Beats(SEVERAL_MACHINES), this_gateway("here", place="a")
    for number in range(100):
        copy = Gateway(id="copy", name="here", process={**here.process, "boot": "another"}, beat=number)
        assert beats.dead([copy], here, at=number * BEAT_EVERY) == ()


class Link:
    """Between a node and the database; cut by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut_for: set[str] = set()
        whole = RunStore.beat

        async def beat(store: RunStore, claimer: Claimer) -> object:
            if claimer.gateway.name in self.cut_for:
                raise DatabaseError(Failure.OTHER, "The database cannot be reached.", hint="wait")
            return await whole(store, claimer)

        monkeypatch.setattr(RunStore, "beat", beat)


@pytest.mark.anyio
async def test_a_node_that_is_cut_off_ends_its_work_before_another_does_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, clock = Link(monkeypatch), FakeClock()
    job = every(3600, on_interrupted=OnInterrupted.RERUN)
    killed: list[float] = []
    far = {"place": "one"}
    async with running(
        tmp_path,
        clock=clock,
        work=Work(hold=True),
        jobs=(job,),
        node="one",
        lease=SEVERAL_MACHINES,
        on_cut_off=lambda: killed.append(clock.monotonic()),
        process=far,
    ) as one:
        await clock.advance(3600)
        async with running(tmp_path, clock=clock, node="two", lease=SEVERAL_MACHINES) as two:
            await clock.advance(5)
            link.cut_for.add("one")
            await clock.advance(60)
            assert one.work.cancelled == []
            await clock.advance(16)
            assert one.work.cancelled == [one.work.started[0].id]
            assert two.work.started == []
            await clock.advance(40)
            assert killed
            assert [run.attempt for run in two.work.started] == [2]
            assert [event.kind for event in one.events("node.cut_off", "node.back")] == ["node.cut_off"]
            link.cut_for.clear()
            await clock.advance(10)
            assert [event.kind for event in one.events("node.cut_off", "node.back")] == ["node.cut_off", "node.back"]
            await clock.advance(3600)
            assert await two.states() == [RunState.INTERRUPTED, RunState.RAN, RunState.RUNNING]


@pytest.mark.anyio
async def test_a_beat_that_was_on_its_way_for_too_long_brings_nobody_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the last resort, which looks at when a beat was begun, would end a gateway that has ended its work."""
    clock, held, beat = FakeClock(), anyio.Event(), RunStore.beat

    async def slow_beat(store: RunStore, claimer: Claimer) -> Pulse:
        pulse = await beat(store, claimer)
        await held.wait()
        return pulse

    async with running(tmp_path, clock=clock, node="one", lease=SEVERAL_MACHINES) as one:

        def has_given_up() -> bool:
            return one.scheduler.hold.is_given_up

        await clock.advance(10)
        monkeypatch.setattr(RunStore, "beat", slow_beat)
        await clock.advance(200)
        assert has_given_up()
        held.set()
        await settle()
        assert has_given_up()
        assert one.events("node.back") == []
        await clock.advance(10)
        assert not has_given_up()
        assert len(one.events("node.back")) == 1


@pytest.mark.anyio
async def test_a_database_that_is_away_for_a_minute_ends_no_work_and_settles_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, clock = Link(monkeypatch), FakeClock()
    async with (
        running(
            tmp_path,
            clock=clock,
            work=Work(hold=True),
            jobs=(every(3600),),
            node="one",
            lease=SEVERAL_MACHINES,
            process={"place": "one"},
        ) as one,
        running(tmp_path, clock=clock, work=Work(hold=True), node="two", lease=SEVERAL_MACHINES) as two,
    ):
        await clock.advance(3600)
        link.cut_for.update({"one", "two"})
        await clock.advance(60)
        link.cut_for.clear()
        await clock.advance(100)
        assert await two.states() == [RunState.RUNNING]
        assert one.work.cancelled == two.work.cancelled == []
        assert one.events("node.cut_off") == two.events("node.cut_off") == []
        await settle()


@pytest.mark.anyio
async def test_somebody_else_is_told_with_each_beat_when_to_end_our_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later than we end it ourselves; and not at all when we have, since what is begun then is under no claim."""
    link, clock, told = Link(monkeypatch), FakeClock(), list[float | None]()
    for_us = 75.0 + ENDED_FOR_US_AFTER

    def newest() -> float | None:
        return told[-1]

    async with running(tmp_path, clock=clock, node="one", lease=SEVERAL_MACHINES, keep_until=told.append):
        await clock.advance(BEAT_EVERY)
        assert newest() == clock.monotonic() + for_us
        last = newest()
        assert last is not None
        link.cut_for.add("one")
        await clock.advance(75 + KILL_AFTER - BEAT_EVERY)
        assert newest() == last
        await clock.advance(2 * BEAT_EVERY)
        assert newest() is None
        link.cut_for.clear()
        await clock.advance(BEAT_EVERY)
        assert (newest() or 0) > last
    assert newest() is None
    assert KILL_AFTER < ENDED_FOR_US_AFTER < GIVE_UP_AFTER


@pytest.mark.anyio
async def test_what_was_ended_for_us_while_we_were_stopped_did_not_fail(tmp_path: Path) -> None:
    """Its processes are gone when we go on, and that is noticed before our fence is."""
    clock, gone = FakeClock(), anyio.Event()
    stood_still = [0.0]

    async def perform(context: RunContext) -> Outcome:
        await gone.wait()
        raise RunFailed("its processes were ended")

    def uptime() -> float:
        return clock.monotonic() + stood_still[0]

    jobs = (every(3600),)
    async with running(
        tmp_path, clock=clock, perform=perform, lease=SEVERAL_MACHINES, uptime=uptime, jobs=jobs
    ) as bench:
        await clock.advance(3600)
        assert await bench.states() == [RunState.RUNNING]
        stood_still[0] = 200.0
        gone.set()
        await settle()
        (run,) = await bench.scheduler.runs()
        assert (run.state, run.reason) == (RunState.INTERRUPTED, CUT_OFF.reason)


def looks_of_last_resort(*moments: float) -> int:
    """How often it looked, at those moments one after the other, until it gave up; 0 if it did not."""
    left, looks, gave_up, over = list(moments), list[float](), Event(), Event()
    looked = [0]

    def read() -> float:
        if not left:
            over.set()
            return looks[-1]
        looks.append(left.pop(0))
        return looks[-1]

    def give_up() -> None:
        looked[0] = len(looks) - 1  # the first was before it began
        gave_up.set()
        over.set()

    with last_resort(Hold(SEVERAL_MACHINES, now=0.0), now=read, every=0.001, give_up=give_up):
        assert over.wait(60)
    return looked[0]


def test_a_gateway_whose_event_loop_hangs_ends_itself() -> None:
    """Nobody ends the work after the fence: the thread does, with the process."""
    assert looks_of_last_resort(84, 88, 91, 91.5, 92) == 3


def test_a_gateway_that_was_stopped_has_time_to_end_its_work() -> None:
    """As much as after the fence."""
    assert looks_of_last_resort(50, 300, 304, 308, 312, 315.9) == 0
    assert looks_of_last_resort(50, 300, 304, 308, 312, 316) == 5
    assert looks_of_last_resort(50, 300, 306, 312, 318) == 4


def test_a_gateway_that_has_ended_its_work_lives_on() -> None:
    now, asked, gave_up = [200.0], Event(), list[bool]()
    hold = Hold(SEVERAL_MACHINES, now=0.0)
    hold.is_given_up = True

    def read() -> float:
        asked.set()
        return now[0]

    with last_resort(hold, now=read, give_up=lambda: gave_up.append(True)):
        assert asked.wait(60)
    assert gave_up == []
    assert KILL_AFTER + 2.0 < GIVE_UP_AFTER < SEVERAL_MACHINES.settle_after - 75.0 - 10.0


def test_the_place_of_a_data_folder_lasts_and_is_no_other_ones(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert place_of(tmp_path / "one") == place_of(tmp_path / "one") != place_of(tmp_path / "two")
