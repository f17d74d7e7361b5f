"""The time, and waiting for it, replaceable in tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import anyio


class Clock(Protocol):
    """Three readings that must never be mixed up.

    `now` is the wall clock: aware, in UTC, it can jump either way.
    `monotonic` is for durations, in seconds; its zero means nothing, it never
    goes back, and it stands still while the machine is suspended.
    """

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds of `monotonic`; a value of 0 or less is one checkpoint."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(max(0.0, seconds))
