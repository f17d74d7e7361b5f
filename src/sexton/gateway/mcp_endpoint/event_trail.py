"""Numbered server-sent events on their way to one client, over one connection at a time.

A new connection takes the place of an older one and begins after the last event
that its client saw, as far as that is still kept.  What was written is kept
within bounds; so is what nobody carries.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, final

import anyio
from starlette.types import Send

from sexton.gateway.mcp_endpoint.wire import Message, event_frame

KEEP_ALIVE: Final = 15.0
"""Seconds of silence after which a comment is sent.

Proxies cut silent connections, and some clients give up on an answer whose head does not come.
"""

KEPT: Final = 256
"""Events that are kept for a client that comes back for them."""
KEPT_BYTES: Final = 1024 * 1024

HERE: Final = b": here\n\n"
_STILL_HERE: Final = b": still here\n\n"
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)

Headers = tuple[tuple[bytes, bytes], ...]


@final
class EventTrail:
    """`prefix` goes before the numbers in the events' ids; None: they have no ids, and nothing written is kept.

    `is_bounded` says whether what is not yet written is kept within the bounds too; of that the last event stays.
    """

    def __init__(self, prefix: str | None, *, is_bounded: bool) -> None:
        self.is_bounded = is_bounded
        self._prefix = prefix
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._last = 0
        self._written = 0
        self._ended = False
        self._carrier = 0
        self._carriers = 0
        self._news: anyio.Event | None = None

    @property
    def is_carried(self) -> bool:
        """Whether there is a connection."""
        return self._carriers > 0

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._bytes

    def push(self, message: Message) -> None:
        """Say something; it waits for the client if that is not connected now."""
        self._last += 1
        frame = event_frame(message, None if self._prefix is None else f"{self._prefix}{self._last}")
        self._events.append(frame)
        self._bytes += len(frame)
        if self.is_bounded:
            self._drop(self._last - 1)
        self._wake()

    def end(self) -> None:
        """There is no more to say."""
        self._ended = True
        self._wake()

    def leave(self) -> None:
        """Whoever carries it now stops."""
        self._carrier += 1
        self._wake()

    async def carry(
        self, send: Send, *, headers: Headers = (), opening: bytes = HERE, after: int | None = None
    ) -> None:
        """Be the body of a response until all is said, `leave` is called or another connection comes.

        It begins after the event of that number, or after the last that was ever written.
        """
        self.leave()
        self._carriers += 1
        try:
            carrier = self._carrier
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})
            if opening:
                await send({"type": "http.response.body", "body": opening, "more_body": True})
            await self._write(send, carrier, self._written if after is None else min(after, self._last))
        finally:
            self._carriers -= 1

    async def go_on(self, send: Send) -> None:
        """Go on with such a body that was cut off in `carry`."""
        self.leave()
        await self._write(send, self._carrier, self._written)

    async def _write(self, send: Send, carrier: int, seen: int) -> None:
        while carrier == self._carrier:
            if fresh := self._after(seen):
                seen = self._written = self._last
                self._drop(seen)
                await send({"type": "http.response.body", "body": b"".join(fresh), "more_body": True})
            elif self._ended:
                break
            elif not await self._wait_news():
                await send({"type": "http.response.body", "body": _STILL_HERE, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _after(self, seen: int) -> list[bytes]:
        first = self._last - len(self._events) + 1
        return list(islice(self._events, max(0, seen - first + 1), None))

    def _drop(self, until: int) -> None:
        """Forget the oldest of those up to that number, as far as there are too many."""
        most, size = (KEPT, KEPT_BYTES) if self._prefix is not None else (0, 0)
        droppable = until - (self._last - len(self._events))
        while droppable > 0 and (len(self._events) > most or self._bytes > size):
            self._bytes -= len(self._events.popleft())
            droppable -= 1

    async def _wait_news(self) -> bool:
        """Return whether there are any within `KEEP_ALIVE`."""
        self._news = self._news or anyio.Event()
        with anyio.move_on_after(KEEP_ALIVE):
            await self._news.wait()
            return True
        return False

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None
