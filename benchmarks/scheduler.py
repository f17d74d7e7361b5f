"""Slot to start, next to APScheduler; and what a tick costs with 10, 1,000 and 100,000 jobs.

Slot to start: five jobs every second for --seconds, each noting how late it began. Sexton keeps jobs and runs on disk
with `synchronous=FULL`; APScheduler runs once in memory and once with its jobs in SQLite.
Tick: one look at an idle table, and one tick with five due jobs (rows written, runs claimed, synced to disk), among so
many jobs that are not due. It should not grow.

    python -m benchmarks.scheduler [--seconds 40] [--ticks 100] [--sizes 10,1000,100000]
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

from benchmarks.machine import describe_machine
from benchmarks.peers import ROOT, ensure_peers
from benchmarks.report import RESULTS, markdown_table, quantile, say, spread, times, write_csv
from sexton.clock import SystemClock
from sexton.database import Database
from sexton.journal import JSON, Journal
from sexton.scheduler import Every, Job, Limits, Offer, Outcome, RunContext, RunState, RunStore, Scheduler
from sexton.scheduler.claim import Claim, Claimer
from sexton.scheduler.gateways import this_gateway
from sexton.scheduler.rows import RunEnd

DUE = 5
DUE_EVERY = 10.0
FAR = datetime(2100, 1, 1, tzinfo=UTC)
ACTION: dict[str, JSON] = {"kind": "command", "argv": ["true"]}


async def sexton_lateness(seconds: float, folder: Path) -> list[float]:
    """Milliseconds from slot to the first line of the action, for each run."""
    late: list[float] = []

    async def perform(context: RunContext) -> Outcome:
        assert context.run.slot is not None
        late.append((datetime.now(UTC) - context.run.slot).total_seconds() * 1000)
        return Outcome(output="")

    clock = SystemClock()
    async with Database.open(folder / "lateness.db") as database, anyio.create_task_group() as tasks:
        scheduler = Scheduler(RunStore(database), perform, clock=clock, journal=Journal.open(clock=clock))
        for number in range(DUE):
            await scheduler.put_job(Job(name=f"job-{number}", schedule=Every(seconds=1), action=ACTION))
        await tasks.start(scheduler_task, scheduler)
        await anyio.sleep(seconds)
        tasks.cancel_scope.cancel()
    return late


async def scheduler_task(scheduler: Scheduler, *, task_status: "anyio.abc.TaskStatus[None]") -> None:
    """The scheduler, as a task group starts it."""
    await scheduler.run(task_status=task_status)


def peer_lateness(python: Path, store: str, seconds: float) -> list[float]:
    """The same of APScheduler, in its own environment."""
    program = ROOT / "benchmarks/hosts/apscheduler_slots.py"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(python), str(program), store, str(seconds), str(DUE)],
            capture_output=True,
            check=True,
            timeout=seconds + 60,
            cwd=folder,
        )
    return [float(value) for value in json.loads(done.stdout)]


async def tick_costs(jobs: int, ticks: int, folder: Path) -> tuple[list[float], list[float]]:
    """Milliseconds of each idle look and of each tick with DUE due jobs, with `jobs` jobs in all."""
    start = datetime.now(UTC)
    far = [Job(name=f"far-{n}", schedule=Every(seconds=86_400, anchor=FAR), action=ACTION) for n in range(jobs - DUE)]
    soon = [Job(name=f"soon-{n}", schedule=Every(seconds=DUE_EVERY, anchor=start), action=ACTION) for n in range(DUE)]
    idle, busy = [], []
    async with Database.open(folder / f"ticks-{jobs}.db") as database:
        store, gateway = RunStore(database), this_gateway("bench")
        await store.register(gateway, now=start)
        await store.replace_config_jobs([*far, *soon], now=start)
        for number in range(1, ticks + 1):
            began = time.perf_counter()
            await store.outlook(gateway)
            idle.append((time.perf_counter() - began) * 1000)
            now = start + timedelta(seconds=number * DUE_EVERY)
            claimer = Claimer(gateway=gateway, now=now, limits=Limits(), running=(), offer=Offer(name=gateway.name))
            began = time.perf_counter()
            tick = await store.tick(claimer)
            busy.append((time.perf_counter() - began) * 1000)
            await finish_all(store, tick.claims, now)
            if len(tick.claims) != DUE:
                raise RuntimeError(f"{len(tick.claims)} runs claimed in a tick in which {DUE} were due")
    return idle, busy


async def finish_all(store: RunStore, claims: Sequence[Claim], now: datetime) -> None:
    """Write the ends of the runs of a tick."""
    for claim in claims:
        await store.finish(claim, RunEnd(state=RunState.RAN, at=now))


async def measure(options: argparse.Namespace) -> None:
    """Both tables."""
    python = ensure_peers().python
    say(f"on {describe_machine()}\n")
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS) as folder:
        late = {
            "sexton (SQLite, synced)": await sexton_lateness(options.seconds, Path(folder)),
            "APScheduler 3.11, memory": peer_lateness(python, "memory", options.seconds),
            "APScheduler 3.11, SQLite": peer_lateness(python, "sqlite", options.seconds),
        }
        costs = {size: await tick_costs(size, options.ticks, Path(folder)) for size in options.sizes}
    report_lateness(late)
    report_costs(costs)


def report_lateness(late: dict[str, list[float]]) -> None:
    """Slot to start, one row a scheduler."""
    rows = [
        (name, len(all_), spread(all_, digits=1), f"{quantile(all_, 0.99):.1f}", sum(value < 0 for value in all_))
        for name, all_ in late.items()
    ]
    say(markdown_table(("slot to start, 5 jobs a second", "runs", "ms", "p99 ms", "too early"), rows))
    write_csv(
        "slot_to_start", ("scheduler", "milliseconds"), [(name, ms) for name, all_ in late.items() for ms in all_]
    )


def report_costs(costs: dict[int, tuple[list[float], list[float]]]) -> None:
    """Ticks, one row a number of jobs, with the ratio to the smallest."""
    least = min(costs)
    base_idle, base_busy = (quantile(values, 0.5) for values in costs[least])
    rows = [
        (
            f"{size:,}",
            spread(idle, digits=2),
            times(quantile(idle, 0.5), base_idle),
            spread(busy, digits=2),
            times(quantile(busy, 0.5), base_busy),
        )
        for size, (idle, busy) in costs.items()
    ]
    say("\n" + markdown_table(("jobs", "idle look, ms", "", f"tick with {DUE} due, ms", ""), rows))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--ticks", type=int, default=100)
    parser.add_argument(
        "--sizes", type=lambda text: [int(word) for word in text.split(",")], default=[10, 1000, 100_000]
    )
    anyio.run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
