"""What one POST is answered with: a JSON document if the answer is all there is to say, else a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, final

import anyio
import anyio.abc
from starlette.types import Receive, Send

from sexton.gateway.mcp_endpoint.wire import Message, as_bytes, event_frame

KEEP_ALIVE: Final = 15.0
"""Seconds of silence after which a comment is sent.

Proxies cut silent connections, and some clients give up on an answer whose head does not come.
"""

WATCH_AFTER: Final = 0.05
"""Seconds that a call may take before we look whether its client is still there."""

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
        self.scope = tasks.cancel_scope
        """Cancelling it ends the work for this answer."""
        self.unheard = False
        """Whether nobody is there any more to hear it."""
        self._send = send
        self._tasks = tasks
        self._headers = headers
        self._frames: list[bytes] = []
        self._more: anyio.Event | None = None
        self._streams = False
        self._head_sent = False
        self._finished = False
        self._writing = False
        self._written: anyio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether something can still be said."""
        return not self._finished

    def push(self, message: Message) -> None:
        """Say something before the answer."""
        if self._finished:
            return
        self._frames.append(event_frame(message))
        self._wake()
        self.stream()

    def stream(self) -> None:
        """Be a stream from here on, so that what follows can be told and silence can be filled."""
        if not (self._streams or self._finished):
            self._streams = self._writing = True
            self._tasks.start_soon(self._write)

    def go(self) -> None:
        """The client has gone, or has to: what is done for it ends."""
        self.unheard = True
        self.scope.cancel()

    async def finish(self, message: Message, *, status: int = 200) -> None:
        """Say the last; `status` counts only when nothing was said before."""
        if self._streams:
            self.push(message)
            self._finished = True
            self._wake()
            if self._writing:
                self._written = anyio.Event()
                await self._written.wait()
            else:  # it was ended with the work
                await self._write()
            return
        self._finished = True
        await send_json(self._send, status, message, headers=self._headers)

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()

    async def _write(self) -> None:
        try:
            if not self._head_sent:
                self._head_sent = True
                await self._send({"type": "http.response.start", "status": 200, "headers": [*_EVENTS, *self._headers]})
            while not (self._finished and not self._frames):
                await self._write_more()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._writing = False
            if self._written is not None:
                self._written.set()

    async def _write_more(self) -> None:
        frames, self._frames = self._frames, []
        if frames:
            await self._send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})
            return
        self._more = anyio.Event()
        with anyio.move_on_after(KEEP_ALIVE) as silence:
            await self._more.wait()
        self._more = None
        if silence.cancelled_caught:
            self._frames.append(b": still here\n\n")


async def reply_while_connected(
    receive: Receive,
    send: Send,
    work: Callable[[Reply], Awaitable[tuple[int, Message]]],
    *,
    cancelled: Message,
    open_replies: set[Reply],
    headers: Headers = (),
) -> None:
    """Answer a POST with what `work` returns (HTTP status and message), as long as the client stays.

    When it goes the work is cancelled.  When somebody else cancels `Reply.scope`, `cancelled` is the answer.
    `open_replies` holds the reply meanwhile.
    """
    done = False
    async with anyio.create_task_group() as tasks:
        reply = Reply(send, tasks, headers)
        open_replies.add(reply)
        # Most answers come sooner, and a task for each of them costs a fifth of the whole call.
        watching = asyncio.get_running_loop().call_later(WATCH_AFTER, tasks.start_soon, _watch, receive, reply)
        try:
            status, message = await work(reply)
            await reply.finish(message, status=status)
            done = True
            tasks.cancel_scope.cancel()
        finally:
            watching.cancel()
            open_replies.discard(reply)
    if not (done or reply.unheard):
        await reply.finish(cancelled)


async def _watch(receive: Receive, reply: Reply) -> None:
    streaming = asyncio.get_running_loop().call_later(KEEP_ALIVE, reply.stream)
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
        reply.go()
    finally:
        streaming.cancel()


async def send_json(
    send: Send, status: int, message: Mapping[str, Any] | None = None, *, headers: Headers = ()
) -> None:
    """Send a whole response; without a message it has no body."""
    body = b"" if message is None else as_bytes(dict(message))
    length = (b"content-length", str(len(body)).encode())
    kind = () if message is None else _JSON
    await send({"type": "http.response.start", "status": status, "headers": [*kind, length, *headers]})
    await send({"type": "http.response.body", "body": body})
