"""Waiting for what happens in another process, in bounded time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 10.0) -> None:
    """Ask `condition` until it holds.  Raises TimeoutError."""
    with anyio.fail_after(seconds):
        while not await _holds(condition):  # noqa: ASYNC110 - another process sets no event of ours
            await anyio.sleep(0.005)


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return answer if isinstance(answer, bool) else await answer
