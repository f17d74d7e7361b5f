"""Forking into a cgroup, and what happens where that cannot be done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sexton.containment import cgroup_fork
from sexton.containment.cgroup_fork import fork_into
from sexton.containment.launch import fork_leader


def test_the_child_is_born_in_the_leaf_and_its_parent_stays_outside(folder: Path) -> None:
    pid = fork_or_skip(str(folder))
    if pid == 0:
        os._exit(0 if folder.name in Path("/proc/self/cgroup").read_text(encoding="utf-8") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert folder.name not in Path("/proc/self/cgroup").read_text(encoding="utf-8")


def test_a_cgroup_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fork_into(str(folder / "none"))


def test_where_the_kernel_refuses_the_leader_is_forked_plainly_and_joins_by_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup_fork, "_SYS_CLONE3", 100_000)  # ENOSYS
    pid, is_member = fork_leader(str(folder))
    if pid == 0:
        os._exit(7)
    assert not is_member
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def fork_or_skip(folder: str) -> int:
    try:
        return fork_into(folder)
    except OSError as error:
        pytest.skip(f"no fork into a cgroup here: {error}")
