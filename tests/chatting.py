"""Channels on a fake clock: a platform in memory and an agent that says what a test says."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from fake_clock import FakeClock, settle
from scheduling import open_database
from sexton.agent import Attachment as AgentFile
from sexton.gateway.channels import (
    AccessRules,
    ChannelDown,
    ChannelOptions,
    Channels,
    ChannelSetup,
    Inbox,
    Incoming,
    Line,
    Said,
    WhenBusy,
)
from sexton.gateway.deliveries import Deliveries, Delivery, Outbox, Part, SendDelayed, TextLimits
from sexton.journal import Event, Journal

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
"""Nobody looks further than at its beginning."""


@dataclass
class FakeChannel:
    """A platform in memory: `line` is there while it is connected."""

    limits: TextLimits = field(default_factory=TextLimits)
    give_up_after: float = 86_400.0
    line: Line | None = None
    sent: list[Part] = field(default_factory=list)
    working: list[tuple[str, bool]] = field(default_factory=list)
    down: anyio.Event = field(default_factory=anyio.Event)
    refuses: int = 0
    wants: list[float] = field(default_factory=list)
    """Seconds that it asks us to wait, for the next messages one each."""
    connections: int = 0
    closed: bool = False

    async def run(self, line: Line) -> None:
        self.connections += 1
        if self.refuses:
            self.refuses -= 1
            raise ChannelDown("The server is not there.", hint="wait")
        self.line, self.down = line, anyio.Event()
        line.connected("sexton@example.org")
        try:
            await self.down.wait()
        finally:
            self.line = None
        raise ChannelDown("The server went away.")

    def refusal(self, to: str | None) -> str | None:
        return None

    async def send(self, part: Part) -> str | None:
        if self.line is None:
            raise SendDelayed("It is not connected.")
        if self.wants:
            raise SendDelayed("Too many.", after=self.wants.pop(0))
        self.sent.append(part)
        return None

    async def show_working(self, chat: str, *, working: bool) -> None:
        self.working.append((chat, working))

    async def aclose(self) -> None:
        self.closed = True

    @property
    def said(self) -> list[str]:
        return [part.text for part in self.sent]


@dataclass
class ProgressChannel(FakeChannel):
    """One whose messages can be changed: `notes` are those that stand, `told` all that was done, in order."""

    knows_repeats_for: float = 0.0
    notes: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    by_key: dict[str, str] = field(default_factory=dict)
    failing: list[Exception] = field(default_factory=list)
    """What the next things done to notes raise, one each; `after_it` are raised when they were done."""
    after_it: list[Exception] = field(default_factory=list)
    gate: anyio.Event | None = None
    """What is done to notes waits for it, `held` counts that; `most` is how many were under way at a time."""
    held: int = 0
    most: int = 0

    async def show_progress(self, part: Part) -> str:
        await self._enter()
        name = self.by_key.get(part.key) if self.knows_repeats_for else None
        if name is None:
            name = f"m{len(self.told) + 1}"
            self.by_key[part.key] = name
            self.notes[name] = part.text
            self.told.append(f"{part.to} + {part.text}")
        self._leave()
        return name

    async def change_progress(self, chat: str, message: str, text: str) -> None:
        await self._enter()
        assert message in self.notes
        self.notes[message] = text
        self.told.append(f"{chat} = {text}")
        self._leave()

    async def end_progress(self, chat: str, message: str, text: str) -> None:
        await self._enter()
        self.notes.pop(message, None)
        self.told.append(f"{chat} - {text}")
        self._leave()

    async def _enter(self) -> None:
        if self.failing:
            raise self.failing.pop(0)
        self.held += 1
        self.most = max(self.most, self.held)
        if self.gate is not None:
            await self.gate.wait()

    def _leave(self) -> None:
        self.held -= 1
        if self.after_it:
            raise self.after_it.pop(0)


@dataclass(frozen=True, kw_only=True)
class Ended:
    turn: str
    state: str = "done"
    text: str = ""
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class Told:
    document: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return self.document


class Stream:
    def __init__(self) -> None:
        self._events: deque[Told] = deque()
        self._news = anyio.Event()

    def put(self, document: dict[str, Any]) -> None:
        self._events.append(Told(document))
        self._news.set()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Told:
        while not self._events:
            self._news = anyio.Event()
            await self._news.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """Nothing is held."""


@dataclass
class FakeTurn:
    id: str
    said: str
    over: anyio.Event = field(default_factory=anyio.Event)
    ended: Ended | None = None

    async def wait(self) -> Ended:
        await self.over.wait()
        assert self.ended is not None
        return self.ended

    def end(self, text: str = "", **how: Any) -> None:
        self.ended = Ended(turn=self.id, text=text, **how)
        self.over.set()


@dataclass(frozen=True)
class FakeConversation:
    id: str


@dataclass
class ScriptedChats:
    """An agent whose turns end when a test says so, or at once with an echo.

    Its memory of keys outlives the gateway, as the real one's does in the database.
    """

    echo: bool = True
    turns: list[FakeTurn] = field(default_factory=list)
    by_key: dict[str, FakeTurn] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    asked_how: list[WhenBusy] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    approved: list[tuple[str, bool, str]] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)
    failing: list[Exception] = field(default_factory=list)
    given: list[Said] = field(default_factory=list)
    settings: list[Any] = field(default_factory=list)
    resumed: int = 0
    pending: dict[str, list[str]] = field(default_factory=dict)
    """Questions of turns that other nodes have to do, by the conversation."""
    made: dict[str, list[AgentFile]] = field(default_factory=dict)
    """Pictures that come up, by the turn."""

    def say_as(self, said: Said) -> str:
        self.given.append(said)
        return said.text

    async def pictures(self, turn_id: str) -> list[AgentFile]:
        return self.made.get(turn_id, [])

    async def conversation(self, key: str, *, way: str, settings: Any = None) -> FakeConversation:
        self.settings.append(settings)
        return FakeConversation(key)

    async def send(
        self, conversation_id: str, message: Any, *, when_busy: WhenBusy = "queue", message_key: str | None = None
    ) -> FakeTurn:
        assert message_key is not None
        if self.failing:
            raise self.failing.pop(0)
        if message_key in self.by_key:
            return self.by_key[message_key]
        turn = FakeTurn(f"t{len(self.turns) + 1}", message)
        self.turns.append(turn)
        self.by_key[message_key] = turn
        self.places[turn.id] = conversation_id
        self.asked_how.append(when_busy)
        if self.echo:
            turn.end(f"you said {message}")
        return turn

    def stop(self, conversation_id: str) -> bool:
        self.stopped.append(conversation_id)
        return True

    def events(self, conversation_id: str) -> Stream:
        return self.streams.setdefault(conversation_id, Stream())

    async def resume(self) -> None:
        self.resumed += 1

    async def asked(self, conversation_id: str) -> list[str]:
        return self.pending.get(conversation_id, [])

    async def approve(self, approval_id: str, *, yes: bool, by: str) -> object:
        self.approved.append((approval_id, yes, by))
        return None

    @property
    def said(self) -> list[str]:
        return [turn.said for turn in self.turns]


@dataclass
class ChatBench:
    channel: FakeChannel
    chats: ScriptedChats
    channels: Channels
    deliveries: Deliveries
    inbox: Inbox
    clock: FakeClock
    journal: Journal

    async def hear(self, *messages: Incoming, cursor: str | None = None) -> None:
        assert self.channel.line is not None
        await self.channel.line.take(messages, cursor)
        await settle()

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.journal.since(0) if event.kind == f"channel.{kind}"]

    async def all_deliveries(self) -> list[Delivery]:
        return list(reversed(await self.deliveries.deliveries(limit=100)))


def message(text: str, *, key: str | None = None, sender: str = "ada", chat: str = "room", **more: Any) -> Incoming:
    return Incoming(key=key or text, sender=sender, chat=chat, text=text, author=sender.title(), **more)


RULES = AccessRules(allow=frozenset({"ada"}))


@asynccontextmanager
async def chatting(
    folder: Path,
    *,
    chats: ScriptedChats | None = None,
    channel: FakeChannel | None = None,
    clock: FakeClock | None = None,
    rules: AccessRules = RULES,
    when_busy: WhenBusy = "queue",
    settings: Any = None,
    progress: float | None = 20.0,
) -> AsyncIterator[ChatBench]:
    """One channel named `chat`, connected; leaving cancels all, as a crash would for what is in memory."""
    clock, chats, channel = clock or FakeClock(), chats or ScriptedChats(), channel or FakeChannel()
    journal = Journal.open(clock=clock)
    async with open_database(folder / "sexton.db") as database, anyio.create_task_group() as tasks:
        inbox = Inbox(database)
        deliveries = Deliveries(Outbox(database), clock=clock, journal=journal, owner="here")
        channels = Channels(inbox, chats, deliveries, say_as=chats.say_as, clock=clock, journal=journal)
        setup = ChannelSetup(
            name="chat",
            kind="fake",
            options=ChannelOptions(),
            rules=rules,
            when_busy=when_busy,
            settings=settings,
            progress=progress,
            names={"me": "room"},
        )
        channels.add(setup, channel)
        await tasks.start(_deliver, deliveries)
        await tasks.start(_run, channels)
        await settle()
        yield ChatBench(channel, chats, channels, deliveries, inbox, clock, journal)
        tasks.cancel_scope.cancel()


async def _run(channels: Channels, *, task_status: Any) -> None:
    await channels.run(task_status=task_status)


async def _deliver(deliveries: Deliveries, *, task_status: Any) -> None:
    await deliveries.run(task_status=task_status)
