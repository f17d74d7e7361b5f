"""PostgreSQL under `Database`: what differs from SQLite, and what must not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, func, insert, select, text, update

from cutting_proxy import Cut, CuttingProxy, cutting_proxy
from postgres_server import PASSWORD, PostgresServer
from sexton import database as tables
from sexton.database import Database, DatabaseError, Failure, PostgresUrl
from sexton.database.tables import EPOCH

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[PostgresUrl]:
    """An empty database."""
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.drop_database(name)


def add_node(connection: Connection, node: str, **values: Any) -> None:
    row = {"id": node, "name": node, "process": {}, "beat": 0, "started_at": EPOCH}
    connection.execute(insert(tables.node).values({**row, **values}))


def count_nodes(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(tables.node)).scalar_one()


def beat(connection: Connection) -> int:
    found: int = connection.execute(select(tables.node.c.beat)).scalar_one()
    return found


async def test_gateways_that_start_at_once_on_an_empty_database_make_it_once(url: PostgresUrl) -> None:
    async def start() -> None:
        async with Database.open(url) as database:
            assert await database.read(count_nodes) == 0

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(start)


async def test_a_write_takes_its_turn_before_it_looks(url: PostgresUrl) -> None:
    """Two gateways that read and then write: the second sees what the first wrote, though it came while that ran."""
    inside, go_on = threading.Event(), threading.Event()

    def slowly(connection: Connection) -> None:
        found = beat(connection)
        inside.set()
        assert go_on.wait(60)
        connection.execute(update(tables.node).values(beat=found + 1))

    def at_once(connection: Connection) -> None:
        connection.execute(update(tables.node).values(beat=beat(connection) + 1))

    async with Database.open(url) as one, Database.open(url) as other:
        await one.write(lambda connection: add_node(connection, "n"))
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.write, slowly)
                await anyio.to_thread.run_sync(inside.wait)
                tasks.start_soon(other.write, at_once)
                await wait_for_waiter(one)
                go_on.set()
        assert await other.read(beat) == 2


async def wait_for_waiter(database: Database) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    while not await database.read(lambda connection: connection.execute(waiting).scalar_one()):  # noqa: ASYNC110
        await anyio.sleep(0.01)


async def test_a_free_write_does_not_wait_for_its_turn(url: PostgresUrl) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slowly(connection: Connection) -> None:
        inside.set()
        assert go_on.wait(60)

    async with Database.open(url) as database:
        await database.write(lambda connection: add_node(connection, "n"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(database.write, slowly)
            await anyio.to_thread.run_sync(inside.wait)
            with anyio.fail_after(60):
                await database.write(
                    lambda connection: connection.execute(update(tables.node).values(beat=7)), in_turn=False
                )
            go_on.set()
        assert await database.read(beat) == 7


async def test_a_read_sees_one_state_and_writes_nothing(url: PostgresUrl) -> None:
    def twice(connection: Connection) -> tuple[int, int]:
        before = count_nodes(connection)
        anyio.from_thread.run(database.write, lambda connection: add_node(connection, "n"))
        return before, count_nodes(connection)

    async with Database.open(url) as database:
        assert await database.read(twice) == (0, 0)
        assert await database.read(count_nodes) == 1
        with pytest.raises(DatabaseError) as raised:
            await database.read(lambda connection: add_node(connection, "other"))
        assert raised.value.failure is Failure.READ_ONLY


async def test_a_connection_that_was_cut_is_replaced(url: PostgresUrl, postgres: PostgresServer) -> None:
    async with Database.open(url) as database:
        await database.write(lambda connection: add_node(connection, "n"))
        await database.read(count_nodes)
        for _ in range(3):
            cut_all(postgres, url)
            await database.write(lambda connection: connection.execute(update(tables.node).values(beat=9)))
            assert await database.read(beat) == 9


def cut_all(postgres: PostgresServer, url: PostgresUrl) -> None:
    name = str(url).rpartition("/")[2]
    postgres.admin(f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{name}'")


async def test_work_that_was_cut_off_is_done_again_and_once(url: PostgresUrl, postgres: PostgresServer) -> None:
    attempts = 0

    def cut_off_once(connection: Connection) -> None:
        nonlocal attempts
        attempts += 1
        add_node(connection, "n")
        if attempts == 1:
            cut_all(postgres, url)
        add_node(connection, "m")

    async with Database.open(url) as database:
        await database.write(cut_off_once)
        assert (attempts, await database.read(count_nodes)) == (2, 2)


@pytest.mark.parametrize(("cut", "attempts"), [(Cut.BEFORE, 2), (Cut.AFTER, 1)])
async def test_a_connection_that_is_lost_at_the_commit(
    url: PostgresUrl, postgres: PostgresServer, cut: Cut, attempts: int
) -> None:
    """The server is asked what became of it: work that was committed is not done again, and its result is not lost."""
    made = []

    def add(connection: Connection) -> str:
        made.append(1)
        add_node(connection, f"n{len(made)}")
        return "done"

    with cutting_proxy(postgres.port) as proxy:
        async with Database.open(through(proxy, url)) as database:
            proxy.next_commit = cut
            assert await database.write(add) == "done"
            assert (proxy.cuts, len(made)) == (1, attempts)
            assert await database.read(count_nodes) == 1


async def test_a_commit_whose_outcome_nobody_can_tell(
    url: PostgresUrl, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sexton.database.postgres.DOUBT_LASTS", 0.5)
    with cutting_proxy(postgres.port) as proxy:
        async with Database.open(through(proxy, url)) as database:
            proxy.next_commit, proxy.takes_more = Cut.AFTER, False
            with pytest.raises(DatabaseError, match="lost at a commit") as raised:
                await database.write(lambda connection: add_node(connection, "n"))
            assert raised.value.failure is Failure.AWAY
            proxy.takes_more = True
            assert await database.read(count_nodes) == 1


def through(proxy: CuttingProxy, url: PostgresUrl) -> PostgresUrl:
    head, _, name = url.text.rpartition("/")
    return PostgresUrl(f"{head.rpartition(':')[0]}:{proxy.port}/{name}")


async def test_an_examination_tells_what_is_wrong_and_changes_nothing(
    url: PostgresUrl, postgres: PostgresServer
) -> None:
    await Database.examine(url)
    assert (
        postgres.admin("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", database=url.text.rpartition("/")[2])
        == []
    )
    with pytest.raises(DatabaseError) as raised:
        await Database.examine(postgres.url("nowhere"))
    assert raised.value.failure is Failure.NO_DATABASE


async def test_texts_and_numbers_that_postgresql_does_not_take(url: PostgresUrl) -> None:
    """What a program says may hold anything; none of it may keep a run from being recorded."""
    process = {"nul": "a\0b", "half": "\ud800", "number": float("nan"), "deep": [float("inf")]}
    async with Database.open(url) as database:
        await database.write(lambda connection: add_node(connection, "n\0\ud800", name="x" * 1000, process=process))
        row = await database.read(lambda connection: connection.execute(select(tables.node)).one())
    assert (row.id, row.name) == ("n\N{REPLACEMENT CHARACTER}?", "x" * 1000)
    assert row.process == {"nul": "a\0b", "half": "\ud800", "number": None, "deep": [None]}


async def refused(url: PostgresUrl) -> DatabaseError:
    with pytest.raises(DatabaseError) as raised:
        async with Database.open(url):
            pass
    assert PASSWORD not in raised.value.what
    assert str(url) in raised.value.what
    return raised.value


async def test_why_it_cannot_be_opened(url: PostgresUrl, postgres: PostgresServer) -> None:
    wrong = PostgresUrl(url.text.replace(PASSWORD, "wrong"))
    assert (await refused(wrong)).failure is Failure.LOGIN
    assert (await refused(postgres.url("nowhere"))).failure is Failure.NO_DATABASE
    assert (await refused(postgres.url("postgres", port=1))).failure is Failure.AWAY
    assert (
        await refused(PostgresUrl(f"{url.text}?options=-cdefault_transaction_read_only%3Don"))
    ).failure is Failure.READ_ONLY
    assert (await refused(postgres.url("postgres"))).failure is Failure.FORBIDDEN
    postgres.admin("CREATE DATABASE latin OWNER sexton TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    assert (await refused(postgres.url("latin"))).failure is Failure.UNFIT


def test_an_address_is_shown_without_its_secrets() -> None:
    url = PostgresUrl("postgresql://me:p%40ss@a:1,b:2/db?password=other&sslmode=require")
    assert (str(url), repr(url)) == ("postgresql://me@a:1,b:2/db", "PostgresUrl()")
    assert url.secrets() == {"p%40ss", "p@ss", "other"}
    assert str(PostgresUrl("postgresql:///db?host=/run/postgresql")) == "postgresql:///run/postgresql/db"
