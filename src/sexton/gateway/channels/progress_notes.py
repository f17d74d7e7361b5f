"""The messages that say how far a turn is, as rows of the database, so that none of them outlives a crash.

A row is there before its message is sent, and until the message is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, final

from sqlalchemy import Connection, Row, delete, insert, select, update

from sexton import database as tables
from sexton.database import Database
from sexton.journal import JSON

_note = tables.progress_note


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressNote:
    """`message` is what the platform calls it; None while it is not known whether it was sent."""

    key: str
    channel: str
    chat: str
    context: Mapping[str, JSON]
    message: str | None = None
    created_at: datetime


@final
class ProgressNotes:
    """Every method is one transaction, and raises `DatabaseError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, note: ProgressNote) -> None:
        await self._database.write(partial(_add, note=note))

    async def sent(self, key: str, message: str) -> None:
        """The platform has it, under that name."""
        await self._database.write(partial(_sent, key=key, message=message))

    async def forget(self, key: str) -> None:
        await self._database.write(partial(_forget, key=key))

    async def left(self, channel: str) -> tuple[ProgressNote, ...]:
        """What was not taken away yet, the oldest first."""
        return await self._database.read(partial(_left, channel=channel))


def _add(connection: Connection, *, note: ProgressNote) -> None:
    values = {"key": note.key, "channel": note.channel, "chat": note.chat, "created_at": note.created_at}
    connection.execute(insert(_note).values(**values, context=dict(note.context), message=note.message))


def _sent(connection: Connection, *, key: str, message: str) -> None:
    connection.execute(update(_note).where(_note.c.key == key).values(message=message))


def _forget(connection: Connection, *, key: str) -> None:
    connection.execute(delete(_note).where(_note.c.key == key))


def _left(connection: Connection, *, channel: str) -> tuple[ProgressNote, ...]:
    rows = connection.execute(select(_note).where(_note.c.channel == channel).order_by(_note.c.created_at)).all()
    return tuple(_of(row) for row in rows)


def _of(row: Row[Any]) -> ProgressNote:
    return ProgressNote(
        key=row.key,
        channel=row.channel,
        chat=row.chat,
        context=row.context,
        message=row.message,
        created_at=row.created_at,
    )


def prune_notes(connection: Connection, *, before: datetime) -> None:
    """Forget those of channels that are gone for good."""
    connection.execute(delete(_note).where(_note.c.created_at < before))
