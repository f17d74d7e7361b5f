"""How late runs start, and what an idle scheduler costs, at a given number of jobs.

    python benchmarks/schedule.py [--jobs 10 10000] [--seconds 20]

Slot to start: one job every second among the given number of jobs that are not due, real clock, real database file;
the time from the slot to the first line of the action.  Idle tick: the read that asks what is due, in the database's
thread, as often as it goes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import anyio

from sexton.clock import SystemClock
from sexton.database import Database
from sexton.journal import Journal
from sexton.scheduler import Cron, Every, Job, Outcome, RunContext, RunStore, Scheduler


async def measure(folder: Path, jobs: int, seconds: float) -> None:
    late: list[float] = []

    async def perform(context: RunContext) -> Outcome:
        assert context.run.slot is not None
        late.append((datetime.now(UTC) - context.run.slot).total_seconds() * 1000)
        return Outcome()

    async with Database.open(folder / f"{jobs}.db") as database:
        store = RunStore(database)
        scheduler = Scheduler(store, perform, clock=SystemClock(), journal=Journal.open(), node="bench")
        await scheduler.replace_config_jobs(
            [Job(name=f"idle-{number}", schedule=Cron(expression="0 0 1 1 *")) for number in range(jobs - 1)]
        )
        await scheduler.put_job(Job(name="second", schedule=Every(seconds=1)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scheduler.run)
            await anyio.sleep(seconds)
            tasks.cancel_scope.cancel()
        await scheduler.replace_config_jobs(
            [Job(name=f"idle-{number}", schedule=Cron(expression="0 0 1 1 *")) for number in range(jobs)]
        )
        cpu = time.process_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scheduler.run)
            await anyio.sleep(seconds)
            tasks.cancel_scope.cancel()
        cpu = (time.process_time() - cpu) / seconds
        rounds = 500
        started = time.perf_counter()
        for _ in range(rounds):
            await store.outlook("bench")
        tick = (time.perf_counter() - started) / rounds * 1000
    late.sort()
    print(
        f"{jobs} jobs: slot to start p50 {statistics.median(late):.1f} ms, max {late[-1]:.1f} ms, min {late[0]:.1f} ms "
        f"({len(late)} runs); idle tick {tick:.3f} ms; idle cpu {cpu * 100:.2f} %; "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="*", default=[10, 10_000])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    print(f"{os.uname().machine}, {os.cpu_count()} cores, Linux {os.uname().release}")
    with tempfile.TemporaryDirectory() as folder:
        for jobs in options.jobs:
            anyio.run(measure, Path(folder), jobs, options.seconds)


if __name__ == "__main__":
    main()
