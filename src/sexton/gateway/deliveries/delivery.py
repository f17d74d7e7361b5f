"""What is sent, and what became of it: frozen data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from sexton.errors import UsageError
from sexton.journal import JSON

NOTHING: Mapping[str, JSON] = MappingProxyType({})


class DeliveryState(enum.StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    name: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is to be said.  `facts` are for receivers that are programs; `files` go with it where that can be."""

    text: str
    title: str | None = None
    facts: Mapping[str, JSON] = field(default_factory=lambda: NOTHING)
    files: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message on its way to one target.

    `target` is NAME or NAME:RECIPIENT.  `key` is the same at every attempt and
    unique for the target.  `attempts` counts those that have begun.
    `parts_sent` tells how far a message got that is sent in several parts.
    `due_at` is the time of the next attempt; its time to give up began at
    `since`.  `receipt` is what the receiver called it.
    """

    id: int
    target: str
    key: str
    state: DeliveryState
    message: Message
    job: str | None = None
    run: str | None = None
    attempts: int = 0
    parts_sent: int = 0
    created_at: datetime
    since: datetime
    due_at: datetime
    ended_at: datetime | None = None
    error: str | None = None
    receipt: str | None = None
    owner: str | None = None

    @property
    def name(self) -> str:
        """The target's name in the settings."""
        return self.target.partition(":")[0]

    @property
    def to(self) -> str | None:
        """The recipient there, if the target names one."""
        return self.target.partition(":")[2] or None


class UnknownDelivery(UsageError):
    def __init__(self, delivery: object) -> None:
        super().__init__(f"There is no delivery {delivery}.", hint="see them with: sexton deliveries")


def key_of_run(run_id: str) -> str:
    """The key under which the end of a run is told."""
    return f"run:{run_id}"
