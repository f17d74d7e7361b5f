"""One real channel, connected, with a scripted agent, on the real clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import anyio

from chatting import ScriptedChats
from fake_clock import FakeClock
from sexton.clock import Clock, SystemClock
from sexton.database import Database
from sexton.gateway.channels import AccessRules, Channel, ChannelOptions, Channels, ChannelSetup, Inbox, find_kind
from sexton.gateway.deliveries import Deliveries, Outbox
from sexton.journal import Journal
from waiting import wait_until

SECONDS = 60.0
Asked: TypeAlias = Callable[[], bool | Awaitable[bool]]


@dataclass
class RunningChannel:
    channels: Channels
    deliveries: Deliveries
    chats: ScriptedChats
    inbox: Inbox
    journal: Journal

    def has(self, kind: str) -> bool:
        return any(event.kind == kind for event in self.journal.since(0))

    async def wait(self, condition: Asked) -> None:
        try:
            await wait_until(condition, seconds=SECONDS)
        except TimeoutError as error:
            told = [(event.kind, dict(event.data)) for event in self.journal.since(0)]
            raise AssertionError(f"not within {SECONDS:g} s; what happened: {told}") from error

    async def wait_sent(self, text: str) -> None:
        """Until something with that text was sent."""

        async def is_sent() -> bool:
            found = await self.deliveries.deliveries(limit=100)
            return any(text in one.message.text and one.state == "sent" for one in found)

        await self.wait(is_sent)


@asynccontextmanager
async def running_channel(
    folder: Path,
    kind: str,
    options: ChannelOptions,
    *,
    allow: tuple[str, ...] = ("*",),
    chats: ScriptedChats | None = None,
    tell_strangers: bool = True,
    wait_connected: bool = True,
    clock: Clock | None = None,
    channel: Channel | None = None,
) -> AsyncIterator[RunningChannel]:
    """A channel of that kind, named as it; leaving ends it as a crash would.  The clock is for all but the platform."""
    chats, clock, journal = chats or ScriptedChats(), clock or SystemClock(), Journal.open()
    rules = AccessRules(allow=frozenset(allow), tell_strangers=tell_strangers)
    setup = ChannelSetup(name=kind, kind=kind, options=options, rules=rules)
    async with Database.open(folder / "sexton.db") as database, anyio.create_task_group() as tasks:
        inbox = Inbox(database)
        deliveries = Deliveries(Outbox(database), clock=clock, journal=journal, owner="here")
        channels = Channels(inbox, chats, deliveries, say_as=chats.say_as, clock=clock, journal=journal)
        channels.add(setup, channel or find_kind(kind).make(kind, options, SystemClock()))
        await tasks.start(_deliver, deliveries)
        await tasks.start(_run, channels)
        made = RunningChannel(channels, deliveries, chats, inbox, journal)
        if wait_connected:
            await made.wait(lambda: made.has("channel.connected"))
        yield made
        tasks.cancel_scope.cancel()
    await deliveries.aclose()


async def show_progress(bench: RunningChannel, clock: FakeClock, place: str, shown: Asked, changed: Asked) -> None:
    """The turn under way in that conversation is at work for long: that is shown, and changes."""
    await bench.wait(lambda: bool(bench.chats.turns) and place in bench.chats.streams)
    turn = bench.chats.turns[-1].id
    bench.chats.streams[place].put({"type": "turn_started", "turn": turn})

    await pass_time(bench, clock, shown)
    called = {"call": "1", "server": "notes", "tool": "search", "arguments": {"word": "s3cret"}}
    bench.chats.streams[place].put({"type": "tool_call_started", "turn": turn, **called})
    await pass_time(bench, clock, changed)


async def pass_time(bench: RunningChannel, clock: FakeClock, condition: Asked) -> None:
    """Until that holds, with as much of the clock as it takes."""

    async def has_passed() -> bool:
        await clock.advance(1.0)
        answer = condition()
        return answer if isinstance(answer, bool) else await answer

    await bench.wait(has_passed)


async def _run(channels: Channels, *, task_status: Any) -> None:
    await channels.run(task_status=task_status)


async def _deliver(deliveries: Deliveries, *, task_status: Any) -> None:
    await deliveries.run(task_status=task_status)
