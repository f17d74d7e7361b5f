"""Every line once, with a time, in files that do not grow without bound; the last words by themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.containment import stderr_log
from sexton.containment.stderr_log import RotatedLog, Tail, TailReader, create_tail, read_tail


@pytest.fixture
def tail() -> Iterator[int]:
    descriptor = create_tail()
    yield descriptor
    os.close(descriptor)


@given(st.lists(st.binary(max_size=6000), max_size=6))
def test_the_tail_holds_the_last_words_however_they_came(chunks: list[bytes]) -> None:
    descriptor = create_tail()
    try:
        writer = Tail(descriptor)
        for chunk in chunks:
            writer.write(chunk)
        assert read_tail(descriptor) == b"".join(chunks)[-stderr_log.TAIL_BYTES :].decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def test_the_last_words_stay_when_the_reader_is_closed() -> None:
    descriptor = create_tail()
    reader = TailReader(descriptor)
    Tail(descriptor).write(b"bye")
    reader.close()
    reader.close()
    assert reader.read() == "bye"


def test_a_full_log_is_moved_and_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stderr_log, "_LARGEST_LOG", 100)
    log = RotatedLog(str(tmp_path / "x.log"))
    for number in range(5):
        log.write(b"%d" % number * 80 + b"\n")
    log.close()
    assert _texts(tmp_path / "x.log") == ["4" * 80]
    assert _texts(tmp_path / "x.log.1") == ["3" * 80]


def test_two_writers_of_one_log_do_not_move_each_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stderr_log, "_LARGEST_LOG", 100)
    first, second = RotatedLog(str(tmp_path / "x.log")), RotatedLog(str(tmp_path / "x.log"))
    first.write(b"a" * 120 + b"\n")
    first.write(b"b\n")  # moves the file that the second still has open
    second.write(b"c\n")
    assert _texts(tmp_path / "x.log") == ["b", "c"]
    assert _texts(tmp_path / "x.log.1") == ["a" * 120]
    first.close()
    second.close()


def test_a_line_without_an_end_is_written_when_it_is_long_or_the_log_closes(tmp_path: Path) -> None:
    log = RotatedLog(str(tmp_path / "x.log"))
    log.write(b"y" * 70_000)
    log.write(b"tail")
    log.close()
    assert _texts(tmp_path / "x.log") == ["y" * 70_000, "tail"]


def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"x\.log"):
        RotatedLog(str(tmp_path / "x.log"))
    assert not (tmp_path / "elsewhere").exists()


def _texts(path: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()]
