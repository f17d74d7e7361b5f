"""The ledger's records as documents: trees that are known only from disk (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from sexton.gateway.documents import TreeDocument
from sexton.gateway.plain import plain


class Identity(Protocol):
    @property
    def pid(self) -> int: ...


class Record(Protocol):
    """What the ledger knows of one tree; `started_at` in seconds since 1970, `census` are the members last seen."""

    @property
    def tree(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def boundary(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def started_at(self) -> float: ...
    @property
    def keeper(self) -> Identity | None: ...
    @property
    def leader(self) -> Identity | None: ...
    @property
    def census(self) -> Sequence[Identity]: ...
    @property
    def stuck(self) -> Sequence[Any]: ...
    @property
    def externals(self) -> Sequence[Any]: ...


def record_document(record: Record, now: datetime) -> TreeDocument:
    """Nobody is asked who holds it, nor how much memory it uses."""
    return TreeDocument(
        id=record.tree,
        name=record.name,
        owner=record.owner,
        state=str(record.state),
        boundary=str(record.boundary),
        holders=[],
        leader_pid=record.leader.pid if record.leader else None,
        keeper_pid=record.keeper.pid if record.keeper else None,
        pids=[member.pid for member in record.census],
        memory=None,
        age=round(now.timestamp() - record.started_at, 3),
        started_at=datetime.fromtimestamp(record.started_at, UTC).isoformat(),
        reason=None if record.reason is None else str(record.reason),
        stuck=plain(record.stuck),
        external=plain(record.externals),
    )


def orphan_document(record: Record, now: datetime) -> TreeDocument:
    """A tree that nobody keeps any more; its record still says what its keeper wrote last."""
    document = record_document(record, now)
    document["state"] = "orphaned"
    return document
