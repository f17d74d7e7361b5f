"""Who our children are, also where the kernel does not list them."""

from __future__ import annotations

import os
import subprocess
import sys

from sexton.containment import subreaper_boundary
from waiting import PATIENCE


def test_the_walk_of_proc_finds_the_same_children_as_the_kernels_list() -> None:
    sleepers = [subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) for _ in range(3)]
    try:
        pids = {one.pid for one in sleepers}
        assert pids <= set(subreaper_boundary._children_by_files(os.getpid()))
        assert pids <= set(subreaper_boundary._children_by_scan(os.getpid()))
        assert subreaper_boundary.children_of(sleepers[0].pid) == []
    finally:
        for one in sleepers:
            one.kill()
            one.wait(PATIENCE)


def test_a_process_that_is_no_more_has_no_children() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait(PATIENCE)
    assert subreaper_boundary._children_by_files(gone.pid) == []
    assert subreaper_boundary._children_by_scan(gone.pid) == []
