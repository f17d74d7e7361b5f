"""Procrastinate as the engine: real PostgreSQL, real connections, several schedulers in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest
from sqlalchemy import text

from sexton.clock import SystemClock
from sexton.database import Database, PostgresUrl
from sexton.journal import Journal
from sexton.scheduler import (
    Job,
    Limits,
    Offer,
    Outcome,
    Overlap,
    RunContext,
    RunStore,
    Scheduler,
)
from sexton.scheduler.lease import SEVERAL_MACHINES
from sexton.scheduler.procrastinate_engine import ProcrastinateEngine, prepare
from waiting import wait_until

if TYPE_CHECKING:
    from postgres_server import PostgresServer

pytestmark = pytest.mark.anyio


@dataclass
class Node:
    """One node: its scheduler, and what its runs did."""

    scheduler: Scheduler
    journal: Journal
    database: Database
    started: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    hold: anyio.Event = field(default_factory=anyio.Event)


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nodes tell each other with their beats, and find in the database, comes sooner."""
    monkeypatch.setattr("sexton.scheduler.dispatcher.BEAT_EVERY", 0.3)
    monkeypatch.setattr("sexton.scheduler.dispatcher.LONGEST_SLEEP", 0.3)


@pytest.fixture
def url(postgres: PostgresServer) -> PostgresUrl:
    return postgres.url(postgres.new_database())


@asynccontextmanager
async def node(
    url: PostgresUrl, name: str, *, labels: frozenset[str] = frozenset(), capacity: int = 8, holds: bool = False
) -> AsyncIterator[Node]:
    clock, journal = SystemClock(), Journal.open()
    offer = Offer(name=name, labels=labels, servers=lambda: ["time"])
    async with Database.open(url) as database, anyio.create_task_group() as tasks:
        engine = ProcrastinateEngine(url.text, capacity=capacity, offer=offer, clock=clock)
        await database.write(engine.prepare)

        async def perform(context: RunContext) -> Outcome:
            made.started.append(context.run.id)
            try:
                if holds:
                    await made.hold.wait()
            except anyio.get_cancelled_exc_class():
                made.cancelled.append(context.run.id)
                raise
            return Outcome(output=name)

        scheduler = Scheduler(
            RunStore(database, engine=engine),
            perform,
            clock=clock,
            journal=journal,
            limits=Limits(overall=capacity),
            node=name,
            offer=offer,
            place=name,
            lease=SEVERAL_MACHINES,
        )
        made = Node(scheduler, journal, database)
        await tasks.start(scheduler.run)
        yield made
        tasks.cancel_scope.cancel()


async def states(of: Node, job: str | None = None) -> Counter[str]:
    return Counter(str(run.state) for run in await of.scheduler.runs(job, limit=10_000))


async def wait_for_states(of: Node, expected: dict[str, int], job: str | None = None) -> None:
    async def is_so() -> bool:
        return await states(of, job) == expected

    await wait_until(is_so)


async def test_runs_are_worked_by_every_node_and_each_once(url: PostgresUrl) -> None:
    async with node(url, "a", capacity=4) as a, node(url, "b", capacity=4) as b:
        for number in range(40):
            await a.scheduler.put_job(Job(name=f"job-{number}"))
            await (a if number % 2 else b).scheduler.run_now(f"job-{number}")
        await wait_for_states(a, {"ran": 40})
        assert len(set(a.started) | set(b.started)) == len(a.started) + len(b.started) == 40
        left = await a.database.read(lambda one: one.execute(text("SELECT count(*) FROM procrastinate_jobs")).scalar())
        assert left is not None


async def test_a_run_goes_to_the_node_that_has_what_it_needs(url: PostgresUrl) -> None:
    async with node(url, "a") as a, node(url, "b", labels=frozenset({"gpu"})) as b:
        await a.scheduler.put_job(Job(name="on-gpu", labels=("gpu",)))
        await a.scheduler.put_job(Job(name="on-a", node="a", resources=("server:time",)))
        await a.scheduler.put_job(Job(name="nowhere", resources=("server:mail",)))
        for name in ("on-gpu", "on-a", "nowhere"):
            await a.scheduler.run_now(name)
        await wait_for_states(a, {"ran": 2, "queued": 1})
        assert (len(a.started), len(b.started)) == (1, 1)
        assert await states(a, "nowhere") == {"queued": 1}


async def test_a_cancel_on_one_node_ends_the_run_on_another(url: PostgresUrl) -> None:
    async with node(url, "a", holds=True) as a, node(url, "b", holds=True) as b:
        await a.scheduler.put_job(Job(name="long", node="b"))
        run = await a.scheduler.run_now("long")
        await wait_until(lambda: bool(b.started))
        await a.scheduler.cancel(run.id)
        await wait_until(lambda: b.cancelled == [run.id])
        await wait_for_states(a, {"cancelled": 1})


async def test_as_many_runs_of_a_job_as_may_run_at_once_over_all_nodes(url: PostgresUrl) -> None:
    async with node(url, "a", holds=True) as a, node(url, "b", holds=True) as b:
        await a.scheduler.put_job(Job(name="two", overlap=Overlap.PARALLEL, concurrency=2))
        for _ in range(5):
            await a.scheduler.run_now("two")
        await wait_for_states(a, {"running": 2, "queued": 3})
        a.hold.set()
        b.hold.set()
        await wait_for_states(a, {"ran": 5})


async def test_more_runs_than_all_nodes_have_room_for_wait_and_run(url: PostgresUrl) -> None:
    async with node(url, "a", capacity=2, holds=True) as a:
        for number in range(6):
            await a.scheduler.put_job(Job(name=f"job-{number}"))
            await a.scheduler.run_now(f"job-{number}")
        await wait_for_states(a, {"running": 2, "queued": 4})
        a.hold.set()
        await wait_for_states(a, {"ran": 6})


async def test_a_drained_node_takes_nothing_and_what_it_runs_goes_on(url: PostgresUrl) -> None:
    async with node(url, "a", holds=True) as a, node(url, "b") as b:
        await a.scheduler.put_job(Job(name="on-a", node="a"))
        await a.scheduler.run_now("on-a")
        await wait_until(lambda: bool(a.started))
        await b.scheduler.set_drained("a", drained=True, by="a test")
        await wait_until(lambda: a.scheduler._drained)
        for number in range(4):
            await b.scheduler.put_job(Job(name=f"job-{number}"))
            await b.scheduler.run_now(f"job-{number}")
        await wait_until(lambda: len(b.started) == 4)
        assert (len(a.started), a.cancelled) == (1, [])
        a.hold.set()
        await wait_for_states(a, {"ran": 5})
        await b.scheduler.set_drained("a", drained=False, by="a test")
        await b.scheduler.run_now("on-a")
        await wait_until(lambda: len(a.started) == 2)


async def test_a_worker_that_loses_its_connections_goes_on_and_so_do_its_runs(
    url: PostgresUrl, postgres: PostgresServer
) -> None:
    async with node(url, "a", holds=True) as a:
        await a.scheduler.put_job(Job(name="long"))
        await a.scheduler.put_job(Job(name="next"))
        await a.scheduler.run_now("long")
        await wait_until(lambda: bool(a.started))
        name = url.text.rpartition("/")[2]
        postgres.admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await a.scheduler.run_now("next")
        await wait_until(lambda: len(a.started) == 2)
        assert a.cancelled == []
        a.hold.set()
        await wait_for_states(a, {"ran": 2})


async def test_a_run_that_was_offered_to_a_worker_that_is_gone_is_offered_again(
    url: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker had fetched and not yet taken.  It was an hour ago, says the row: live workers stay alive."""
    monkeypatch.setattr("sexton.scheduler.procrastinate_engine.MEND_EVERY", 0.5)
    async with node(url, "a") as a:
        await a.scheduler.put_job(Job(name="job", node="later"))
        await a.scheduler.run_now("job")
        await wait_for_states(a, {"queued": 1})

        async def fetch() -> bool:
            fetched = "SELECT id FROM procrastinate_fetch_job_v2(NULL, NULL)"
            return await a.database.write(lambda one: one.execute(text(fetched)).scalar() is not None)

        await wait_until(fetch)
        an_hour_ago = "UPDATE run SET handed_at = handed_at - 3600000000"
        await a.database.write(lambda one: one.execute(text(an_hour_ago)))
        async with node(url, "later") as later:
            await wait_until(lambda: len(later.started) == 1)
            await wait_for_states(a, {"ran": 1})


async def test_its_tables_are_made_once_and_noted(url: PostgresUrl) -> None:
    async with Database.open(url) as database:
        await database.write(prepare)
        await database.write(prepare)
        noted = "SELECT obj_description('procrastinate_jobs'::regclass)"
        assert str(await database.read(lambda one: one.execute(text(noted)).scalar())).startswith("procrastinate 3.")
