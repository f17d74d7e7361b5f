"""Chunks become lines, however they are cut."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.mcp_servers.line_buffer import LineBuffer, LineLimitExceeded


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0, max_value=200), max_size=8))
def test_cuts_do_not_matter(data: bytes, cuts: list[int]) -> None:
    buffer = LineBuffer(1000)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    lines = [line for start, end in itertools.pairwise(edges) for line in buffer.feed(data[start:end])]
    *expected, rest = data.split(b"\n")
    assert lines == expected
    assert buffer.feed(b"\n") == [rest]


@pytest.mark.parametrize("chunk", [b"x" * 11, b"ok\n" + b"x" * 11, b"x" * 11 + b"\nok\n"])
def test_a_line_over_the_limit_is_refused_whether_it_has_ended_or_not(chunk: bytes) -> None:
    with pytest.raises(LineLimitExceeded):
        LineBuffer(10).feed(chunk)


def test_the_limit_counts_across_chunks() -> None:
    buffer = LineBuffer(10)
    assert buffer.feed(b"x" * 6) == []
    with pytest.raises(LineLimitExceeded):
        buffer.feed(b"x" * 6)


def test_a_line_of_the_limit_is_allowed() -> None:
    assert LineBuffer(10).feed(b"x" * 10 + b"\n") == [b"x" * 10]


def test_a_long_line_in_small_chunks_takes_linear_time() -> None:
    def seconds(chunks: int) -> float:
        buffer, chunk = LineBuffer(1 << 30), b"x" * 4096
        begin = time.thread_time()
        for _ in range(chunks):
            buffer.feed(chunk)
        buffer.feed(b"\n")
        return time.thread_time() - begin

    short = min(seconds(1000) for _ in range(3))
    long = min(seconds(8000) for _ in range(3))
    assert long < short * 40  # quadratic would be 64 times as long at least, and grow from there
