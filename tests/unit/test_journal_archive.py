"""The journals of several nodes in one database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from databases import database_at
from fake_clock import FakeClock, settle
from scheduling import inline
from sexton.database import Database, DatabaseError, Failure
from sexton.gateway.journal_archive import JournalArchive, NodeEvent
from sexton.journal import Journal

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]


def told(found: tuple[NodeEvent, ...]) -> list[tuple[str, int, str]]:
    return [(each.node, each.event.id, each.event.subject) for each in found]


async def test_what_happens_on_one_node_is_read_on_another(tmp_path: Path) -> None:
    clock = FakeClock()
    here, there = Journal.open(clock=clock), Journal.open(clock=clock)
    here.append("run.ended", subject="earlier")  # before this start: told by the file
    async with Database.open(database_at(tmp_path / "sexton.db"), offload=inline) as database:
        first = JournalArchive(database, here, node="here", clock=clock)
        second = JournalArchive(database, there, node="there", clock=clock)
        async with anyio.create_task_group() as tasks:
            await tasks.start(first.run)
            await tasks.start(second.run)
            here.append("run.ended", subject="a", state="ran")
            await settle()
            there.append("server.started", subject="b")
            await settle()
            tasks.cancel_scope.cancel()
        found = await second.events()
        assert told(found) == [("there", 1, "b"), ("here", 2, "a")]
        assert (found[1].event.data, found[1].event.at) == ({"state": "ran"}, clock.now())
        assert told(await first.events(node="there")) == [("there", 1, "b")]
        assert told(await first.events(kinds=["run.", "job."])) == [("here", 2, "a")]
        assert told(await first.events(subject="b")) == [("there", 1, "b")]
        assert told(await first.events(before=found[0].id)) == [("here", 2, "a")]
        assert told(await first.events(limit=1)) == [("there", 1, "b")]


async def test_a_life_is_written_down_from_before_the_database_is_open_to_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    journal = Journal.open(clock=clock)
    journal.append("gateway.stopped", subject="an earlier life")
    before = journal.last_id
    journal.append("gateway.starting", subject="gateway")
    async with Database.open(database_at(tmp_path / "sexton.db"), offload=inline) as database:
        archive = JournalArchive(database, journal, node="here", clock=clock, after=before)
        async with anyio.create_task_group() as tasks:
            await tasks.start(archive.run)
            await settle()
            tasks.cancel_scope.cancel()
        journal.append("gateway.stopped", subject="gateway")
        await archive.write_last_words()
        assert [each.event.kind for each in await archive.events()] == ["gateway.stopped", "gateway.starting"]

        async def hang(*_: Any, **__: Any) -> None:
            await anyio.sleep_forever()

        monkeypatch.setattr(database, "write", hang)
        journal.append("gateway.stopped", subject="gateway")
        await archive.write_last_words(within=0)  # a database that hangs keeps nobody


async def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    journal = Journal.open(clock=clock)
    async with Database.open(database_at(tmp_path / "sexton.db"), offload=inline) as database:
        archive = JournalArchive(database, journal, node="here", clock=clock, keep=100)
        for number in range(2_000):
            journal.append("run.ended", subject=str(number))
        await archive.write_news()
        found = await archive.events(limit=1_000)
        assert [each.event.subject for each in found] == [str(number) for number in range(1_999, 1_899, -1)]


async def test_what_a_database_did_not_take_is_written_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    journal = Journal.open(clock=clock)

    async def away(*_: Any, **__: Any) -> None:
        raise DatabaseError(Failure.AWAY, "It is away.", hint="wait")

    async with Database.open(database_at(tmp_path / "sexton.db"), offload=inline) as database:
        archive = JournalArchive(database, journal, node="here", clock=clock)
        async with anyio.create_task_group() as tasks:
            await tasks.start(archive.run)
            with monkeypatch.context() as patched:
                patched.setattr(database, "write", away)
                journal.append("run.ended", subject="a")
                await settle()
            assert await archive.events() == ()
            journal.append("run.ended", subject="b")
            await clock.advance(6)
            assert told(await archive.events()) == [("here", 2, "b"), ("here", 1, "a")]
            tasks.cancel_scope.cancel()
