"""A sleep that can be ended early."""

from __future__ import annotations

from typing import final

import anyio

from sexton.clock import Clock


@final
class Alarm:
    """A ring is never lost: one that comes while nobody waits ends the next wait at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        """Until a ring or, with a number, for at most so many seconds."""
        async with anyio.create_task_group() as tasks:
            if seconds is not None:
                tasks.start_soon(self._ring_after, seconds)
            await self._event.wait()
            tasks.cancel_scope.cancel()
        self._event = anyio.Event()

    async def _ring_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self.ring()
