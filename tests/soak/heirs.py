"""Bystanders that get the number of a process that has just died: as pid, as session and as process group."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.oracles import PYTHON, ZOO, Bystanders, start_ticks

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def can_force_pids() -> bool:
    return os.access(_LAST_PID, os.W_OK)


def heir_of(pid: int, folder: Path, *, tries: int) -> Bystanders | None:
    """A bystander (and its child) whose leader has exactly that number; None when somebody else got it."""
    for _ in range(tries):
        if start_ticks(pid) is None or tries < 10:
            _LAST_PID.write_text(str(pid - 1))
            fleet = Bystanders(folder, [(*PYTHON, str(ZOO), "daemonises")], lead_groups=True)
            if fleet.leader_pids == [pid]:
                return fleet
            fleet.close()
    return None
