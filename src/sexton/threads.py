"""Blocking work away from the event loop, also on a system that gives no more threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

_NO_THREAD = "can't start new thread"
"""What CPython's `_thread.start_new_thread` says when pthread_create(3) fails: no process id, or no memory, is left."""


async def in_thread(
    work: Callable[[], T], *, limiter: anyio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> T:
    """Run `work` in a worker thread, as `anyio.to_thread.run_sync` does; where none can be had, right here.

    That blocks the event loop for as long as `work` takes, which is better than not doing it: what is out of process
    ids needs its database most of all.
    """
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return work()

    try:
        return await anyio.to_thread.run_sync(begin, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError as error:
        if begun or str(error) != _NO_THREAD:
            raise
    return work()
