"""What a chat platform has to do, and what it hands over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from sexton.errors import SextonError
from sexton.gateway.channels.files import IncomingFile
from sexton.gateway.deliveries import Part, TextLimits
from sexton.journal import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One message as it came in.

    `key` is the platform's own for it, the same when it is handed over again.
    `sender` is a stable id that the platform vouches for; `author` the name to
    show.  `chat` is where an answer goes.  `thread` tells conversations in one
    chat apart.  `to_us`: it was said to us, not only in a room where we are.
    `context` is handed to `send` with the answer.  `files` came with it; they
    are kept with the message, so they are here already.
    """

    key: str
    sender: str
    chat: str
    text: str
    author: str = ""
    thread: str = ""
    to_us: bool = True
    direct: bool = True
    files: tuple[IncomingFile, ...] = ()
    context: Mapping[str, JSON] = field(default_factory=dict)


class ChannelDown(SextonError):
    """The connection failed or ended.  It is made again, after a pause."""


Take: TypeAlias = Callable[[Sequence[Incoming], str | None], Awaitable[None]]
"""Puts messages into the inbox, with the place from which to go on after a restart, in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A channel's line to the rest while it is connected.

    `cursor` is where the last connection had come; `connected` is told once
    messages are received, with the name of the account.  `knows` says whether
    a sender may talk to us.
    """

    cursor: str | None
    take: Take
    connected: Callable[[str], None]
    knows: Callable[[str], Awaitable[bool]]


class Channel(Protocol):
    """One account on one platform.  As a target of deliveries it sends while it is connected."""

    @property
    def limits(self) -> TextLimits: ...

    @property
    def give_up_after(self) -> float: ...

    async def run(self, line: Line) -> None:
        """Connect, and hand over what comes in, until cancelled.  Raises `ChannelDown`."""
        ...

    def refusal(self, to: str | None) -> str | None:
        """As of `Target`."""
        ...

    async def send(self, part: Part) -> str | None:
        """As of `Target`; `part.to` is a `chat`, `part.facts` the context of what is answered.

        A part may have files and no text.
        """
        ...

    async def show_working(self, chat: str, *, working: bool) -> None:
        """Show that an answer is being worked on, where the platform can; asked for again every few seconds.

        Failing is no failure: nothing may be raised but a cancellation.
        """
        ...

    async def aclose(self) -> None:
        """Nothing is sent any more."""
        ...


@runtime_checkable
class ShowsProgress(Protocol):
    """A channel whose messages can be changed, and which so can show how far a long turn is.

    A `Channel` fulfils it or not.  Each method raises `SendDelayed` and
    `SendFailed`, as `send` does.
    """

    @property
    def knows_repeats_for(self) -> float:
        """Seconds for which `show_progress` with the same key gives the same message; 0 where nobody knows repeats."""
        ...

    async def show_progress(self, part: Part) -> str:
        """Say it, without a sound where the platform can; what the platform calls the message."""
        ...

    async def change_progress(self, chat: str, message: str, text: str) -> None:
        """Let the message say that instead."""
        ...

    async def end_progress(self, chat: str, message: str, text: str) -> None:
        """Take the message away; where that cannot be or leaves a mark, let it say `text`.

        A message that is gone is no failure.
        """
        ...
