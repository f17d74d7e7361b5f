"""Takes everything from one database to another, which is empty, in one transaction of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Insert,
    LargeBinary,
    Table,
    Text,
    bindparam,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from sexton.database.connection import Database
from sexton.database.schema import revision_of
from sexton.database.search import search_on
from sexton.database.tables import memory, message, metadata, schema_line
from sexton.errors import SextonError, UsageError

ROWS_AT_ONCE = 500
BIG_ROWS_AT_ONCE = 10
"""Of tables whose rows may hold megabytes."""
TABLES = tuple(table for table in metadata.sorted_tables if table is not schema_line)
"""Those that are taken along, each after those that it refers to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    table: str
    rows: int
    of: int


class TargetNotEmpty(UsageError):
    """There is something already where everything was to go."""

    def __init__(self, where: str, table: str, rows: int) -> None:
        super().__init__(
            f"The database {where} is not empty: its table {table} has {rows} rows. Nothing was changed.",
            hint="make an empty database for it (createdb), or leave out the copy: what is there is in use already",
        )


class SchemasDiffer(UsageError):
    """A gateway of another version has changed one of the two."""


class CopyIncomplete(SextonError):
    """The rows do not add up; it was undone."""


async def count_rows(database: Database) -> Mapping[str, int]:
    """How many each table has; one that is not there yet has none.  Raises `DatabaseError`."""
    return await database.read(_count)


async def refuse_unless_empty(database: Database) -> None:
    """Raises TargetNotEmpty, DatabaseError."""
    await database.read(partial(_refuse_unless_empty, where=database.where))


async def copy_everything(source: Database, target: Database, *, tell: Callable[[Progress], None]) -> Mapping[str, int]:
    """Take all rows of `source` to `target`, all or none; return how many of each table.

    Nobody else may write to `source` meanwhile.  `tell` is called in another thread.  Raises TargetNotEmpty,
    SchemasDiffer, CopyIncomplete, DatabaseError.
    """

    def work(connection: Connection) -> Mapping[str, int]:
        _refuse_unless_empty(connection, target.where)
        try:
            return source.read_here(_Copy(connection, source.where, target.where, tell).run)
        except _TargetFailed as failed:
            raise failed.error from failed

    return await target.write(work)


class _TargetFailed(Exception):
    """Carries an error of the target through the transaction of the source, which must not take it for its own."""

    def __init__(self, error: DBAPIError) -> None:
        self.error = error


@contextmanager
def _on_target() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _TargetFailed(error) from error


@final
class _Copy:
    """One copy, within one transaction of each of the two databases."""

    def __init__(
        self, target: Connection, source_where: str, target_where: str, tell: Callable[[Progress], None]
    ) -> None:
        self._target = target
        self._source_where = source_where
        self._target_where = target_where
        self._tell = tell

    def run(self, source: Connection) -> Mapping[str, int]:
        self._compare_schemas(source)
        counts = _count(source)
        for table in TABLES:
            self._copy_table(source, table, counts[table.name])
        self._go_on_counting(source)
        with _on_target():
            arrived = _count(self._target)
        if arrived != counts:
            odd = ", ".join(
                f"{name} ({arrived[name]} of {counts[name]})" for name in counts if counts[name] != arrived[name]
            )
            raise CopyIncomplete(
                f"Not all rows arrived in {self._target_where}: {odd}. All was undone.",
                hint="see that nothing else uses the two databases, and try again; if it stays, report it",
            )
        return counts

    def _compare_schemas(self, source: Connection) -> None:
        with _on_target():
            there = revision_of(self._target)
        if (here := revision_of(source)) != there:
            raise SchemasDiffer(
                f"The database {self._source_where} has schema {here}, and {self._target_where} has {there}.",
                hint="run the copy with the newer of the two versions of Sexton that used them",
            )

    def _copy_table(self, source: Connection, table: Table, of: int) -> None:
        statement, done = _insertion(table), 0
        size = BIG_ROWS_AT_ONCE if _has_big_rows(table) else ROWS_AT_ONCE
        rows = source.execute(select(table).execution_options(yield_per=size))
        for some in rows.mappings().partitions(size):
            with _on_target():
                self._target.execute(statement, [dict(row) for row in some])
                self._make_searchable(table, some)
            done += len(some)
            self._tell(Progress(table=table.name, rows=done, of=of))

    def _make_searchable(self, table: Table, rows: Any) -> None:
        search = search_on(self._target)
        for row in rows:
            if table is message:
                search.add_message(row["conversation"], row["number"], row["text"])
            elif table is memory:
                search.add_memory(row["id"], row["text"])

    def _go_on_counting(self, source: Connection) -> None:
        """The next number is one that was never used, as if it had been counted here from the start."""
        if self._target.dialect.name != "postgresql":
            return
        for name, last in _last_numbers(source):
            with _on_target():
                query = text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :last)")
                self._target.execute(query, {"name": name, "last": last})


def _insertion(table: Table) -> Insert:
    """No JSON stays none, instead of becoming JSON's null, which a query would take for something."""
    return insert(table).values(
        {column.name: bindparam(column.name, type_=_type_of(column)) for column in table.columns}
    )


def _type_of(column: Column[Any]) -> TypeEngine[Any]:
    return JSON(none_as_null=True) if isinstance(column.type, JSON) and column.nullable else column.type


def _has_big_rows(table: Table) -> bool:
    return any(isinstance(column.type, LargeBinary | Text) for column in table.columns)


def _last_numbers(source: Connection) -> Iterator[tuple[str, int]]:
    """The highest number that SQLite ever gave to a row of each table that numbers its rows (its AUTOINCREMENT)."""
    counting = {table.name for table in TABLES if table.dialect_options["sqlite"]["autoincrement"]}
    for name, last in source.execute(text("SELECT name, seq FROM sqlite_sequence")).all():
        if name in counting and last:
            yield name, last


def _count(connection: Connection) -> Mapping[str, int]:
    present = set(inspect(connection).get_table_names())
    return {table.name: _rows_of(connection, table) if table.name in present else 0 for table in TABLES}


def _rows_of(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _refuse_unless_empty(connection: Connection, where: str) -> None:
    for table, rows in _count(connection).items():
        if rows:
            raise TargetNotEmpty(where, table, rows)
