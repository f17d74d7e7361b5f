"""A gateway for tests that kill or freeze one: started as a program of its own, it holds trees and waits.

    python gateway_program.py STATE BOUNDARY JSON

JSON: {"trees": [[argv...], ...], "mark": FOLDER, "ttl": seconds or null, "fork_worker": bool, "keep_for": seconds or
null}.  It prints one JSON line when all its trees run: {"warden": pid, "keepers": [...], "leaders": [...],
"worker": pid or null}; `keep_for` seconds later they are to end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio

from sexton.containment import Boundary, Containment, ProcessSpec, StopTimes

STOP = StopTimes(stdin_grace=0.3, term_grace=0.3, leader_exit_grace=0.05)


async def hold(state: Path, boundary: Boundary, wanted: dict[str, Any]) -> None:
    async with Containment.open(state, boundary=boundary) as containment, AsyncExitStack() as held:
        trees = [
            await held.enter_async_context(
                containment.start(
                    ProcessSpec(
                        name="held",
                        argv=tuple(argv),
                        env={"SEXTON_TEST_FOLDER": wanted["mark"]},
                        stop=STOP,
                        ttl=wanted.get("ttl"),
                    )
                )
            )
            for argv in wanted["trees"]
        ]
        for tree in trees:
            await tree.wait_started()
            await anyio.wait_readable(tree.stdout)
        worker = _fork_worker() if wanted.get("fork_worker") else None
        status = containment.trees()
        found = {
            "warden": containment.warden_pid,
            "keepers": [one.keeper_pid for one in status],
            "leaders": [one.leader_pid for one in status],
            "worker": worker,
        }
        if wanted.get("keep_for") is not None:
            containment.keep_until(time.clock_gettime(time.CLOCK_BOOTTIME) + wanted["keep_for"])
        print(json.dumps(found), flush=True)
        await anyio.sleep_forever()


def _fork_worker() -> int:
    """As multiprocessing does it: a copy of this process that keeps every descriptor open."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


if __name__ == "__main__":
    anyio.run(hold, Path(sys.argv[1]), Boundary(sys.argv[2]), json.loads(sys.argv[3]))
