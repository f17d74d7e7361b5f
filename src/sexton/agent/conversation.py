"""Conversations, as those see them who list, show, export and search them: frozen data."""

from __future__ import annotations

import base64
import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sexton.agent.budget import Budget, Usage
from sexton.agent.messages import Attachment, CallRecord, Message, UserMessage
from sexton.agent.model_config import Approval
from sexton.agent.tool_rules import ToolRules
from sexton.journal import JSON


class TurnState(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    """Somebody ended it: by a stop, or by a message that interrupts."""
    MERGED = "merged"
    """Its message was taken in by the turn that was under way."""

    @property
    def is_over(self) -> bool:
        return self not in {TurnState.QUEUED, TurnState.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """What one chat may do; None is what `[agent]` says.

    `servers` None: those of `[agent] servers`, or all.  `may` names what of
    Sexton's own tools it has: `jobs`, `memory`, `send`.
    """

    models: tuple[str, ...] | None = None
    servers: tuple[str, ...] | None = None
    tools: ToolRules = field(default_factory=ToolRules)
    approvals: Approval | None = None
    budget: Budget | None = None
    instructions: str = ""
    may: tuple[str, ...] = ("jobs", "memory", "send")

    def as_json(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        document["approvals"] = None if self.approvals is None else str(self.approvals)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ChatSettings:
        """The reverse of `as_json`, for what it made."""
        given = dict(document)
        budget = given.get("budget")
        return cls(
            models=_names(given.get("models")),
            servers=_names(given.get("servers")),
            tools=ToolRules.from_json(given.get("tools")),
            approvals=None if given.get("approvals") is None else Approval(given["approvals"]),
            budget=None if budget is None else Budget(**budget),
            instructions=given.get("instructions", ""),
            may=_names(given.get("may")) or (),
        )


def _names(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(map(str, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One conversation.  `key` is how its way in knows it; `busy`: a turn of it is waiting or under way."""

    id: str
    key: str
    way: str
    title: str
    settings: ChatSettings
    created_at: datetime
    changed_at: datetime
    summary: str = ""
    summary_upto: int = 0
    busy: bool = False

    def as_json(self) -> dict[str, JSON]:
        return {
            "id": self.id,
            "key": self.key,
            "way": self.way,
            "title": self.title,
            "created_at": self.created_at.isoformat(),
            "changed_at": self.changed_at.isoformat(),
            "busy": self.busy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """One message that somebody sent, and what became of it."""

    id: str
    conversation: str
    state: TurnState
    said: UserMessage
    attempt: int = 0
    merged_into: str | None = None
    text: str = ""
    error: str | None = None
    hint: str | None = None
    usage: Mapping[str, JSON] = field(default_factory=dict)
    created_at: datetime

    def as_json(self) -> dict[str, JSON]:
        return {
            "id": self.id,
            "state": str(self.state),
            "text": self.text,
            "error": self.error,
            "hint": self.hint,
            "usage": dict(self.usage),
            "created_at": self.created_at.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRecord:
    """A conversation with all that was said in it, and the turns that wait, run or failed."""

    conversation: Conversation
    messages: tuple[Message, ...]
    turns: tuple[TurnRow, ...]

    def as_json(self, *, with_data: bool = False) -> dict[str, JSON]:
        """`with_data` puts the images in, in base64, as an export has them."""
        return {
            "conversation": self.conversation.as_json(),
            "messages": [message_json(message, with_data=with_data) for message in self.messages],
            "turns": [turn.as_json() for turn in self.turns],
        }

    def as_markdown(self) -> str:
        """The conversation to read."""
        parts = [f"# {self.conversation.title}"]
        for message in self.messages:
            who = message.author or str(message.role)
            parts.append(f"## {who}\n\n{message.text}" if message.text else f"## {who}")
            parts += [f"> `{call.server}.{call.tool}` {call.state}" for call in message.calls]
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One message that a search found; `excerpt` is the place, with the words between « and »."""

    conversation: str
    title: str
    number: int
    role: str
    excerpt: str
    at: datetime

    def as_json(self) -> dict[str, JSON]:
        return {
            "conversation": self.conversation,
            "title": self.title,
            "number": self.number,
            "role": self.role,
            "excerpt": self.excerpt,
            "at": self.at.isoformat(),
        }


def message_json(message: Message, *, with_data: bool = False) -> dict[str, JSON]:
    return {
        "number": message.number,
        "turn": message.turn,
        "role": str(message.role),
        "text": message.text,
        "author": message.author,
        "cut": message.cut,
        "at": message.at.isoformat() if message.at else None,
        "images": [_image_json(image, with_data=with_data) for image in message.images],
        "calls": [_call_json(call, with_data=with_data) for call in message.calls],
    }


def _call_json(call: CallRecord, *, with_data: bool) -> dict[str, JSON]:
    return {
        "id": call.id,
        "server": call.server,
        "tool": call.tool,
        "arguments": dict(call.arguments),
        "state": str(call.state),
        "result": call.shown,
        "seconds": call.seconds,
        "images": [_image_json(image, with_data=with_data) for image in call.images],
    }


def _image_json(image: Attachment, *, with_data: bool) -> dict[str, JSON]:
    document: dict[str, JSON] = {"media_type": image.media_type, "name": image.name, "bytes": len(image.data)}
    if with_data:
        document["data"] = base64.b64encode(image.data).decode()
    return document


def usage_of(document: Mapping[str, Any]) -> Usage:
    """The reverse of `Usage.as_json`."""
    given = dict(document)
    return Usage(**{**given, "models": tuple(given.get("models", ()))}) if given else Usage()
