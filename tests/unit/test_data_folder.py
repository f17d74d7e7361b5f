"""One gateway, one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sexton.daemon.data_folder import DataFolderInUse, claimed_data_folder, holder_of
from sexton.errors import SextonError, UsageError

HOLD = """
import sys, pathlib
from sexton.daemon.data_folder import claimed_data_folder
with claimed_data_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_folder_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    with claimed_data_folder(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with claimed_data_folder(folder):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_gateway_learns_the_pid_of_the_first_and_a_killed_one_is_no_obstacle(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert holder_of(tmp_path) == holder.pid
            with pytest.raises(DataFolderInUse, match=f"pid {holder.pid}") as raised, claimed_data_folder(tmp_path):
                pass
            assert raised.value.pid == holder.pid
        finally:
            holder.kill()
    assert holder_of(tmp_path) is None
    with claimed_data_folder(tmp_path):
        assert holder_of(tmp_path) == os.getpid()


def test_a_file_in_its_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(UsageError, match="is a file"), claimed_data_folder(tmp_path / "state"):
        pass


def test_a_read_only_place_is_a_clear_error() -> None:
    with pytest.raises(SextonError, match="cannot be written") as raised, claimed_data_folder(Path("/proc/sexton")):
        pass
    assert "--data" in (raised.value.hint or "")
