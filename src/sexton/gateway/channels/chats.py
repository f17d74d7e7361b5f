"""What the channels need of the agent, as protocols: the daemon hands the real service over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from sexton.gateway.channels.files import Picture, TextFile

WhenBusy: TypeAlias = Literal["queue", "interrupt", "steer", "refuse"]


class Conversation(Protocol):
    @property
    def id(self) -> str: ...


class TurnEnded(Protocol):
    """How a turn ended: `done`, `failed`, `stopped` or `interrupted`."""

    @property
    def turn(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    @property
    def hint(self) -> str | None: ...


class Turn(Protocol):
    @property
    def id(self) -> str: ...
    async def wait(self) -> TurnEnded: ...


class Event(Protocol):
    def as_json(self) -> dict[str, Any]: ...


class EventStream(Protocol):
    """What happens in one conversation, from now on."""

    def __aiter__(self) -> EventStream: ...
    async def __anext__(self) -> Event: ...
    async def aclose(self) -> None: ...


class MadePicture(Protocol):
    """A picture that came up in a turn: made by the model, or by a tool."""

    @property
    def media_type(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def name(self) -> str: ...


class Chats(Protocol):
    """Conversations; see `sexton.agent.Chats`."""

    async def conversation(self, key: str, *, way: str, settings: Any = None) -> Conversation: ...
    async def send(
        self, conversation_id: str, message: Any, *, when_busy: WhenBusy = "queue", message_key: str | None = None
    ) -> Turn: ...
    def stop(self, conversation_id: str) -> bool: ...
    def events(self, conversation_id: str) -> EventStream: ...
    async def pictures(self, turn_id: str) -> Sequence[MadePicture]: ...
    async def resume(self) -> None: ...
    async def asked(self, conversation_id: str) -> Sequence[str]: ...
    async def approve(self, approval_id: str, *, yes: bool, by: str) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a person said, with what came along."""

    text: str
    author: str = ""
    pictures: tuple[Picture, ...] = ()
    files: tuple[TextFile, ...] = ()


SayAs: TypeAlias = Callable[[Said], Any]
"""Makes the agent's message of what was said."""
