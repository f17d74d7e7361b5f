"""A scheduler on a fake clock, with its database in the event loop's thread, so that every test forces its order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import anyio

from databases import database_at
from fake_clock import FakeClock, settle
from sexton.database import Database
from sexton.gateway.deliveries import queue_run
from sexton.journal import JSON, Event, Journal
from sexton.redaction import Redactor
from sexton.scheduler import Every, Job, Limits, Outcome, Perform, Run, RunContext, RunStore, Scheduler

T = TypeVar("T")


async def inline(work: Callable[[], T], *, lane: anyio.CapacityLimiter) -> T:
    """In place of a worker thread: the transaction is over when the task goes on."""
    return work()


@dataclass
class Work:
    """What runs do: each says that it started, then waits until the test lets it end."""

    started: list[Run] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    hold: bool = False
    gates: dict[str, anyio.Event] = field(default_factory=dict)

    async def __call__(self, context: RunContext) -> Outcome:
        self.started.append(context.run)
        try:
            if self.hold:
                gate = self.gates[context.run.id] = anyio.Event()
                await gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(context.run.id)
            raise
        self.ended.append(context.run.id)
        return Outcome(output=f"did {context.job.name}")

    async def let_end(self, number: int) -> None:
        self.gates[self.started[number].id].set()
        await settle()

    @property
    def slots(self) -> list[str]:
        return [run.slot.strftime("%H:%M:%S") if run.slot else "by hand" for run in self.started]


@dataclass
class Bench:
    clock: FakeClock
    database: Database
    journal: Journal
    scheduler: Scheduler
    work: Work

    async def rows(self, job: str | None = None) -> list[Run]:
        """Oldest first."""
        return list(reversed(await self.scheduler.runs(job, limit=10_000)))

    async def states(self, job: str | None = None) -> list[str]:
        return [str(run.state) for run in await self.rows(job)]

    def events(self, *kinds: str) -> list[Event]:
        return [event for event in self.journal.since(0) if event.kind in kinds]


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    async with Database.open(database_at(path), offload=inline) as database:
        yield database


@asynccontextmanager
async def running(
    path: Path,
    *,
    clock: FakeClock | None = None,
    work: Work | None = None,
    perform: Perform | None = None,
    limits: Limits | None = None,
    after_tick: Callable[[], Awaitable[None]] | None = None,
    jobs: tuple[Job, ...] = (),
    node: str = "here",
    database: Callable[[Path], AbstractAsyncContextManager[Database]] | None = None,
    redactor: Redactor | None = None,
    process: Mapping[str, JSON] | None = None,
    **options: Any,
) -> AsyncIterator[Bench]:
    """A scheduler that runs; leaving cancels it."""
    clock = clock or FakeClock()
    work = work or Work()
    journal = Journal.open(clock=clock)
    async with (database or open_database)(path / "sexton.db") as opened:
        scheduler = Scheduler(
            RunStore(opened, at_end=queue_run),
            perform or work,
            clock=clock,
            journal=journal,
            limits=limits,
            after_tick=after_tick,
            node=node,
            redactor=redactor,
            **options,
        )
        if process is not None:  # As if it were another machine: of its process nothing can be seen from here.
            scheduler._gateway = replace(scheduler._gateway, process=process)
        for job in jobs:
            await scheduler.put_job(job)
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler_task, scheduler)
            await settle()
            yield Bench(clock, opened, journal, scheduler, work)
            tasks.cancel_scope.cancel()


async def scheduler_task(scheduler: Scheduler, *, task_status: Any) -> None:
    await scheduler.run(task_status=task_status)


def every(seconds: float, *, name: str = "tick", **changes: Any) -> Job:
    return Job(name=name, schedule=Every(seconds=seconds), **changes)
