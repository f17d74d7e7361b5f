"""A message as its target can take it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.gateway.deliveries import Delivery, DeliveryState, Message, TextLimits, split_text
from sexton.gateway.deliveries.parts import parts_of, shortened

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def delivery(text: str, title: str | None = None) -> Delivery:
    message = Message(text=text, title=title)
    return Delivery(
        id=7,
        target="chat:me",
        key="run:1",
        state=DeliveryState.WAITING,
        message=message,
        job="brief",
        created_at=NOW,
        since=NOW,
        due_at=NOW,
    )


def test_a_message_that_fits_is_one_part_with_a_key_of_its_target() -> None:
    (part,) = parts_of(delivery("hello", "brief ran"), TextLimits(most=100))
    assert (part.text, part.title, part.to, part.key) == ("brief ran\n\nhello", None, "me", "run:1:chat:me")
    (part,) = parts_of(delivery("hello", "brief ran"), TextLimits(titles=True))
    assert (part.text, part.title) == ("hello", "brief ran")


def test_a_longer_one_is_several_parts_each_with_a_key_of_its_own() -> None:
    parts = parts_of(delivery("one two\n\nthree four\n\nfive six"), TextLimits(most=14))
    assert [part.text for part in parts] == ["one two", "three four", "five six"]
    assert [part.key for part in parts] == ["run:1:chat:me:1", "run:1:chat:me:2", "run:1:chat:me:3"]
    assert [(part.number, part.count) for part in parts] == [(1, 3), (2, 3), (3, 3)]


def test_what_needs_too_many_parts_is_cut_and_says_where_the_rest_is() -> None:
    (part,) = parts_of(delivery("word " * 1000), TextLimits(most=200, messages=2))
    assert len(part.text) <= 200
    assert part.text.endswith("characters; all of it: sexton deliveries show 7 --text]")
    assert part.attachments == ()


def test_or_attached_where_the_target_can() -> None:
    text = "word " * 1000
    (part,) = parts_of(delivery(text), TextLimits(most=200, messages=2, attaches=True))
    (file,) = part.attachments
    assert file.content == text.encode()
    assert file.name == "brief.txt"
    assert part.text.endswith("all of it is attached]")


def test_a_code_block_is_closed_and_opened_again_where_it_is_broken() -> None:
    code = "look:\n```python\n" + "\n".join(f"line_{number} = {number}" for number in range(20)) + "\n```\ndone"
    pieces = split_text(code, 120)
    assert len(pieces) > 1
    for piece in pieces:
        assert piece.count("```") % 2 == 0
        assert len(piece) <= 120
    assert all(piece.startswith("```python\n") for piece in pieces[1:-1])


@given(st.text(max_size=400), st.integers(min_value=60, max_value=200))
def test_no_piece_is_too_long_and_no_word_is_lost(text: str, most: int) -> None:
    pieces = split_text(text, most, measure=lambda piece: len(piece.encode()))
    assert all(len(piece.encode()) <= most for piece in pieces)
    if "```" not in text:
        assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize("most", [80, 200])
def test_a_cut_text_measures_no_more_than_it_may(most: int) -> None:
    cut = shortened("é" * 1000, most, measure=lambda text: len(text.encode()), whole="all of it is attached")
    assert len(cut.encode()) <= most
