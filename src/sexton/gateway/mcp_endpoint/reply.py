"""What one POST is answered with: a JSON document if the answer is all there is to say, else a stream of events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, final

import anyio
import anyio.abc
from starlette.types import Receive, Send

from sexton.gateway.mcp_endpoint.wire import Message, as_bytes, event_frame

KEEP_ALIVE: Final = 15.0
"""Seconds of silence after which a comment is sent; proxies cut silent connections."""

_EVENTS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_JSON: Final = ((b"content-type", b"application/json"),)

Headers = tuple[tuple[bytes, bytes], ...]


@final
class Reply:
    """The answer to one POST.  `push` never waits; it may be called until `finish` has returned."""

    def __init__(self, send: Send, tasks: anyio.abc.TaskGroup, headers: Headers = ()) -> None:
        self._send = send
        self._tasks = tasks
        self._headers = headers
        self._frames: list[bytes] = []
        self._more = anyio.Event()
        self._streams = False
        self._finished = False
        self._written = anyio.Event()

    @property
    def is_open(self) -> bool:
        """Whether something can still be said."""
        return not self._finished

    def push(self, message: Message) -> None:
        """Say something before the answer."""
        self.push_frame(event_frame(message))

    def push_frame(self, frame: bytes) -> None:
        """Say something that is an event already."""
        if self._finished:
            return
        self._frames.append(frame)
        self._more.set()
        if not self._streams:
            self._streams = True
            self._tasks.start_soon(self._write)

    async def finish(self, message: Message | None, *, status: int = 200) -> None:
        """Say the last; `status` counts only when nothing was said before."""
        if self._streams:
            if message is not None:
                self.push(message)
            self._finished = True
            self._more.set()
            await self._written.wait()
            return
        self._finished = True
        body = b"" if message is None else as_bytes(message)
        length = (b"content-length", str(len(body)).encode())
        await self._send({"type": "http.response.start", "status": status, "headers": [*_JSON, length, *self._headers]})
        await self._send({"type": "http.response.body", "body": body})

    async def _write(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": [*_EVENTS, *self._headers]})
        while not (self._finished and not self._frames):
            frames, self._frames = self._frames, []
            if frames:
                await self._send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
                continue
            self._more = anyio.Event()
            with anyio.move_on_after(KEEP_ALIVE) as silence:
                await self._more.wait()
            if silence.cancelled_caught:
                self._frames.append(b": still here\n\n")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self._written.set()


async def reply_while_connected(
    receive: Receive,
    send: Send,
    work: Callable[[Reply], Awaitable[tuple[int, Message | None]]],
    *,
    headers: Headers = (),
    cutting_off: anyio.Event | None = None,
) -> bool:
    """Answer a POST with what `work` returns (HTTP status and message), as long as the client stays.

    When it goes, or `cutting_off` is set, the work is cancelled.  Return whether the answer was sent.
    """
    done = False
    async with anyio.create_task_group() as tasks:
        reply = Reply(send, tasks, headers)
        tasks.start_soon(_watch, receive, tasks.cancel_scope)
        if cutting_off is not None:
            tasks.start_soon(_cut, cutting_off, tasks.cancel_scope)
        status, message = await work(reply)
        await reply.finish(message, status=status)
        done = True
        tasks.cancel_scope.cancel()
    return done


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _cut(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def send_json(
    send: Send, status: int, message: Mapping[str, Any] | None = None, *, headers: Headers = ()
) -> None:
    """Send a whole response; without a message it has no body."""
    body = b"" if message is None else as_bytes(dict(message))
    length = (b"content-length", str(len(body)).encode())
    kind = () if message is None else _JSON
    await send({"type": "http.response.start", "status": status, "headers": [*kind, length, *headers]})
    await send({"type": "http.response.body", "body": body})
