"""What is said to a client of the handshake era outside of its requests: its GET stream.

Events have ids; a client that lost the stream names the last one it saw and
gets those that came after it, as far as they are still kept.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

import anyio
from starlette.types import Receive, Send

from sexton.gateway.mcp_endpoint.reply import KEEP_ALIVE, Headers
from sexton.gateway.mcp_endpoint.wire import Message, event_frame

KEPT: Final = 256
"""Events that are kept for a client that is not connected now."""

_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


@final
class EventChannel:
    """The events of one session, and the one stream that carries them; a new stream takes the place of an older one."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, Message]] = deque(maxlen=KEPT)
        self._last = 0
        self._sent = 0
        self._news = anyio.Event()
        self._stream = 0
        self._open = 0

    @property
    def is_open(self) -> bool:
        """Whether the client listens."""
        return self._open > 0

    def push(self, message: Message) -> None:
        """Say something; it waits for the client if that does not listen now."""
        self._last += 1
        self._events.append((self._last, message))
        self._wake()

    def close(self) -> None:
        """End the stream that is open."""
        self._stream += 1
        self._wake()

    async def serve(
        self, receive: Receive, send: Send, *, after: str | None, headers: Headers, closing: anyio.Event
    ) -> None:
        """Be the stream until the client goes, another one comes, the session ends or `closing` is set."""
        self._stream += 1
        self._wake()
        self._open += 1
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
                tasks.start_soon(_cancel_when_set, closing, tasks.cancel_scope)
                await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})
                await send({"type": "http.response.body", "body": b": here\n\n", "more_body": True})
                await self._write(send, self._stream, _number(after, otherwise=self._sent))
                tasks.cancel_scope.cancel()
        finally:
            self._open -= 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, stream: int, seen: int) -> None:
        while stream == self._stream:
            fresh = [(number, message) for number, message in self._events if number > seen]
            for number, message in fresh:
                frame = event_frame(message, str(number))
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                seen = number
                self._sent = max(self._sent, number)
            if fresh or stream != self._stream:
                continue
            with anyio.move_on_after(KEEP_ALIVE) as silence:
                await self._news.wait()
            if silence.cancelled_caught:
                await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})

    def _wake(self) -> None:
        self._news.set()
        self._news = anyio.Event()


def _number(said: str | None, *, otherwise: int) -> int:
    return int(said) if said is not None and said.isascii() and said.isdecimal() else otherwise


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _cancel_when_set(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
