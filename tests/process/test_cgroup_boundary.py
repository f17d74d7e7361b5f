"""Whose a cgroup is, and that only the empty ones of the dead are removed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sexton.containment import cgroup_boundary, identity
from sexton.containment.cgroup_boundary import Leaf, group_name, remove_abandoned
from sexton.containment.identity import ProcessIdentity
from waiting import PATIENCE


def us() -> ProcessIdentity:
    me = identity.identify(os.getpid())
    assert me is not None
    return me


def test_an_empty_group_of_a_dead_gateway_is_removed_with_its_leaves(folder: Path) -> None:
    dead = folder / group_name("abc", replace(us(), start_ticks=1))
    (dead / "t1").mkdir(parents=True)
    remove_abandoned(str(folder))
    assert not dead.exists()


def test_a_group_of_a_living_gateway_stays(folder: Path) -> None:
    living = folder / group_name("abc", us())
    living.mkdir()
    remove_abandoned(str(folder))
    assert living.exists()


def test_a_group_that_somebody_is_in_stays_and_nobody_is_signalled(folder: Path) -> None:
    leaf = folder / group_name("abc", replace(us(), start_ticks=1)) / "t1"
    leaf.mkdir(parents=True)
    member = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        (leaf / "cgroup.procs").write_text(str(member.pid))
        remove_abandoned(str(folder))
        assert Leaf(str(leaf)).members() == (member.pid,)
        assert member.poll() is None
    finally:
        member.communicate(timeout=PATIENCE)


def test_what_is_not_ours_stays(folder: Path) -> None:
    (folder / "sexton-other").mkdir()
    remove_abandoned(str(folder))
    assert (folder / "sexton-other").exists()


def test_the_mount_point_is_read_with_its_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "41 31 0:38 / /mnt/a\\040b rw,relatime - cgroup2 cgroup2 rw\n"
    monkeypatch.setattr(cgroup_boundary, "_read", lambda _: "12 3 0:1 / / rw - ext4 /dev/a rw\n" + line)
    assert cgroup_boundary.mount_point() == "/mnt/a b"
