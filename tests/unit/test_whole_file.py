"""A file is replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sexton.whole_file import replace_file


def test_a_reader_keeps_the_file_that_it_has_opened(tmp_path: Path) -> None:
    path = tmp_path / "state"
    replace_file(path, "before")
    with path.open() as reader:
        replace_file(path, "äfter", durable=True)
        assert reader.read() == "before"
    assert path.read_text("utf-8") == "äfter"
    assert path.stat().st_mode & 0o777 == 0o600
    replace_file(path, "", mode=0o644)
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    path.write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, "after", durable=True)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
