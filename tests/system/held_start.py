"""`sexton up` that stops before one step of its start, until it is told to end.

    python held_start.py STEP MARK up …

The file MARK appears when everything before STEP is done and STEP itself is
next.  The product has no hook for this: its functions are wrapped from outside.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from sexton.cli.main import main
from sexton.containment import Containment
from sexton.daemon import wiring
from sexton.database import Database
from sexton.mcp_servers import ServerPool
from sexton.scheduler import Scheduler

STEPS = {
    "containment": (Containment, "open"),
    "database": (Database, "open"),
    "servers": (ServerPool, "run"),
    "jobs": (Scheduler, "replace_config_jobs"),
    "scheduler": (Scheduler, "run"),
    "http": (wiring, "serve_http"),
}
CONTEXTS = {"containment", "database", "http"}


def hold(step: str, mark: Path) -> None:
    """Put a wait that never ends in the place of the step."""

    async def wait_told(*_: object, **__: object) -> None:
        mark.touch()
        await anyio.sleep_forever()

    @asynccontextmanager
    async def wait_told_first(*_: object, **__: object) -> AsyncIterator[None]:
        await wait_told()
        yield

    place, name = STEPS[step]
    held: Callable[..., Any] = wait_told_first if step in CONTEXTS else wait_told
    setattr(place, name, held)


if __name__ == "__main__":
    hold(sys.argv[1], Path(sys.argv[2]))
    sys.argv[1:3] = []
    main()
