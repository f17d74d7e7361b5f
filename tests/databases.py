"""Where a test keeps its data: `database_at` names an SQLite file or, for the same path, a PostgreSQL database.

A test runs on both by asking for the fixture `each_database`.  The same path is the same database, also after a restart
of what is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from sexton.database import Database, Location

if TYPE_CHECKING:
    from postgres_server import PostgresServer

TEMPLATE = "migrated"


class PostgresDatabases:
    """Databases of one server, each with the whole schema and nothing in it, used again by one test after the other."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._idle: list[str] = []
        self._used: dict[Path, str] = {}
        server.admin(f"CREATE DATABASE {TEMPLATE} OWNER sexton")
        anyio.run(_migrate, server.url(TEMPLATE))
        self._schema = self._tables_of(TEMPLATE)
        self._tables = ", ".join(f'"{name}"' for name in sorted(self._schema - {"alembic_version", "schema_line"}))

    def at(self, path: Path) -> Location:
        if path not in self._used:
            self._used[path] = self._idle.pop() if self._idle else self._server.new_database(template=TEMPLATE)
        return self._server.url(self._used[path])

    def rows_at(self, path: Path) -> bytes:
        names = [name.strip() for name in self._tables.split(",")]
        found = [self._server.admin(f"SELECT t::text FROM {name} t", database=self._used[path]) for name in names]
        return repr(found).encode()

    def clear(self) -> None:
        """The test is over: nobody is connected any more, and what it left goes.

        A database that has further tables, such as an engine's, is not used again.
        """
        for name in self._used.values():
            if self._tables_of(name) == self._schema:
                self._server.admin(f"TRUNCATE {self._tables} RESTART IDENTITY CASCADE", database=name)
                self._idle.append(name)
            else:
                self._server.drop_database(name)
        self._used.clear()

    def _tables_of(self, name: str) -> set[str]:
        rows = self._server.admin("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database=name)
        return {str(row[0]) for row in rows}


async def _migrate(location: Location) -> None:
    async with Database.open(location):
        pass


_postgres: PostgresDatabases | None = None


@contextmanager
def on_postgres(databases: PostgresDatabases) -> Iterator[None]:
    """`database_at` names databases of that server."""
    global _postgres  # noqa: PLW0603 -- one test at a time
    _postgres = databases
    try:
        yield
    finally:
        _postgres = None
        databases.clear()


def database_at(path: Path) -> Location:
    return path if _postgres is None else _postgres.at(path)


def everything_at(path: Path) -> bytes:
    """All that is stored there, to look for what must not be."""
    return path.read_bytes() if _postgres is None else _postgres.rows_at(path)
