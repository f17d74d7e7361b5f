"""Gateways as processes of their own on one database, on the real clock, and SIGKILL in the middle of runs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from fake_clock import wait_until
from sexton.clock import SystemClock
from sexton.database import Database
from sexton.journal import Journal
from sexton.scheduler import Every, Job, OnInterrupted, Outcome, Run, RunContext, RunState, RunStore, Scheduler
from waiting import PATIENCE

pytestmark = pytest.mark.anyio
PROGRAM = Path(__file__).with_name("scheduler_program.py")
SECOND = timedelta(seconds=1)


class Gateways:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.effects = folder / "effects"
        self._database = folder / "sexton.db"
        self._stack = stack

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROGRAM), str(self._database), str(self.effects)]
        process = self._stack.enter_context(subprocess.Popen(command))
        self._stack.callback(process.kill)
        return process

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.effects.read_text().splitlines()] if self.effects.exists() else []


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    with ExitStack() as stack:
        yield Gateways(tmp_path, stack)


@asynccontextmanager
async def looking_on(folder: Path) -> AsyncIterator[Scheduler]:
    """A scheduler that runs nothing."""

    async def nothing(context: RunContext) -> Outcome:
        raise AssertionError("it does not run")

    async with Database.open(folder / "sexton.db") as database:
        yield Scheduler(RunStore(database), nothing, clock=SystemClock(), journal=Journal.open())


async def test_each_slot_runs_once_in_three_processes_one_of_which_is_killed(
    gateways: Gateways, tmp_path: Path
) -> None:
    async with looking_on(tmp_path) as onlooker:
        for number in range(4):
            await onlooker.put_job(Job(name=f"quick-{number}", schedule=Every(seconds=1)))
        processes = [gateways.start() for _ in range(3)]
        await wait_until(lambda: len(gateways.lines()) >= 8, seconds=PATIENCE)
        victim = int(gateways.lines()[-1][3])
        next(process for process in processes if process.pid == victim).kill()
        seen = len(gateways.lines())
        await wait_until(lambda: len(gateways.lines()) >= seen + 12, seconds=PATIENCE)
        for process in processes:
            process.kill()
            process.wait()
        effects = Counter((job, slot) for job, slot, _, _ in gateways.lines())
        assert set(effects.values()) == {1}
        for number in range(4):
            rows = sorted(
                await onlooker.runs(f"quick-{number}", limit=1_000), key=lambda run: run.slot or run.created_at
            )
            assert_without_gap(rows)
            performed = {run.slot.isoformat() for run in rows if run.slot and run.started_at}
            assert {slot for job, slot in effects if job == f"quick-{number}"} <= performed


def assert_without_gap(rows: list[Run]) -> None:
    """Every slot of a job that comes each second has its row, or is within the one row of a stretch."""
    for earlier, later in pairwise(rows):
        assert earlier.slot is not None
        assert (earlier.slot_end or earlier.slot) + SECOND == later.slot


async def test_what_a_killed_gateway_was_running_is_settled_at_the_next_start(
    gateways: Gateways, tmp_path: Path
) -> None:
    """At once, without waiting for a lease to run out: its process is seen to be gone."""
    async with looking_on(tmp_path) as onlooker:
        await onlooker.put_job(Job(name="long", on_interrupted=OnInterrupted.RECORD))
        await onlooker.put_job(Job(name="long-again", on_interrupted=OnInterrupted.RERUN))
        for name in ("long", "long-again"):
            await onlooker.run_now(name)
        first = gateways.start()
        await wait_until(lambda: len(gateways.lines()) == 2, seconds=PATIENCE)
        with anyio.fail_after(PATIENCE):
            while any(run.output is None for run in await onlooker.runs()):  # noqa: ASYNC110 - another process writes it
                await anyio.sleep(0.05)
        first.kill()
        first.wait()
        assert {run.state for run in await onlooker.runs()} == {RunState.RUNNING}
        gateways.start()
        await wait_until(lambda: len(gateways.lines()) == 3, seconds=PATIENCE)
        assert gateways.lines()[2][:3] == ["long-again", "by-hand", "2"]
        (cut_off,) = await onlooker.runs("long")
        record = await onlooker.run_record(cut_off.id)
        assert (str(cut_off.state), cut_off.output) == ("interrupted", "half done")
        assert (record.output, [line.text for line in record.log]) == ("half done", ["it goes on for ever"])
        assert [str(run.state) for run in await onlooker.runs("long-again")] == ["running", "interrupted"]
