"""Interrupting a coroutine at one of its await points, counted from its start: every race with it, one by one."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

Interruption = Callable[[], BaseException | None]
"""Called at the await point that is meant: cancels by itself, or returns what is to be thrown in there."""


async def interrupt(coroutine: Coroutine[Any, Any, None], interruptions: dict[int, Interruption]) -> int:
    """Run a coroutine, interrupting it at its Nth await points.  Returns how many points it came to."""
    awaitable: Awaitable[int] = _interrupted(coroutine, interruptions)
    return await awaitable


@types.coroutine
def _interrupted(
    coroutine: Coroutine[Any, Any, None], interruptions: dict[int, Interruption]
) -> Generator[Any, Any, int]:
    point = 0
    error: BaseException | None = None
    answer: Any = None
    while True:
        try:
            awaited = coroutine.throw(error) if error is not None else coroutine.send(answer)
        except StopIteration:
            return point
        point += 1
        error = interruptions[point]() if point in interruptions else None
        if error is None:
            try:
                answer = yield awaited
            except BaseException as thrown:  # noqa: BLE001 -- whatever the event loop throws goes to the coroutine
                error = thrown
