"""What agents were told to remember, with full-text search."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import final

from sqlalchemy import Connection, delete, insert, select

from sexton.agent.conversation_store import clean, new_id
from sexton.database import Database, memory, search_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`source` says whose it is: `owner`, or the key of a conversation."""

    id: str
    text: str
    source: str
    at: datetime


@final
class MemoryStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, said: str, *, source: str, at: datetime) -> Memory:
        made = Memory(id=new_id(), text=clean(said), source=source, at=at)
        await self._database.write(lambda connection: _add(connection, made))
        return made

    async def find(self, words: str, *, source: str, limit: int) -> tuple[Memory, ...]:
        """Memories of that source that hold any of the words, best first; without words the newest."""
        return await self._database.read(lambda connection: _find(connection, words, source, limit))

    async def remove(self, memory_id: str, *, source: str) -> bool:
        """False if that source has no such memory."""
        statement = delete(memory).where(memory.c.id == memory_id, memory.c.source == source)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)


def _add(connection: Connection, made: Memory) -> None:
    values = {"id": made.id, "text": made.text, "source": made.source[:255], "at": made.at}
    connection.execute(insert(memory).values(**values))
    search_on(connection).add_memory(made.id, made.text)


def _find(connection: Connection, words: str, source: str, limit: int) -> tuple[Memory, ...]:
    ids = search_on(connection).memories(words, source=source, limit=limit)
    if ids is None:
        newest = select(memory.c.id).where(memory.c.source == source).order_by(memory.c.at.desc()).limit(limit)
        ids = tuple(connection.execute(newest).scalars())
    known = {row.id: row for row in connection.execute(select(memory).where(memory.c.id.in_(ids))).all()}
    found = (known[each] for each in ids)
    return tuple(Memory(id=row.id, text=row.text, source=row.source, at=row.at) for row in found)
