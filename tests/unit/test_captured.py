"""What is kept of a stream: the beginning and the end, and how much is missing between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sexton.actions.captured import Captured


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(2, 100).map(lambda half: half * 2))
def test_the_beginning_and_the_end_are_kept(chunks: list[bytes], limit: int) -> None:
    captured = Captured(limit)
    for chunk in chunks:
        captured.add(chunk)
    whole = b"".join(chunks)
    assert captured.total == len(whole)
    if len(whole) <= limit:
        assert captured.text == whole.decode(errors="replace")
    else:
        half = limit // 2
        assert captured.text.startswith(whole[:half].decode(errors="replace"))
        assert captured.text.endswith(whole[-half:].decode(errors="replace"))
        assert f"[… {len(whole) - limit} bytes left out …]" in captured.text


def test_memory_does_not_grow_with_the_stream() -> None:
    captured = Captured(1_000)
    for _ in range(10_000):
        captured.add(b"x" * 100)
    assert len(captured._head) + sum(map(len, captured._tail)) < 1_200


def test_last_words_are_the_end_of_what_was_said() -> None:
    captured = Captured(100)
    assert captured.last_words() == ""
    captured.add(b"first line\nlast line\n\n")
    assert captured.last_words() == "first line\nlast line"
    assert captured.last_words(9) == "…last line"
