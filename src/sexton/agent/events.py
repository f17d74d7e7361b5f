"""What happens in a turn, as those hear it who follow it: frozen data, each with its JSON form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sexton.agent.budget import Usage
from sexton.journal import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """`turn` is the id of the turn that it belongs to."""

    turn: str

    def as_json(self) -> dict[str, JSON]:
        """Every field by its name, and `type`: the name of the class in snake_case."""
        document: dict[str, JSON] = {"type": event_type(type(self))}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            document[each.name] = value.as_json() if isinstance(value, Usage) else value
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(_Event):
    """`text` is what was asked, `author` who asked."""

    text: str
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta(_Event):
    """More of what the model says; deltas of one message follow one another."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWithdrawn(_Event):
    """The last `characters` that were told of this turn do not stand: the answer broke off and is asked for again."""

    characters: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallStarted(_Event):
    call: str
    server: str
    tool: str
    arguments: Mapping[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallEnded(_Event):
    """`state` is that of the record (`done`, `failed`, `denied`, …); `text` the beginning of the result."""

    call: str
    server: str
    tool: str
    state: str
    text: str
    seconds: float
    images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAsked(_Event):
    """The turn waits for a person.  `kind` is `call`, `elicitation` or `sampling`; `expires_at` is ISO 8601."""

    approval: str
    kind: str
    server: str
    tool: str
    question: Mapping[str, JSON]
    expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAnswered(_Event):
    approval: str
    state: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered(_Event):
    """A message came in while the turn was under way; the model has it from its next step on."""

    text: str
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChanged(_Event):
    """An earlier model of the chain could not answer; `model` does instead."""

    model: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(_Event):
    """The turn is over.  `state` is `done`, `failed`, `stopped` or `interrupted`; `text` the model's last message."""

    state: str
    text: str
    usage: Usage = field(default_factory=Usage)
    error: str | None = None
    hint: str | None = None
    output: JSON = None


TurnEvent: TypeAlias = (
    TurnStarted
    | TextDelta
    | TextWithdrawn
    | ToolCallStarted
    | ToolCallEnded
    | ApprovalAsked
    | ApprovalAnswered
    | Steered
    | ModelChanged
    | TurnEnded
)


def event_type(kind: type[object]) -> str:
    """`text_delta` for TextDelta."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
