"""When to stop retrying a server that fails to start or keeps losing its connection (pure).

Only failed starts and lost connections count.  A tool that answers with an
error has answered, and one holder's bad arguments must lock nobody out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import final

UNLIMITED = sys.maxsize


class BreakerState(StrEnum):
    """How the next start of a server will be treated."""

    CLOSED = "closed"
    """Starts are allowed."""
    BACKING_OFF = "backing_off"
    """It failed lately; starts are refused until the wait is over."""
    OPEN = "open"
    """It used up its attempts; starts are refused for a long time."""
    HALF_OPEN = "half_open"
    """The wait is over: one start is allowed, or under way, to see whether it works again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Waits are in seconds: `first_wait` after the first failure, then twice as long each time, up to `longest_wait`.

    After `attempts` failures in a row the breaker is open for `open_wait`,
    and again after each probe that fails.  Each wait is shortened at random by
    up to `jitter` of itself, so that servers that failed together are not
    started together.
    """

    attempts: int = 5
    first_wait: float = 1.0
    longest_wait: float = 60.0
    open_wait: float = 300.0
    jitter: float = 0.2

    def wait_after(self, failures: int, *, chance: float) -> float:
        """Return the wait after that many failures in a row; `chance` is a random number in [0, 1)."""
        doubled = min(self.longest_wait, self.first_wait * 2 ** (failures - 1))
        wait = self.open_wait if failures >= self.attempts else doubled
        return wait * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStatus:
    """A breaker at one moment.  `retry_in` is in seconds, 0.0 when a start is allowed now."""

    state: BreakerState
    failures: int
    attempts: int
    retry_in: float
    last_error: str | None


@final
class Breaker:
    """Counts one server's failures in a row and says when it may be started again.  All times are monotonic seconds."""

    def __init__(self, policy: BreakerPolicy, *, chance: Callable[[], float]) -> None:
        self._policy = policy
        self._chance = chance
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False
        self._last_error: str | None = None

    @property
    def failures(self) -> int:
        return self._failures

    def starts_allowed(self, now: float) -> int:
        """Return how many starts are allowed now: none, one to probe, or as many as are wanted."""
        if self._failures == 0:
            return UNLIMITED
        return 0 if self._probing or now < self._retry_at else 1

    def starting(self) -> None:
        """A start was made; until it is settled, a server that failed before is not started a second time."""
        self._probing = self._failures > 0

    def start_failed(self, error: str, now: float) -> None:
        """A start did not get as far as an answer to initialize."""
        self._fail(error)
        self._retry_at = now + self._policy.wait_after(self._failures, chance=self._chance())

    def connection_lost(self, error: str, now: float) -> None:
        """A server that had started ended unasked.  The first time it may be started again at once."""
        self._fail(error)
        wait = self._policy.wait_after(self._failures, chance=self._chance()) if self._failures > 1 else 0.0
        self._retry_at = now + wait

    def start_given_up(self) -> None:
        """A start was cancelled by ourselves, which says nothing about the server."""
        self._probing = False

    def started(self) -> None:
        """A start worked.  What failed before is only forgotten when the server has `proved_good`."""
        self._probing = False

    def proved_good(self) -> None:
        """The server answered a call, or ran long enough: a later failure counts as the first one."""
        self._failures = 0
        self._last_error = None
        self._probing = False

    def reset(self) -> None:
        """A person asked to try again now."""
        self.proved_good()
        self._retry_at = 0.0

    def retry_at(self) -> float | None:
        """Return when a start is allowed again, or None when nothing has failed."""
        return self._retry_at if self._failures else None

    def status(self, now: float) -> BreakerStatus:
        return BreakerStatus(
            state=self._state(now),
            failures=self._failures,
            attempts=self._policy.attempts,
            retry_in=max(0.0, self._retry_at - now) if self._failures else 0.0,
            last_error=self._last_error,
        )

    def _state(self, now: float) -> BreakerState:
        if self._failures == 0:
            return BreakerState.CLOSED
        if self._probing or now >= self._retry_at:
            return BreakerState.HALF_OPEN
        return BreakerState.OPEN if self._failures >= self._policy.attempts else BreakerState.BACKING_OFF

    def _fail(self, error: str) -> None:
        self._failures += 1
        self._last_error = error
        self._probing = False
