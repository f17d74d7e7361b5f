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
    """`source` is the key of the conversation, or the job, that asked to remember it."""

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

    async def find(self, words: str, *, limit: int) -> tuple[Memory, ...]:
        """Memories that hold any of the words, best first; without words the newest."""
        return await self._database.read(lambda connection: _find(connection, words, limit))

    async def remove(self, memory_id: str) -> bool:
        statement = delete(memory).where(memory.c.id == memory_id)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)


def _find(connection: Connection, words: str, limit: int) -> tuple[Memory, ...]:
    quoted = [f'"{word}"' for word in words.replace('"', " ").split()]
    if quoted:
        query = text("SELECT id FROM memory_search WHERE memory_search MATCH :words ORDER BY rank LIMIT :most")
        ids = connection.execute(query, {"words": " OR ".join(quoted), "most": limit}).scalars().all()
    else:
        ids = connection.execute(select(memory.c.id).order_by(memory.c.at.desc()).limit(limit)).scalars().all()
    known = {row.id: row for row in connection.execute(select(memory).where(memory.c.id.in_(ids))).all()}
    found = (known[each] for each in ids)
    return tuple(Memory(id=row.id, text=row.text, source=row.source, at=row.at) for row in found)
