"""What agents were told to remember, with full-text search."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import final

from sqlalchemy import Connection, delete, insert, select, text

from sexton.agent.conversation_store import clean, new_id
from sexton.database import Database, memory


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
        values = {"id": made.id, "text": made.text, "source": made.source[:255], "at": made.at}
        statement = insert(memory).values(**values)
        await self._database.write(lambda connection: connection.execute(statement).rowcount)
        return made

    async def find(self, words: str, *, source: str, limit: int) -> tuple[Memory, ...]:
        """Memories of that source that hold any of the words, best first; without words the newest."""
        return await self._database.read(lambda connection: _find(connection, words, source, limit))

    async def remove(self, memory_id: str, *, source: str) -> bool:
        """False if that source has no such memory."""
        statement = delete(memory).where(memory.c.id == memory_id, memory.c.source == source)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)


def _find(connection: Connection, words: str, source: str, limit: int) -> tuple[Memory, ...]:
    quoted = [f'"{word}"' for word in words.replace('"', " ").split()]
    if quoted:
        query = text(
            "SELECT m.id FROM memory_search s JOIN memory m ON m.id = s.id"
            " WHERE memory_search MATCH :words AND m.source = :source ORDER BY rank LIMIT :most"
        )
        given = {"words": " OR ".join(quoted), "source": source, "most": limit}
        ids = connection.execute(query, given).scalars().all()
    else:
        newest = select(memory.c.id).where(memory.c.source == source).order_by(memory.c.at.desc()).limit(limit)
        ids = connection.execute(newest).scalars().all()
    known = {row.id: row for row in connection.execute(select(memory).where(memory.c.id.in_(ids))).all()}
    found = (known[each] for each in ids)
    return tuple(Memory(id=row.id, text=row.text, source=row.source, at=row.at) for row in found)
