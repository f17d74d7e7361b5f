"""The page on reliability says of every member of the zoo what runs, and it is so."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.trial import CHEAP, COSTLY
from zoo.zoo import KINDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
NUMBER = re.compile(r"\bZ\d\d\b")
SHOWN = ("daemonises_when_struck", "scrubs_when_struck")
"""Kinds that show one hole, and no way to end a tree."""


def rows() -> list[tuple[list[str], str]]:
    """The numbers of each row of the table, and what it says of where they run."""
    cells = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| Z")]
    return [(NUMBER.findall(numbers), where) for numbers, _what, where in cells]


def numbers_in(file: Path) -> set[str]:
    return set(NUMBER.findall(file.read_text()))


def kinds_of_all_ways() -> set[str]:
    """The numbers that the docstrings of those kinds name which go through every ending."""
    words = {KINDS[kind].__doc__ or "" for kind in CHEAP}
    return {number for text in words for number in NUMBER.findall(text)} | {"Z16", "Z17"}  # made by one function


def test_every_member_stands_in_the_table_once() -> None:
    told = [number for numbers, _ in rows() for number in numbers]
    assert sorted(told) == [f"Z{number:02}" for number in range(1, 52)]


def test_what_is_said_to_go_all_ways_does() -> None:
    said = {number for numbers, where in rows() if "all ways" in where for number in numbers}
    assert said - kinds_of_all_ways() == set()


def test_each_other_member_is_named_where_it_is_said_to_run() -> None:
    for numbers, where in rows():
        files = [ROOT / "tests" / name for name in re.findall(r"`(\w+/test_\w+\.py)`", where)]
        named = set().union(kinds_of_all_ways() if "all ways" in where else (), *map(numbers_in, files))
        assert set(numbers) - named == set(), where


def test_no_kind_of_the_zoo_is_idle() -> None:
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py") if file != Path(__file__))
    idle = [kind for kind in KINDS if kind not in (*CHEAP, *COSTLY, *SHOWN, "run") and f'"{kind}"' not in tests]
    assert idle == []


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(\w+/\w+\.py)(?:::\w+)?`", PAGE))
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).exists()] == []
