"""How much one caller may ask for: requests per second, and how long and how large a body may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import anyio
from starlette.types import Message, Receive

from sexton.clock import Clock
from sexton.gateway.http.problem import Problem

MAX_BODY_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 60.0
_MOST_KEYS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """`rate` requests per second and caller over time, `burst` at once; `body` bytes, `body_seconds` to send them.

    `at_once` bounds how many answers a caller may have under way, streams among them.  The local owner's own token has
    none of these.  `failures` bounds requests without a valid token, per second and address.
    """

    rate: float = 100.0
    burst: int = 400
    at_once: int = 128
    body: int = MAX_BODY_BYTES
    body_seconds: float = BODY_SECONDS
    failures: float = 5.0
    failures_burst: int = 30


@final
class Buckets:
    """A bucket for each key, which fills by `rate` a second up to `burst`; each request takes one."""

    def __init__(self, clock: Clock, *, rate: float, burst: int) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> float:
        """Take one; returns 0, or the seconds after which there will be one, and takes nothing."""
        now = self._clock.monotonic()
        level, at = self._levels.pop(key, (float(self._burst), now))
        level = min(self._burst, level + (now - at) * self._rate)
        wait = 0.0 if level >= 1 else (1 - level) / self._rate
        while len(self._levels) >= _MOST_KEYS:  # the one that was used longest ago is full again, or nearly
            del self._levels[next(iter(self._levels))]
        self._levels[key] = (level if wait else level - 1, now)
        return wait


@final
class Places:
    """How many answers each key has under way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    @contextmanager
    def one(self, key: str | None) -> Iterator[None]:
        """A place for the time of a block; a key of None needs none.  Raises `Problem` 429 if all are taken."""
        if key is None:
            yield
            return
        taken = self._taken.get(key, 0)
        if taken >= self._most:
            raise too_many(1.0)
        self._taken[key] = taken + 1
        try:
            yield
        finally:
            self._leave(key)

    def _leave(self, key: str) -> None:
        left = self._taken[key] - 1
        if left:
            self._taken[key] = left
        else:
            del self._taken[key]


class TooMany(Problem):
    """429."""


def too_many(wait: float) -> TooMany:
    """429 with the whole seconds to wait (RFC 9110, 10.2.3)."""
    seconds = max(1, -int(-wait // 1))
    return TooMany(
        status=429,
        kind="too-many-requests",
        what="That were too many requests in a short time, or too many at once.",
        hint=f"wait {seconds} s; the limits are `rate`, `burst` and `at_once` under [http] in sexton.toml",
        headers={"retry-after": str(seconds)},
    )


def bounded(receive: Receive, *, limit: int, seconds: float) -> Receive:
    """The same body, as long as it is within `limit` bytes and whole within `seconds`.  Raises `Problem` 413, 408."""
    size, is_whole = 0, False
    deadline: float | None = None

    async def receive_bounded() -> Message:
        nonlocal size, is_whole, deadline
        if is_whole:
            return await receive()
        deadline = deadline or anyio.current_time() + seconds
        with anyio.move_on_after(deadline - anyio.current_time()) as bound:
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
            else:
                is_whole = True
        if bound.cancelled_caught:
            raise Problem(
                status=408,
                kind="too-slow",
                what=f"The body was not whole within {seconds:g} s.",
                headers={"connection": "close"},
            )
        if size > limit:
            raise too_large(limit)
        return message

    return receive_bounded


def too_large(limit: int) -> Problem:
    return Problem(
        status=413,
        kind="too-large",
        what=f"The body is larger than {limit} bytes; it was not read.",
        headers={"connection": "close"},
    )
