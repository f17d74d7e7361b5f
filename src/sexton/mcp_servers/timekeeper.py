"""Doing things when their time has come, with one sleeper for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import anyio

from sexton.clock import Clock


@final
class Timekeeper:
    """Calls `do_what_is_due` when it asked to be called, or something has happened; it returns when to look again.

    Infinity means: not before something happens.  Times are monotonic seconds of `clock`.
    """

    def __init__(self, clock: Clock, do_what_is_due: Callable[[], float]) -> None:
        self._clock = clock
        self._do_what_is_due = do_what_is_due
        self._next_look = -math.inf
        self._news = anyio.Event()

    async def run(self) -> None:
        """Do what is due, then sleep until something else is, or something happens."""
        while True:
            self._news, self._next_look = anyio.Event(), -math.inf
            self._next_look = self._do_what_is_due()
            await self._sleep_until(self._next_look, self._news)

    def look_now(self) -> None:
        """Something has happened."""
        self._news.set()

    def look_by(self, at: float) -> None:
        """See to it that what is due is looked for at `at`, or before."""
        if at < self._next_look:
            self._news.set()

    async def _sleep_until(self, at: float, news: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:

            async def wake_up() -> None:
                await self._clock.sleep(at - self._clock.monotonic())
                tasks.cancel_scope.cancel()

            if at < math.inf:
                tasks.start_soon(wake_up)
            await news.wait()
            tasks.cancel_scope.cancel()
