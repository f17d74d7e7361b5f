"""Several gateways on one database, gateways that die, freeze or lose their disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from databases import database_at
from fake_clock import FakeClock, wait_until
from scheduling import Work, every, running
from sexton.database import Database, DatabaseError, Failure
from sexton.scheduler import Limits, OnInterrupted, Overlap, RunState, RunStore
from sexton.scheduler.gateways import LEASE, Beats, Gateway, is_gone, this_gateway
from small_disk import fill, small_disk

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]


def gateway(beat: int = 0) -> Gateway:
    return Gateway(id="other", name="other", process={}, beat=beat)


# Who is dead


def test_a_gateway_whose_beat_goes_on_is_alive() -> None:
    beats = Beats()
    for number in range(20):
        assert beats.observe([gateway(number)], at=number * 10.0) == ()


def test_a_gateway_whose_beat_stands_still_for_a_lease_is_dead() -> None:
    beats = Beats()
    assert beats.observe([gateway(7)], at=100.0) == ()
    assert beats.observe([gateway(7)], at=100.0 + LEASE) == ()
    assert beats.observe([gateway(7)], at=100.1 + LEASE) == ("other",)


def test_time_in_which_we_could_not_beat_ourselves_does_not_count() -> None:
    beats = Beats()
    beats.observe([gateway(7)], at=100.0)
    beats.forget()
    assert beats.observe([gateway(7)], at=200.0) == ()


def test_a_process_that_has_ended_is_gone_and_a_living_one_is_not() -> None:
    program = "import sys; print('!', end='', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        here = this_gateway("here")
        assert child.stdout.read(1)
        started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        other = replace(gateway(), process={**here.process, "pid": child.pid, "started": started})
        assert not is_gone(other, here)
        assert not is_gone(here, here)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(other, here)  # Its parent has not asked for its status yet: a zombie runs nothing.
    assert is_gone(other, here)


def test_a_pid_that_was_given_to_another_process_is_gone() -> None:
    here = this_gateway("here")
    assert is_gone(replace(gateway(), process={**here.process, "started": "1"}), here)


@pytest.mark.parametrize("key", ["boot", "pid_namespace"])
def test_nothing_is_said_of_processes_that_cannot_be_seen_from_here(key: str) -> None:
    here = this_gateway("here")
    elsewhere = {**here.process, "pid": 2**22 + 1, key: "another"}
    assert not is_gone(replace(gateway(), process=elsewhere), here)
    unknown = {**here.process, "pid": 2**22 + 1, key: None}
    assert not is_gone(replace(gateway(), process=unknown), replace(here, process={**here.process, key: None}))


# Two gateways


async def test_two_gateways_run_each_slot_once(tmp_path: Path) -> None:
    clock = FakeClock()
    jobs = tuple(every(10, name=name) for name in "abc")
    async with (
        running(tmp_path, clock=clock, jobs=jobs, node="one") as one,
        running(tmp_path, clock=clock, node="two") as two,
    ):
        await clock.advance(100)
        slots = Counter((run.job, run.slot) for run in (*one.work.started, *two.work.started))
        assert len(slots) == 30
        assert set(slots.values()) == {1}
        assert Counter(await one.states()) == {"ran": 30}


async def test_gateways_in_threads_of_their_own_run_each_slot_once(tmp_path: Path) -> None:
    """Real worker threads and connections, so that their transactions meet."""
    clock = FakeClock()
    jobs = tuple(every(5, name=f"job-{number}") for number in range(8))

    async with anyio.create_task_group() as stack:
        benches = []
        ready = anyio.Event()
        done = anyio.Event()

        async def one_gateway(name: str) -> None:
            async with running(
                tmp_path, clock=clock, node=name, database=lambda path: Database.open(database_at(path))
            ) as bench:
                benches.append(bench)
                if len(benches) == 3:
                    ready.set()
                await done.wait()

        async with running(tmp_path, clock=clock, jobs=jobs):
            pass
        for name in ("one", "two", "three"):
            stack.start_soon(one_gateway, name)
        await ready.wait()
        for number in range(1, 6):
            await clock.advance(5)
            await wait_until(lambda number=number: sum(len(b.events("run.ended")) for b in benches) >= 8 * number)  # type: ignore[misc]
        slots = Counter((run.job, run.slot) for bench in benches for run in bench.work.started)
        assert len(slots) == 40
        assert set(slots.values()) == {1}
        done.set()


async def test_a_jobs_limit_counts_over_all_gateways(tmp_path: Path) -> None:
    clock = FakeClock()
    job = every(10, overlap=Overlap.PARALLEL, concurrency=2)
    async with (
        running(tmp_path, clock=clock, work=Work(hold=True), jobs=(job,), node="one") as one,
        running(tmp_path, clock=clock, work=Work(hold=True), node="two") as two,
    ):
        await clock.advance(50)
        assert len(one.work.started) + len(two.work.started) == 2
        assert Counter(await one.states()) == {"running": 2, "queued": 3}


async def test_a_cancel_reaches_the_gateway_that_runs_it(tmp_path: Path) -> None:
    clock = FakeClock()
    async with running(tmp_path, clock=clock, work=Work(hold=True), jobs=(every(100),), node="one") as one:
        await clock.advance(100)
        async with running(tmp_path, clock=clock, node="two") as two:
            await two.scheduler.cancel(one.work.started[0].id)
            await clock.advance(5)
            assert one.work.cancelled == [one.work.started[0].id]
            assert await two.states() == ["cancelled"]


async def test_a_frozen_gateway_is_taken_for_dead_and_ends_its_work_when_it_comes_back(tmp_path: Path) -> None:
    """Its clock stands still while the other's goes on, as if it had been stopped with SIGSTOP."""
    frozen, clock = FakeClock(), FakeClock()
    job = every(3600, on_interrupted=OnInterrupted.RERUN)
    async with running(tmp_path, clock=frozen, work=Work(hold=True), jobs=(job,), node="one") as one:
        await frozen.advance(3600)
        await clock.advance(3600)
        async with running(tmp_path, clock=clock, node="two") as two:
            await clock.advance(15)
            assert await two.states() == ["running"]
            await clock.advance(10)
            assert await two.states() == ["interrupted", "ran"]
            assert [run.attempt for run in two.work.started] == [2]
            assert one.work.cancelled == []
            await frozen.advance(5)
            assert one.work.cancelled == [one.work.started[0].id]
            assert len(one.events("run.lost")) == 1
            assert await two.states() == ["interrupted", "ran"]


async def test_a_wall_clock_that_jumps_takes_nobody_for_dead(tmp_path: Path) -> None:
    clock, jumping = FakeClock(), FakeClock()
    async with (
        running(tmp_path, clock=clock, work=Work(hold=True), jobs=(every(3600),), node="one") as one,
        running(tmp_path, clock=jumping, work=Work(hold=True), node="two"),
    ):
        await clock.advance(3600)
        for _ in range(8):
            jumping.jump(600)
            await clock.advance(5)
            await jumping.advance(5)
        assert (await one.rows())[0].state is RunState.RUNNING
        assert one.work.cancelled == []


# A disk that fills


@pytest.mark.sqlite_only("the disk is that of the file")
async def test_a_disk_that_fills_stops_no_run_and_forgets_no_end(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=2000) as disk:
        async with running(disk, work=Work(hold=True), jobs=(every(100), every(10, name="other"))) as bench:
            await bench.clock.advance(100)
            (number,) = (index for index, run in enumerate(bench.work.started) if run.job == "tick")
            ballast = fill(disk)
            await bench.work.let_end(number)
            await bench.clock.advance(60)
            assert len(bench.work.ended) == 1
            failures = bench.events("database.failing")
            assert [event.data["failure"] for event in failures] == ["full"]
            assert "free space" in str(failures[0].data["hint"])
            ballast.unlink()
            await bench.clock.advance(30)
            (run,) = await bench.rows("tick")
            assert run.state is RunState.RAN
            assert len(bench.events("database.recovered")) == 1


async def test_a_gateway_without_its_disk_takes_nobody_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails between a beat of the one and a beat of the other, and is back before the one's next."""
    clock = FakeClock()
    jobs = (every(100, name="a"), every(100, name="b"))
    one_each = Limits(overall=1)

    async def no_room(store: RunStore, gateway_id: str) -> bool:
        raise DatabaseError(Failure.FULL, "The disk is full.", hint="free space there")

    async with running(tmp_path, clock=clock, work=Work(hold=True), jobs=jobs, limits=one_each, node="one") as one:
        await clock.advance(2)
        async with running(tmp_path, clock=clock, work=Work(hold=True), limits=one_each, node="two") as two:
            await clock.advance(104)
            assert (len(one.work.started), len(two.work.started)) == (1, 1)
            with monkeypatch.context() as full:
                full.setattr(RunStore, "beat", no_room)
                await clock.advance(62.5)
            assert one.events("database.failing")
            await clock.advance(30)
            assert one.events("database.recovered")
            assert await one.states() == ["running", "running"]
            assert one.work.cancelled == two.work.cancelled == []
