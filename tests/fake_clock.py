"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel

from waiting import PATIENCE


class FakeClock:
    """`advance` moves both clocks and wakes sleepers in order, each with time to do what it woke for.

    `jump` moves the wall clock alone, as `date --set` would, or as it looks after a suspend.
    """

    def __init__(self, start: datetime = datetime(2026, 11, 1, 12, tzinfo=UTC)) -> None:
        self._wall = start
        self._monotonic = 1_000.0
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._order = count()

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        woken = anyio.Event()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken.wait()

    def jump(self, seconds: float) -> None:
        self._wall += timedelta(seconds=seconds)

    async def advance(self, seconds: float) -> None:
        target = self._monotonic + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            at, _, woken = heapq.heappop(self._sleepers)
            self._move(at)
            woken.set()
            await settle()
        self._move(target)
        await settle()

    def _move(self, monotonic: float) -> None:
        if monotonic > self._monotonic:
            self._wall += timedelta(seconds=monotonic - self._monotonic)
            self._monotonic = monotonic


@contextmanager
def held_loop_time() -> Iterator[Callable[[float], None]]:
    """The time of this asyncio loop stands still, but for the seconds by which the yielded function moves it.

    So no deadline of anyio passes because the machine is slow.  Other threads and processes go on as ever.
    """
    loop: Any = asyncio.get_running_loop()
    now = loop.time()

    def move(seconds: float) -> None:
        nonlocal now
        now += seconds

    loop.time = lambda: now
    try:
        yield move
    finally:
        del loop.time


@contextmanager
def moved_loop_time() -> Iterator[Callable[[float], None]]:
    """The time of this asyncio loop goes on, and jumps ahead by the seconds that the yielded function is given.

    So limits of minutes are over at once, and only when a test says so, though what it waits for is real.
    """
    loop: Any = asyncio.get_running_loop()
    real, ahead = loop.time, 0.0

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    loop.time = lambda: real() + ahead
    try:
        yield move
    finally:
        del loop.time


async def settle() -> None:
    """Until no task of this asyncio loop can go on without time, a thread or a file descriptor.

    Several tasks may wait for it at a time: each is then ready only because it waits.
    """
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    _settling.append(None)
    try:
        for _ in range(100_000):
            await asyncio.sleep(0)
            if len(ready) < len(_settling):
                return
    finally:
        _settling.pop()
    raise AssertionError("the tasks do not come to rest")


_settling: list[None] = []


async def wait_until(condition: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    """Poll a condition that something real (a thread, a process) makes true.  Raises `TimeoutError`."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what it waits for knows no event
            await anyio.sleep(0.005)
