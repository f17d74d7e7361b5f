"""Several nodes on one PostgreSQL: runs per second, slot to start, an idle node's load, and 100,000 jobs.

Each node is a process with the scheduler, Procrastinate's worker and a connection pool of its own; a run does nothing:
what is measured is what it costs to have one recorded, handed over, claimed, ended and recorded. All nodes, the
database and this program share one machine: more nodes than it has cores cannot do more.

    python -m benchmarks.scale --database postgresql://USER:PASSWORD@HOST/EMPTY_DATABASE
        [--nodes 1,2,4] [--runs 1000] [--seconds 20] [--idle 30] [--jobs 100000]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import anyio
import psycopg

from benchmarks.machine import describe_machine
from benchmarks.report import markdown_table, quantile, say
from sexton.clock import SystemClock
from sexton.database import Database, PostgresUrl
from sexton.journal import JSON, Journal
from sexton.scheduler import SEVERAL_MACHINES, At, Every, Job, Limits, Offer, Outcome, RunContext, RunStore, Scheduler
from sexton.scheduler.claim import Claimer
from sexton.scheduler.gateways import this_gateway
from sexton.scheduler.procrastinate_engine import ProcrastinateEngine

ACTION: dict[str, JSON] = {"kind": "command", "argv": ["true"]}
CAPACITY = 16
DUE = 5
FAR = datetime(2100, 1, 1, tzinfo=UTC)


# A node


async def be_node(name: str, url: str) -> None:
    """Work until standard input ends; then print how late each run began, in milliseconds."""
    late: list[float] = []

    async def perform(context: RunContext) -> Outcome:
        if context.run.slot is not None:
            late.append((datetime.now(UTC) - context.run.slot).total_seconds() * 1000)
        return Outcome(output="")

    clock, offer = SystemClock(), Offer(name=name)
    async with Database.open(PostgresUrl(url)) as database, anyio.create_task_group() as tasks:
        engine = ProcrastinateEngine(url, capacity=CAPACITY, offer=offer, clock=clock)
        await database.write(engine.prepare)
        scheduler = Scheduler(
            RunStore(database, engine=engine),
            perform,
            clock=clock,
            journal=Journal.open(clock=clock),
            limits=Limits(overall=CAPACITY),
            node=name,
            offer=offer,
            place=name,
            lease=SEVERAL_MACHINES,
        )
        await tasks.start(scheduler.run)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.read)
        tasks.cancel_scope.cancel()
    sys.stdout.write(json.dumps(late) + "\n")


class Node:
    """A node in a process of its own."""

    def __init__(self, name: str, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.scale", "--database", url, "--be-node", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("a node did not start")

    def stop(self) -> list[float]:
        said, _ = self.process.communicate("", timeout=60)
        late: list[float] = json.loads(said)
        return late


@contextmanager
def nodes(count: int, url: str) -> Iterator[list[Node]]:
    """That many, working; they are ended with the block."""
    made = [Node(f"node-{number}", url) for number in range(count)]
    try:
        yield made
    finally:
        for node in made:
            if node.process.poll() is None:
                node.process.kill()
                node.process.wait()


# What is measured


def ask(url: str, statement: str) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
        assert row is not None
        return float(row[0] or 0)


async def put(url: str, jobs: list[Job]) -> None:
    """Make these the jobs."""
    async with Database.open(PostgresUrl(url)) as database:
        await RunStore(database).replace_config_jobs(jobs, now=datetime.now(UTC))


def forget(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE job, run, run_output, node, procrastinate_jobs CASCADE")


def runs_per_second(url: str, count: int, runs: int) -> float:
    """One-shot jobs, all due at once: from the first that is claimed to the last that is recorded as ended."""
    at = datetime.now(UTC) + timedelta(seconds=3 + 2 * count)
    with nodes(count, url) as made:
        anyio.run(put, url, [Job(name=f"once-{number}", schedule=At(time=at), action=ACTION) for number in range(runs)])
        while ask(url, "SELECT count(*) FROM run WHERE state = 'ran'") < runs:
            time.sleep(0.2)
        for node in made:
            node.stop()
    return runs / (ask(url, "SELECT max(ended_at) - min(started_at) FROM run") / 1e6)


def slot_to_start(url: str, count: int, seconds: float) -> list[float]:
    """Five jobs every second."""
    with nodes(count, url) as made:
        anyio.run(put, url, [Job(name=f"tick-{n}", schedule=Every(seconds=1), action=ACTION) for n in range(DUE)])
        time.sleep(seconds)
        anyio.run(put, url, [])
        return sorted(late for node in made for late in node.stop())


def idle_transactions(url: str, count: int, seconds: float) -> float:
    """Transactions per minute and node while nothing is due, as pg_stat_database counts them."""
    counter = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    with nodes(count, url):
        time.sleep(5)
        before, began = ask(url, counter), time.monotonic()
        time.sleep(seconds)
        after = ask(url, counter)
        return (after - before - 1) / count / (time.monotonic() - began) * 60


async def tick_costs(url: str, jobs: int, ticks: int = 30) -> tuple[list[float], list[float]]:
    """Milliseconds of each idle look and of each tick with five due jobs that are handed over, with so many jobs."""
    start = datetime.now(UTC)
    far = [Job(name=f"far-{n}", schedule=Every(seconds=86_400, anchor=FAR), action=ACTION) for n in range(jobs - DUE)]
    soon = [Job(name=f"soon-{n}", schedule=Every(seconds=10, anchor=start), action=ACTION) for n in range(DUE)]
    idle, busy = [], []
    async with Database.open(PostgresUrl(url)) as database:
        offer = Offer(name="bench")
        engine = ProcrastinateEngine(url, capacity=CAPACITY, offer=offer, clock=SystemClock())
        store, gateway = RunStore(database, engine=engine), this_gateway("bench")
        await store.register(gateway, now=start)
        await store.replace_config_jobs([*far, *soon], now=start)
        for number in range(1, ticks + 1):
            began = time.perf_counter()
            await store.outlook(gateway)
            idle.append((time.perf_counter() - began) * 1000)
            now = start + timedelta(seconds=number * 10)
            claimer = Claimer(gateway=gateway, now=now, limits=Limits(), running=(), offer=offer)
            began = time.perf_counter()
            await store.tick(claimer)
            busy.append((time.perf_counter() - began) * 1000)
            await database.write(lambda one: one.exec_driver_sql("UPDATE run SET state = 'ran' WHERE state = 'queued'"))
    return idle, busy


def middle(values: list[float], digits: int = 0) -> str:
    """Median, and the value below which 99 of 100 are."""
    return f"{quantile(values, 0.5):.{digits}f} ({quantile(values, 0.99):.{digits}f})"


def measure(options: argparse.Namespace) -> None:
    """All tables."""
    url = options.database
    say(f"on {describe_machine()}\n")
    with nodes(1, url):
        pass
    rows = []
    for count in (int(each) for each in options.nodes.split(",")):
        row = [str(count)]
        forget(url)
        row.append(f"{runs_per_second(url, count, options.runs):.0f}")
        forget(url)
        row.append(middle(slot_to_start(url, count, options.seconds)))
        forget(url)
        row.append(f"{idle_transactions(url, count, options.idle):.0f}")
        say(" | ".join(row))
        rows.append(row)
    head = ["nodes", "runs per second", "slot to start, ms (99 %)", "idle transactions per minute and node"]
    say(markdown_table(head, rows))
    rows = []
    for jobs in (10, options.jobs):
        forget(url)
        idle, busy = anyio.run(tick_costs, url, jobs)
        rows.append([f"{jobs:,}", middle(idle, 2), middle(busy, 2)])
    say(markdown_table(["jobs", "idle look, ms (99 %)", "tick that hands over 5 runs, ms (99 %)"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True)
    parser.add_argument("--nodes", default="1,2,4")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--idle", type=float, default=30)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--be-node", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_node:
        anyio.run(be_node, options.be_node, options.database)
    else:
        measure(options)


if __name__ == "__main__":
    main()
