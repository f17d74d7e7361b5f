"""What distributes runs: Procrastinate, which Sexton uses, beside DBOS, behind one protocol and on one PostgreSQL.

Slots, limits and claims are the planner's in both; a run does nothing.  Each node is a process; all nodes, the database
and this program share one machine.  `dbos:0.1` looks into its queue every 0.1 s, `dbos:1` every second, its default.

    python -m benchmarks.engines --database postgresql://USER:PASSWORD@HOST/EMPTY_DATABASE
        [--engines procrastinate,dbos:0.1,dbos:1] [--runs 200] [--seconds 10] [--idle 20] [--patience 60]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg

from benchmarks.dbos_engine import DbosEngine
from benchmarks.machine import describe_machine
from benchmarks.peers import ensure_dbos
from benchmarks.report import markdown_table, quantile, say
from benchmarks.scale import ACTION, CAPACITY, DUE, ask, put
from sexton.clock import SystemClock
from sexton.database import Database, PostgresUrl
from sexton.journal import Journal
from sexton.scheduler import SEVERAL_MACHINES, At, Every, Job, Limits, Offer, Outcome, RunContext, RunStore, Scheduler
from sexton.scheduler.claim import Claimer
from sexton.scheduler.gateways import this_gateway
from sexton.scheduler.procrastinate_engine import ProcrastinateEngine

CANCELS = 10
LEFT = 8
NOTICED_IN = 6
"""Seconds within which a node looks what others have put into the database."""
TICK = os.sysconf("SC_CLK_TCK")


def engine_of(kind: str, url: str, *, node: str, version: str = "1") -> ProcrastinateEngine:
    """`procrastinate`, or `dbos:` and its interval of polls in seconds."""
    offer, clock = Offer(name=node), SystemClock()
    if kind == "procrastinate":
        return ProcrastinateEngine(url, capacity=CAPACITY, offer=offer, clock=clock)
    poll = float(kind.partition(":")[2])
    return DbosEngine(url, node=node, capacity=CAPACITY, offer=offer, clock=clock, poll=poll, version=version)


# A node


async def be_node(kind: str, name: str, url: str, does: str, version: str) -> None:
    """Work until standard input ends.  `does`: `run`, `hold` (a run waits for its cancellation), `sit` (offers are
    heard and never taken, as by a node that dies between the two)."""

    async def perform(context: RunContext) -> Outcome:  # noqa: ARG001
        if does == "hold":
            await anyio.sleep_forever()
        return Outcome(output="")

    clock = SystemClock()
    async with Database.open(PostgresUrl(url)) as database, anyio.create_task_group() as tasks:
        engine = engine_of(kind, url, node=name, version=version)
        await database.write(engine.prepare)
        if does == "sit":
            tasks.start_soon(sit, engine)
        else:
            scheduler = Scheduler(
                RunStore(database, engine=engine),
                perform,
                clock=clock,
                journal=Journal.open(clock=clock),
                limits=Limits(overall=CAPACITY),
                node=name,
                offer=Offer(name=name),
                place=name,
                lease=SEVERAL_MACHINES,
            )
            await tasks.start(scheduler.run)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.read)
        tasks.cancel_scope.cancel()


async def sit(engine: ProcrastinateEngine) -> None:
    async def take(run: str) -> bool:  # noqa: ARG001
        await anyio.sleep_forever()
        return True

    await engine.work(take, wake=lambda: None)


class Node:
    """A node in a process of its own."""

    def __init__(self, kind: str, name: str, url: str, *, does: str = "run", version: str = "1") -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.engines",
            "--database",
            url,
            "--engines",
            kind,
            "--version",
            version,
        ]
        command += ["--be-node", name, "--does", does]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("a node did not start")

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))  # noqa: PTH208

    def stop(self) -> None:
        self.process.communicate("", timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def nodes(kind: str, url: str, *names: str, **how: Any) -> Iterator[list[Node]]:
    """Those, working; they are ended with the block."""
    made = []
    try:
        for name in names:
            made.append(Node(kind, name, url, **how))  # noqa: PERF401 -- what was made before one fails has to be ended
        yield made
        for node in made:
            if node.process.poll() is None:
                node.stop()
    finally:
        for node in made:
            if node.process.poll() is None:
                node.kill()


# What is measured


def wait(url: str, statement: str, wanted: float, seconds: float) -> float | None:
    """Seconds until the database answers that, or more; None: not in time."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        if ask(url, statement) >= wanted:
            return time.monotonic() - began
        time.sleep(0.02)
    return None


def forget(url: str) -> None:
    """All runs, of ours and of both engines."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE job, run, run_output, node, need CASCADE")
        for name in ("procrastinate_jobs", "dbos.workflow_status", "dbos.application_versions"):
            row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
            if row is not None and row[0]:
                connection.execute(f"TRUNCATE {name} CASCADE".encode())


def once(count: int, *, after: float) -> list[Job]:
    at = datetime.now(UTC) + timedelta(seconds=after)
    return [Job(name=f"once-{number}", schedule=At(time=at), action=ACTION) for number in range(count)]


def runs_per_second(kind: str, url: str, count: int, runs: int) -> str:
    with nodes(kind, url, *(f"node-{number}" for number in range(count))):
        anyio.run(put, url, once(runs, after=2))
        if wait(url, "SELECT count(*) FROM run WHERE state = 'ran'", runs, 120) is None:
            return "not in 120 s"
    return f"{runs / (ask(url, 'SELECT max(ended_at) - min(started_at) FROM run') / 1e6):.0f}"


def slot_to_start(kind: str, url: str, seconds: float) -> str:
    """Five jobs every second on one node, in milliseconds (99 of 100)."""
    with nodes(kind, url, "node-0"):
        anyio.run(put, url, [Job(name=f"tick-{n}", schedule=Every(seconds=1), action=ACTION) for n in range(DUE)])
        time.sleep(NOTICED_IN + seconds)
        anyio.run(put, url, [])
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT started_at - slot FROM run WHERE slot > (SELECT min(slot) FROM run) + %s AND started_at > 0",
            [NOTICED_IN * 1_000_000],
        ).fetchall()
    late = [row[0] / 1000 for row in rows]
    return f"{quantile(late, 0.5):.0f} ({quantile(late, 0.99):.0f})"


def idle(kind: str, url: str, seconds: float) -> tuple[str, str]:
    """Transactions per minute, and per cent of a core, of one node that has nothing to do."""
    counter = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    with nodes(kind, url, "node-0") as [node]:
        time.sleep(8)
        before, cpu, began = ask(url, counter), node.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        took, spent = time.monotonic() - began, node.cpu_seconds() - cpu
        told = f"{spent / took * 100:.1f} % of a core, {node.threads()} threads"
        return f"{(ask(url, counter) - before - 1) / took * 60:.0f}", told


async def cancel_elsewhere(kind: str, url: str) -> str:
    """Milliseconds from the cancellation here until the run has ended on another node, median and worst."""
    took = []
    async with Database.open(PostgresUrl(url)) as database:
        engine = engine_of(kind, url, node="here")
        await database.write(engine.prepare)
        store = RunStore(database, engine=engine)
        await store.replace_config_jobs([Job(name="long", action=ACTION)], now=datetime.now(UTC))
        for _ in range(CANCELS):
            run, _, _ = await store.add_manual_run("long", now=datetime.now(UTC))
            if wait(url, "SELECT count(*) FROM run WHERE state = 'running'", 1, 30) is None:
                return "did not start in 30 s"
            asked = datetime.now(UTC)
            await store.request_cancel(run.id, reason="measured", now=asked)
            if wait(url, "SELECT 1 - count(*) FROM run WHERE state = 'running'", 1, 30) is None:
                return "did not end in 30 s"
            ended = ask(url, "SELECT max(ended_at) FROM run")
            took.append(ended / 1000 - asked.timestamp() * 1000)
    return f"{quantile(took, 0.5):.0f} (at most {max(took):.0f})"


async def hand_over(kind: str, url: str, runs: int, *, fail: bool = False) -> int:
    """One tick here, which no worker of ours hears; how many runs the engine then has.  `fail`: it is rolled back."""
    async with Database.open(PostgresUrl(url)) as database:
        engine = engine_of(kind, url, node="planner")
        await database.write(engine.prepare)
        store, now = RunStore(database, engine=engine), datetime.now(UTC)
        gateway = this_gateway("planner")
        await store.register(gateway, now=now)
        await store.replace_config_jobs(once(runs, after=0), now=now)
        claimer = Claimer(
            gateway=gateway, now=now + timedelta(seconds=1), limits=Limits(), running=(), offer=Offer(name="planner")
        )
        if fail:
            engine.distribute = failing(engine.distribute)  # type: ignore[method-assign]
            with suppress(ZeroDivisionError):
                await store.tick(claimer)
        else:
            await store.tick(claimer)
        await store.unregister(gateway.id, now=now)
    table = "procrastinate_jobs" if kind == "procrastinate" else "dbos.workflow_status"
    return int(ask(url, f"SELECT count(*) FROM {table}"))


def failing(distribute: Callable[..., Any]) -> Callable[..., Any]:
    def then_fail(*given: Any) -> None:
        distribute(*given)
        raise ZeroDivisionError

    return then_fail


def one_transaction(kind: str, url: str) -> str:
    """Whether what is handed over stands and falls with the transaction of the slot; milliseconds of such a tick."""
    rolled_back = anyio.run(lambda: hand_over(kind, url, LEFT, fail=True))
    forget(url)
    began = time.perf_counter()
    kept = anyio.run(lambda: hand_over(kind, url, 100))
    took = (time.perf_counter() - began) * 1000
    return ("yes" if (rolled_back, kept) == (0, 100) else f"no: {rolled_back}, {kept}") + f" ({took:.0f} ms for 100)"


STARTED = "SELECT count(*) FROM run WHERE state = 'ran'"


def dead_worker(kind: str, url: str, patience: float) -> tuple[str, str]:
    """Seconds until runs start elsewhere, and where the dead one starts again, that a killed node had been offered."""
    told = []
    for successor in ("node-1", "node-0"):
        forget(url)
        with nodes(kind, url, "node-0", does="sit") as [dead]:
            anyio.run(lambda: hand_over(kind, url, LEFT))
            doing = {
                "procrastinate": "SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'",
            }.get(kind, "SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING'")
            assert wait(url, doing, LEFT, 30) is not None
            dead.kill()
        with nodes(kind, url, successor):
            took = wait(url, STARTED, LEFT, patience)
        told.append(f"not in {patience:.0f} s" if took is None else f"{took:.1f} s")
    return told[0], told[1]


def new_version(kind: str, url: str) -> tuple[str, str]:
    """Whether runs that wait are worked by a node of a newer version, and then by one of the older beside it."""
    with nodes(kind, url, "old", version="1"):
        pass  # it was there first
    anyio.run(lambda: hand_over(kind, url, LEFT))
    with nodes(kind, url, "new", version="2") as [new]:
        newer = wait(url, STARTED, LEFT, 20)
        new.stop()
        forget_runs(url)
        anyio.run(lambda: hand_over(kind, url, LEFT))
        with nodes(kind, url, "old", version="1"):
            older = wait(url, STARTED, LEFT, 20)
    return tuple("no (20 s)" if took is None else f"yes ({took:.1f} s)" for took in (newer, older))  # type: ignore[return-value]


def forget_runs(url: str) -> None:
    """Ours only: what an engine knows of versions stays."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE job, run, run_output, node CASCADE")


MEASURES = (
    "enqueued in the transaction of the slot",
    "runs per second, 1 node",
    "runs per second, 2 nodes",
    "slot to start, ms (99 %)",
    "idle transactions per minute and node",
    "idle node",
    "cancel on another node, ms",
    "offered to a node that dies: started by another after",
    "the same, started by that node when it is back after",
    "runs that wait are taken by a node of a newer version",
    "then by an older one, the newer having been there",
)


def measure(kind: str, url: str, options: argparse.Namespace) -> list[str]:
    """One column."""
    with nodes(kind, url, "first"):  # makes the tables
        pass
    told: list[str] = []

    def tell(*cells: str) -> None:
        for cell in cells:
            say(f"{kind}: {MEASURES[len(told)]}: {cell}")
            told.append(cell)
        forget(url)

    forget(url)
    tell(one_transaction(kind, url))
    tell(runs_per_second(kind, url, 1, options.runs))
    tell(runs_per_second(kind, url, 2, options.runs))
    tell(slot_to_start(kind, url, options.seconds))
    tell(*idle(kind, url, options.idle))
    with nodes(kind, url, "elsewhere", does="hold"):
        cell = anyio.run(cancel_elsewhere, kind, url)
    tell(cell)
    tell(*dead_worker(kind, url, options.patience))
    tell(*new_version(kind, url))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True)
    parser.add_argument("--engines", default="procrastinate,dbos:0.1,dbos:1")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--idle", type=float, default=20)
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--be-node", help=argparse.SUPPRESS)
    parser.add_argument("--does", default="run", help=argparse.SUPPRESS)
    parser.add_argument("--version", default="1", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_node:
        anyio.run(be_node, options.engines, options.be_node, options.database, options.does, options.version)
        return
    ensure_dbos()
    say(f"on {describe_machine()}\n")
    kinds = options.engines.split(",")
    columns = [measure(kind, options.database, options) for kind in kinds]
    say(f"\nload at the end {os.getloadavg()[0]:.1f}\n")
    say(markdown_table(["", *kinds], [[name, *cells] for name, *cells in zip(MEASURES, *columns, strict=True)]))


if __name__ == "__main__":
    main()
