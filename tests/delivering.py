"""Deliveries on a fake clock, with targets that do what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from fake_clock import FakeClock, settle
from scheduling import open_database
from sexton.gateway.deliveries import Deliveries, Delivery, Outbox, Part, TextLimits
from sexton.journal import Event, Journal


@dataclass
class FakeTarget:
    """Takes what it is sent, unless `answers` has an error for it; holds each while `hold` is set."""

    limits: TextLimits = field(default_factory=TextLimits)
    give_up_after: float = 86_400.0
    answers: list[Exception | None] = field(default_factory=list)
    sent: list[Part] = field(default_factory=list)
    tried: list[Part] = field(default_factory=list)
    hold: anyio.Event | None = None
    closed: bool = False

    def refusal(self, to: str | None) -> str | None:
        return f"nobody is called {to!r} here" if to == "nobody" else None

    async def send(self, part: Part) -> str | None:
        self.tried.append(part)
        if self.hold:
            await self.hold.wait()
        if self.answers and (error := self.answers.pop(0)) is not None:
            raise error
        self.sent.append(part)
        return f"receipt-{len(self.sent)}"

    async def aclose(self) -> None:
        self.closed = True

    @property
    def texts(self) -> list[str]:
        return [part.text for part in self.sent]


@dataclass
class DeliveryBench:
    deliveries: Deliveries
    clock: FakeClock
    journal: Journal
    target: FakeTarget
    cancel: Callable[[], None]

    async def send(self, text: str = "hello", target: str = "chat", key: str | None = None) -> Delivery:
        delivery = await self.deliveries.send(target, text, key=key or text)
        await settle()
        return delivery

    async def state(self, delivery: Delivery) -> str:
        return str((await self.deliveries.delivery(delivery.id)).state)

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.journal.since(0) if event.kind == f"delivery.{kind}"]


@asynccontextmanager
async def delivering(
    folder: Path, *, target: FakeTarget | None = None, clock: FakeClock | None = None, owner: str = "here"
) -> AsyncIterator[DeliveryBench]:
    """Deliveries that run; leaving cancels them."""
    clock, target = clock or FakeClock(), target or FakeTarget()
    journal = Journal.open(clock=clock)
    async with open_database(folder / "sexton.db") as database, anyio.create_task_group() as tasks:
        deliveries = Deliveries(Outbox(database), clock=clock, journal=journal, owner=owner)
        deliveries.add_target("chat", target)
        await tasks.start(_run, deliveries)
        await settle()
        yield DeliveryBench(deliveries, clock, journal, target, tasks.cancel_scope.cancel)
        tasks.cancel_scope.cancel()


async def _run(deliveries: Deliveries, *, task_status: Any) -> None:
    await deliveries.run(task_status=task_status)
