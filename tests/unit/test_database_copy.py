"""Everything goes from an SQLite file to an empty PostgreSQL database, or nothing does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Column, Connection, Float, LargeBinary, delete, insert, select, text

from postgres_server import PostgresServer
from sexton import database as tables
from sexton.database import Database, PostgresUrl, Progress, copy_everything, count_rows, search_on
from sexton.database.tables import EPOCH, Instant, metadata
from sexton.database.transfer import ROWS_AT_ONCE, TABLES, CopyIncomplete, SchemasDiffer, TargetNotEmpty
from sexton.errors import SextonError

pytestmark = pytest.mark.anyio
COUNTING = (tables.delivery, tables.inbox, tables.event)


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[PostgresUrl]:
    """An empty database."""
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.drop_database(name)


def value_of(column: Column[Any]) -> Any:
    """Some value that a column may hold; a column that refers to another has that one's."""
    for key in column.foreign_keys:
        return value_of(key.column)
    if isinstance(column.type, Instant):
        return EPOCH + timedelta(days=20_000, microseconds=1)
    if isinstance(column.type, JSON):
        return {"a": [1, None, "\N{SNOWMAN}"]}
    if isinstance(column.type, Boolean):
        return True
    if isinstance(column.type, Float):
        return 0.1
    if isinstance(column.type, LargeBinary):
        return b"\x00\xff" * 1000
    if isinstance(column.type, BigInteger):
        return 2**40
    return (
        7
        if column.type.python_type is int
        else f"{column.name} of it, \N{SNOWMAN}"[: getattr(column.type, "length", None)]
    )


def fill(connection: Connection) -> None:
    """A row in every table, more of some, and of each that counts a last number that is gone again."""
    for table in TABLES:
        connection.execute(insert(table).values({column.name: value_of(column) for column in table.columns}))
    for table in COUNTING:
        connection.execute(insert(table).values(row_of(table, id=1000)))
        connection.execute(delete(table).where(table.c.id == 1000))
    numbers = range(10, 11 + ROWS_AT_ONCE)
    for number in numbers:
        said = "Grüße an die Welt\x00" if number == 10 else f"message {number}"
        connection.execute(
            insert(tables.message).values(row_of(tables.message, number=number, text=said, replaced=False))
        )
    bare = {"id": "second", "asked": None, "content": None, "key": "second"}
    connection.execute(insert(tables.approval).values(row_of(tables.approval, **{**bare, "asked": {}})))


def row_of(table: Any, **values: Any) -> dict[str, Any]:
    row = {column.name: value_of(column) for column in table.columns}
    for name, value in row.items():
        unique = any(name in [column.name for column in each.columns] for each in table.constraints)
        if unique and isinstance(value, str) and not table.c[name].foreign_keys:
            row[name] = f"2{value}"[: table.c[name].type.length]
    return {**row, **values}


def everything(connection: Connection) -> dict[str, list[Any]]:
    found = {table.name: [tuple(row) for row in connection.execute(select(table))] for table in TABLES}
    return {name: sorted(map(repr, rows)) for name, rows in found.items()}


def tell_nobody(progress: Progress) -> None:
    """Nobody wants to know."""


async def test_every_row_arrives_and_the_database_goes_on_from_there(tmp_path: Path, url: PostgresUrl) -> None:
    told: list[Progress] = []
    async with Database.open(tmp_path / "db") as source, Database.open(url) as target:
        await source.write(fill)
        counted = await copy_everything(source, target, tell=told.append)
        before, after = await source.read(everything), await target.read(everything)
        before["message"] = [row.replace(r"\x00", "\N{REPLACEMENT CHARACTER}") for row in before["message"]]
        assert before == after
        assert counted == await count_rows(source) == await count_rows(target)
        assert all(counted.values())
        assert Progress(table="message", rows=counted["message"], of=counted["message"]) in told

        def go_on(connection: Connection) -> list[int]:
            return [
                connection.execute(
                    insert(table).values({k: v for k, v in row_of(table).items() if k != "id"}).returning(table.c.id)
                ).scalar_one()
                for table in COUNTING
            ]

        assert await target.write(go_on) == [1001, 1001, 2**40 + 1]
        found = await target.read(lambda connection: search_on(connection).messages("gruße WELT", limit=5))
        assert [one.number for one in found] == [10]
        source_of_it = value_of(tables.memory.c.source)
        remembered = await target.read(
            lambda connection: search_on(connection).memories("text", source=source_of_it, limit=5)
        )
        assert remembered == (value_of(tables.memory.c.id),)
        missing = text("SELECT count(*) FROM approval WHERE content IS NULL")
        assert await target.read(lambda connection: connection.execute(missing).scalar()) == 1


async def test_every_table_of_ours_is_taken_along(url: PostgresUrl) -> None:
    """A table that a migration makes and that nobody named here would be left behind in silence."""
    async with Database.open(url) as target:
        query = text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        there = await target.read(lambda connection: set(connection.execute(query).scalars()))
    made_by_search = {"message_search", "memory_search"}
    assert there - made_by_search - {"alembic_version", "schema_line"} == {table.name for table in TABLES}
    assert {table.name for table in metadata.sorted_tables} - {"schema_line"} == {table.name for table in TABLES}


async def test_a_database_that_is_not_empty_is_refused(tmp_path: Path, url: PostgresUrl) -> None:
    async with Database.open(tmp_path / "db") as source, Database.open(url) as target:
        await source.write(fill)
        await target.write(lambda connection: connection.execute(insert(tables.node).values(row_of(tables.node))))
        with pytest.raises(TargetNotEmpty, match="its table node has 1 rows") as refused:
            await copy_everything(source, target, tell=tell_nobody)
        assert "hunter2" not in str(refused.value)
        assert sum((await count_rows(target)).values()) == 1


@pytest.mark.parametrize("broken", ["UPDATE alembic_version SET version_num = '0001'", "row"])
async def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, url: PostgresUrl, broken: str) -> None:
    """Once because the schemas are not the same, once because the server refuses the last of the rows."""
    async with Database.open(tmp_path / "db") as source, Database.open(url) as target:
        await source.write(fill)
        statement = broken if broken != "row" else f"ALTER TABLE {TABLES[-1].name} ADD CHECK (false)"
        await target.write(lambda connection: connection.execute(text(statement)))
        with pytest.raises((SchemasDiffer, SextonError)) as failed:
            await copy_everything(source, target, tell=tell_nobody)
        assert isinstance(failed.value, SchemasDiffer) == (broken != "row")
        assert str(url) in str(failed.value)
        assert sum((await count_rows(target)).values()) == 0


async def test_rows_that_vanish_on_the_way_are_noticed(tmp_path: Path, url: PostgresUrl) -> None:
    async with Database.open(tmp_path / "db") as source, Database.open(url) as target:
        await source.write(fill)
        await target.write(
            lambda connection: connection.execute(text("CREATE RULE lost AS ON INSERT TO token DO INSTEAD NOTHING"))
        )
        with pytest.raises(CopyIncomplete, match=r"token \(0 of 1\)\. All was undone"):
            await copy_everything(source, target, tell=tell_nobody)
        assert sum((await count_rows(target)).values()) == 0
