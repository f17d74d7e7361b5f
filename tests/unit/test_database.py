"""The database: its schema, its transactions, and what it says when it cannot."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, select, text

import sexton
from databases import database_at
from sexton import database as tables
from sexton.database import Database, DatabaseError, Failure, Location
from sexton.database.backend import Access
from sexton.database.connection import backend_of
from sexton.database.schema import LINE, MIGRATIONS
from small_disk import fill, remount_read_only, small_disk
from waiting import PATIENCE

pytestmark = pytest.mark.anyio


async def count_nodes(database: Database) -> int:
    return await database.read(lambda connection: len(connection.execute(select(tables.node)).all()))


def add_padded(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE IF NOT EXISTS ballast (content TEXT)"))
    connection.execute(text("INSERT INTO ballast VALUES (hex(zeroblob(100000)))"))


@pytest.mark.usefixtures("each_database")
async def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        def is_meant(found: object, name: str | None, *_: object) -> bool:
            only_for = getattr(found, "_ddl_if", None)
            return "_search" not in (name or "") and (only_for is None or only_for.dialect == connection.dialect.name)

        on_sqlite = connection.dialect.name == "sqlite"  # PostgreSQL's texts have no length
        opts = {"include_object": is_meant, "compare_type": on_sqlite}
        return list(compare_metadata(MigrationContext.configure(connection, opts=opts), tables.job.metadata))

    async with Database.open(database_at(tmp_path / "sexton.db")) as database:
        assert await database.read(differences) == []


async def test_each_migration_only_adds(tmp_path: Path) -> None:
    """Within a minor release the older versions go on: what they write must be enough, what they read must be there."""
    before: dict[str, dict[str, Any]] = {}
    for revision in revisions():
        with create_engine(f"sqlite:///{tmp_path / 'each.db'}").begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            now = columns_of(connection)
        for table, columns in before.items():
            assert columns.keys() <= now[table].keys(), (revision, table)
            for name in now[table].keys() - columns.keys():
                column = now[table][name]
                assert column["nullable"] or column["default"] is not None, (revision, table, name)
        before = now


def test_the_line_is_that_of_the_version() -> None:
    assert sexton.__version__.startswith(f"{LINE}.")


def revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return [script.revision for script in reversed(list(ScriptDirectory.from_config(config).walk_revisions()))]


def columns_of(connection: Connection) -> dict[str, dict[str, Any]]:
    inspector = inspect(connection)
    names = [name for name in inspector.get_table_names() if "_search" not in name]
    return {name: {str(column["name"]): column for column in inspector.get_columns(name)} for name in names}


@pytest.mark.usefixtures("each_database")
async def test_an_older_version_of_one_minor_release_uses_the_newer_schema(tmp_path: Path) -> None:
    """As in a rolling upgrade: the newer gateway has migrated, the older one starts again."""
    location = database_at(tmp_path / "sexton.db")
    async with Database.open(location) as database:
        await database.write(lambda connection: connection.execute(text(AS_MIGRATED_BY_A_NEWER)))
    try:
        async with Database.open(location) as database:
            assert await count_nodes(database) == 0
            await database.write(lambda connection: connection.execute(text("UPDATE schema_line SET line = '0.999'")))
        error = await refused(location)
        assert error.failure is Failure.NEWER_SCHEMA
    finally:
        backend = backend_of(location)
        backend.transact(put_back, Access.WRITE)
        backend.close()


AS_MIGRATED_BY_A_NEWER = "UPDATE alembic_version SET version_num = '9999'"


def put_back(connection: Connection) -> None:
    """For the next test on this database."""
    connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": revisions()[-1]})
    connection.execute(text("UPDATE schema_line SET line = :line"), {"line": LINE})


async def test_the_file_is_private_durable_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "sexton.db"
    for _ in range(2):
        async with Database.open(path) as database:
            pragmas = [
                await database.read(lambda connection, name=name: connection.execute(text(f"PRAGMA {name}")).scalar())  # type: ignore[misc]
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
            assert pragmas == ["wal", 2, 1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (x)"))
        raise ZeroDivisionError

    async with Database.open(tmp_path / "sexton.db") as database:
        with pytest.raises(ZeroDivisionError):
            await database.write(half)
        with pytest.raises(DatabaseError, match="no such table: half"):
            await database.read(lambda connection: connection.execute(text("SELECT * FROM half")).all())


async def test_a_cancelled_transaction_is_whole(tmp_path: Path) -> None:
    """The caller's cancellation waits for the commit; it never tears it."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE whole (x)"))
        inside.set()
        go_on.wait(PATIENCE)

    async with Database.open(tmp_path / "sexton.db") as database:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.write, slow)
            await anyio.to_thread.run_sync(inside.wait)
            tasks.cancel_scope.cancel()
            go_on.set()
        assert await database.read(lambda connection: connection.execute(text("SELECT * FROM whole")).all()) == []


async def test_reading_goes_on_while_writing_waits(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE later (x)"))
        inside.set()
        go_on.wait(PATIENCE)

    async with Database.open(tmp_path / "sexton.db") as database, anyio.create_task_group() as tasks:
        tasks.start_soon(database.write, slow)
        await anyio.to_thread.run_sync(inside.wait)
        assert await count_nodes(database) == 0
        go_on.set()


async def refused(path: Location) -> DatabaseError:
    with pytest.raises(DatabaseError) as raised:
        async with Database.open(path, busy_timeout=0.01):
            pass
    return raised.value


async def test_locked(tmp_path: Path) -> None:
    path = tmp_path / "sexton.db"
    async with Database.open(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    error = await refused(path)
    assert error.failure is Failure.LOCKED
    assert "locked by another program" in error.what
    other.close()


@pytest.mark.parametrize("content", [b"this is a letter to my aunt " * 100, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sexton.db"
    path.write_bytes(content)
    error = await refused(path)
    assert error.failure is Failure.CORRUPT
    assert error.hint is not None
    assert "move the file aside" in error.hint
    assert path.read_bytes() == content


async def test_a_damaged_page_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sexton.db"
    async with Database.open(path) as database:
        await database.write(add_padded)
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 200] = b"\xa5" * 200
    path.write_bytes(content)
    with pytest.raises(DatabaseError) as raised:
        async with Database.open(path) as database:
            await database.read(lambda connection: connection.execute(text("SELECT count(content) FROM ballast")).all())
    assert raised.value.failure is Failure.CORRUPT


async def test_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "sexton.db"
    async with Database.open(path) as database:
        await database.write(lambda connection: connection.execute(text(AS_MIGRATED_BY_A_NEWER)))
        await database.write(lambda connection: connection.execute(text("DROP TABLE schema_line")))
    error = await refused(path)
    assert error.failure is Failure.NEWER_SCHEMA
    assert "schema 9999; this one knows up to 0" in error.what


async def test_no_folder_and_a_folder_in_its_place(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "sexton.db", tmp_path):
        error = await refused(path)
        assert error.failure is Failure.CANNOT_OPEN
        assert str(path) in error.what


async def test_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=2000) as disk:
        path = disk / "sexton.db"
        async with Database.open(path):
            pass
        remount_read_only(disk)
        error = await refused(path)
        assert error.failure is Failure.READ_ONLY
        assert "cannot be written" in error.what


async def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=200) as disk:
        fill(disk)
        error = await refused(disk / "sexton.db")
        assert error.failure is Failure.FULL
        assert "is full" in error.what


async def test_a_disk_that_fills_loses_nothing_that_was_committed_and_serves_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=1000) as disk:
        async with Database.open(disk / "sexton.db") as database:
            await database.write(add_padded)
            ballast = fill(disk)
            with pytest.raises(DatabaseError) as raised:
                await database.write(add_padded)
            assert raised.value.failure is Failure.FULL
            assert raised.value.passing
            ballast.unlink()
            await database.write(add_padded)
            rows = await database.read(lambda connection: connection.execute(text("SELECT 1 FROM ballast")).all())
            assert len(rows) == 2
