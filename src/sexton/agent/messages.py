"""What is said in a conversation, and what became of each tool call in it: frozen data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sexton.agent.result_marks import without_marks
from sexton.journal import JSON


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or another file that goes with a message.  `media_type` is a MIME type, such as `image/png`."""

    media_type: str
    data: bytes = field(repr=False)
    name: str = ""

    @property
    def is_image(self) -> bool:
        return self.media_type.startswith("image/")


@dataclass(frozen=True, slots=True)
class UserMessage:
    """What a person (or another program) says.  `author` is shown to the model where several people talk.

    `files` are texts with their names.  `Chats.send` puts their beginnings into the text, and keeps them for the model
    to read on.
    """

    text: str
    images: tuple[Attachment, ...] = ()
    author: str = ""
    files: tuple[tuple[str, str], ...] = ()


class Role(enum.StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class CallState(enum.StrEnum):
    """How far a tool call has come; it is on disk before the next step is taken."""

    PLANNED = "planned"
    """The model asked for it; nothing has happened."""
    ASKED = "asked"
    """A person is asked whether it may be made."""
    STARTED = "started"
    """It is, or is about to be, at the server: from here on it may have had its effect."""
    DONE = "done"
    FAILED = "failed"
    """The server, or we, said that it failed."""
    DENIED = "denied"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """The gateway ended while it was under way.  It is never made again by us."""

    @property
    def is_final(self) -> bool:
        return self in _FINAL


_FINAL = {CallState.DONE, CallState.FAILED, CallState.DENIED, CallState.CANCELLED, CallState.UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One tool call of one message of the model.

    `id` is the model's own, unique within its message; `name` the tool's
    qualified name, under which the model knows it.  `result` is what the model
    is given to read once the state is final.  `seconds` is how long it took.
    """

    id: str
    name: str
    server: str
    tool: str
    arguments: Mapping[str, JSON]
    state: CallState = CallState.PLANNED
    result: str = ""
    images: tuple[Attachment, ...] = ()
    seconds: float | None = None

    @property
    def shown(self) -> str:
        """The result as a person reads it, without the marks that are meant for the model."""
        return without_marks(self.result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One completed message.  `cut`: the model was stopped before it had said all of it."""

    role: Role
    text: str
    images: tuple[Attachment, ...] = ()
    author: str = ""
    calls: tuple[CallRecord, ...] = ()
    cut: bool = False
    number: int = 0
    turn: str = ""
    at: datetime | None = None

    @property
    def open_calls(self) -> tuple[CallRecord, ...]:
        """The calls of which nobody knows the end yet."""
        return tuple(call for call in self.calls if not call.state.is_final)


def user_message(said: UserMessage) -> Message:
    return Message(role=Role.USER, text=said.text, images=said.images, author=said.author)
