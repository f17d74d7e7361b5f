"""The journals of all nodes on one database, so that what happened on a node can be read on every other, also after it.

Each node's journal stays what it is: in memory and in its file, appended to without waiting.  `JournalArchive` follows
it and writes what is new in few transactions: none while nothing happens, one a second at most.  It keeps the newest
`KEEP` events of all nodes together.  What a database that is away does not take is written once it is back, as far as
the journal still has it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, final

import anyio
import anyio.abc
from sqlalchemy import ColumnElement, Connection, Row, Text, cast, delete, func, insert, or_, select

from sexton.clock import Clock
from sexton.database import Database, DatabaseError, event
from sexton.journal import GAP, Event, Journal

KEEP = 100_000
AT_ONCE = 500
EVERY = 1.0
TRY_AGAIN = 5.0
LAST_WORDS = 5.0
PRUNE_AFTER = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """`id` orders the events of all nodes as they were written down; that of `event` is its place on its node."""

    id: int
    node: str
    event: Event


@final
class JournalArchive:
    """`after` is the id of the last event that is not written down: an earlier life's, in general."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        *,
        node: str,
        clock: Clock,
        after: int | None = None,
        keep: int = KEEP,
    ) -> None:
        self._database = database
        self._journal = journal
        self._node = node
        self._clock = clock
        self._keep = keep
        self._written = journal.last_id if after is None else after
        self._since_prune = 0

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write down each event after `after`, as they come, until cancelled."""
        task_status.started()
        while True:
            await self._journal.wait_after(self._written)
            try:
                await self.write_news()
            except DatabaseError:  # The scheduler meets and tells the same failure.
                await self._clock.sleep(TRY_AGAIN)
            else:
                await self._clock.sleep(EVERY)

    async def write_news(self) -> None:
        """Write down what is not written yet.  Raises `DatabaseError`."""
        while news := self._journal.since(self._written)[:AT_ONCE]:
            rows = [self._row(told) for told in news if told.kind != GAP]
            await self._database.write(partial(_add, rows=rows))
            self._written = news[-1].id
            self._since_prune += len(rows)
            if self._since_prune >= PRUNE_AFTER:
                await self._database.write(partial(_prune, keep=self._keep))
                self._since_prune = 0

    async def write_last_words(self, *, within: float = LAST_WORDS) -> None:
        """Write down what came after `run` ended, unless the database does not take it in time."""
        with anyio.move_on_after(within), suppress(DatabaseError):
            await self.write_news()

    async def events(
        self,
        *,
        node: str | None = None,
        kinds: Sequence[str] = (),
        subject: str | None = None,
        text: str = "",
        since: datetime | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[NodeEvent, ...]:
        """Those of all nodes or of one, newest first; with `after`, the first ones after that id.

        `kinds`: what they begin with; `text`: what is in the subject or the data.  Raises `DatabaseError`.
        """
        statement = select(event).order_by(event.c.id.desc()).limit(limit)
        if node is not None:
            statement = statement.where(event.c.node == node)
        if kinds:
            statement = statement.where(or_(*(event.c.kind.startswith(kind, autoescape=True) for kind in kinds)))
        if subject is not None:
            statement = statement.where(event.c.subject == subject)
        if text:
            statement = statement.where(_has_text(text))
        if since is not None:
            statement = statement.where(event.c.at >= since)
        if before is not None:
            statement = statement.where(event.c.id < before)
        if after is not None:
            statement = statement.where(event.c.id > after).order_by(None).order_by(event.c.id)
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        found = sorted(map(_node_event, rows), key=lambda each: each.id, reverse=True)
        return tuple(found)

    def _row(self, told: Event) -> dict[str, Any]:
        return {
            "node": self._node,
            "number": told.id,
            "at": told.at,
            "kind": told.kind,
            "subject": told.subject,
            "data": dict(told.data),
        }


def _has_text(text: str) -> ColumnElement[bool]:
    """In the data as it is stored: JSON in which only ASCII stands for itself."""
    stored = cast(event.c.data, Text).icontains(json.dumps(text)[1:-1], autoescape=True)
    return or_(event.c.subject.icontains(text, autoescape=True), stored)


def _add(connection: Connection, *, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(event), rows)


def _prune(connection: Connection, *, keep: int) -> None:
    newest = connection.execute(select(func.max(event.c.id))).scalar() or 0
    connection.execute(delete(event).where(event.c.id <= newest - keep))


def _node_event(row: Row[Any]) -> NodeEvent:
    told = Event(id=row.number, at=row.at, kind=row.kind, subject=row.subject, data=row.data)
    return NodeEvent(id=row.id, node=row.node, event=told)
