"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.daemon.quantities import format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1w", 604800),
        ("1.5h", 5400),
        (" 1h 30m ", 5400),
    ],
)
def test_a_duration_names_its_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "is empty"),
        ("30", "'30s'"),
        ("10min", "'10m'"),
        ("-5s", "no duration"),
        ("5 parsecs", "no duration"),
        ("1h x", "no duration"),
    ],
)
def test_a_text_that_is_no_duration_is_answered_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**8))
def test_a_formatted_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("512MiB", 512 << 20), ("2GB", 2 * 10**9), ("1.5 GiB", 1610612736), ("10B", 10)],
)
def test_a_size_names_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "advice"), [("512M", "512MiB"), ("512", "no size"), ("", "no size"), ("2 apples", "no size")]
)
def test_a_text_that_is_no_size_is_answered_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        parse_size(text)
