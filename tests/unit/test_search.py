"""Full-text search finds the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from databases import database_at
from sexton.database import Database, conversation, message, search_on
from sexton.database.search import excerpt_of, split_words
from sexton.database.tables import EPOCH

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]
SAID = (
    "The backup of example.org/home failed at 03:15.",
    "CRÈME brûlée für Straße 12; крем БРЮЛЕ",
    "snake_case and kebab-case, v1.2.3 and 1e5",
    "日本語 の テスト",
    "it's \"quoted\" 'twice' & (odd) | ! <-> \\ : *",
    "nul \0 inside",
)


@asynccontextmanager
async def filled(folder: Path, *texts: str) -> AsyncIterator[Database]:
    def fill(connection: Connection) -> None:
        row = {"id": "c", "key": "k", "way": "w", "title": "t", "settings": {}, "summary": "", "summary_upto": 0}
        connection.execute(insert(conversation).values(**row, created_at=EPOCH, changed_at=EPOCH))
        for number, said in enumerate(texts):
            values = {"conversation": "c", "number": number, "turn": "x", "role": "user", "text": said, "author": ""}
            connection.execute(insert(message).values(**values, cut=False, replaced=False, at=EPOCH))
            search_on(connection).add_message("c", number, said)

    async with Database.open(database_at(folder / "sexton.db")) as database:
        await database.write(fill)
        yield database


async def found(database: Database, words: str) -> list[int]:
    places = await database.read(lambda connection: search_on(connection).messages(words, limit=100))
    return sorted(place.number for place in places)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("backup", [0]),
        ("BACKUP failed", [0]),
        ("backup missing", []),
        ("example.org", [0]),
        ("org", [0]),
        ("org/home", [0]),
        ("home.org", []),
        ("03:15", [0]),
        ("creme BRULEE", [1]),
        ("crème", [1]),
        ("straße", [1]),
        ("strasse", []),
        ("брюле", [1]),
        ("snake", [2]),
        ("case", [2]),
        ("kebab-case", [2]),
        ("case-kebab", []),
        ("v1.2.3", [2]),
        ("1e5", [2]),
        ("テスト", [3]),
        ("twice", [4]),
        ("it's", [4]),
        ("' OR \" | & ! ( <-> * \\ :", []),
        ("(odd) quoted ---", [4]),
        ("nul inside", [5]),
        ("", []),
        ("back", []),
    ],
)
async def test_what_is_found(tmp_path: Path, words: str, numbers: list[int]) -> None:
    async with filled(tmp_path, *SAID) as database:
        assert await found(database, words) == numbers


async def test_the_excerpt_shows_the_place(tmp_path: Path) -> None:
    said = f"{'before ' * 50}the needle, here {'after ' * 50}"
    async with filled(tmp_path, said) as database:
        (place,) = await database.read(lambda connection: search_on(connection).messages("NEEDLE", limit=5))
    assert "«needle»" in place.excerpt
    assert place.excerpt.startswith("…")
    assert place.excerpt.endswith("…")
    assert len(place.excerpt) < 120


async def test_a_text_of_any_size_can_be_stored_and_its_beginning_found(tmp_path: Path) -> None:
    huge = "start " + " ".join(f"word{number}" for number in range(150_000)) + " " + "x" * 50_000
    async with filled(tmp_path, huge) as database:
        assert await found(database, "start word0 word1000") == [0]


async def test_what_is_removed_is_not_found(tmp_path: Path) -> None:
    async with filled(tmp_path, *SAID) as database:
        await database.write(
            lambda connection: connection.execute(message.delete().where(message.c.number == 0)).rowcount
        )
        assert await found(database, "backup") == []


def test_words_and_excerpts() -> None:
    assert split_words("Cre\u0300me, İstanbul_x") == ["creme", "istanbul", "x"]
    assert excerpt_of("one two three", [["two"]]) == "one «two» three"
    assert excerpt_of("Two twos, TWO", [["two"]]) == "«Two» twos, «TWO»"
