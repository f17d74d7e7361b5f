"""`sexton`, with leases that are shorter than the real ones, in the same proportions, so that a test need not wait."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

# Alone, before anything of the scheduler is loaded and takes the values over.
NAME = "sexton.scheduler.lease"


def shorten() -> None:
    scheduler = importlib.util.find_spec("sexton")
    assert scheduler is not None
    assert scheduler.submodule_search_locations is not None
    path = f"{scheduler.submodule_search_locations[0]}/scheduler/lease.py"
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    lease: Any = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = lease
    spec.loader.exec_module(lease)
    lease.SEVERAL_MACHINES = lease.LeaseTimes(settle_after=20.0, fence_after=6.0)
    lease.KILL_AFTER, lease.GIVE_UP_AFTER, lease.BEAT_EVERY = 2.0, 5.0, 1.0
    lease.ENDED_FOR_US_AFTER = 3.0


if __name__ == "__main__":
    shorten()
    importlib.import_module("sexton.__main__").main()
