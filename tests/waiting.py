"""Waiting for what happens in another process, in bounded time."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import anyio

PATIENCE = float(os.environ.get("SEXTON_PATIENCE", "60"))
"""Seconds after which a test gives up; what it waits for takes far less, on a slow and loaded machine too."""


def promised(seconds: float) -> float:
    """A time that users are promised on a machine that has time for it.  `SEXTON_TIMED=1` holds Sexton to it."""
    return seconds if "SEXTON_TIMED" in os.environ else PATIENCE


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = PATIENCE) -> None:
    """Ask `condition` until it holds.  Raises TimeoutError."""
    with anyio.fail_after(seconds):
        while not await _holds(condition):  # noqa: ASYNC110 - another process sets no event of ours
            await anyio.sleep(0.005)


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return answer if isinstance(answer, bool) else await answer
