"""What one POST is answered with: a JSON document if the answer is all there is to say, else a stream of events.

The stream of a `Resumable` client can be taken up again by a GET: after its
connection broke, or because we closed it (SEP-1699), as we may, to keep no
connection open for long.  The work goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, final

import anyio
import anyio.abc
from starlette.types import Receive, Send

from sexton.gateway.mcp_endpoint.event_channel import carry_while_connected
from sexton.gateway.mcp_endpoint.event_trail import EventTrail, Headers
from sexton.gateway.mcp_endpoint.wire import Message, as_bytes

STREAM_AFTER: Final = 15.0
"""Seconds after which an answer that has not come becomes a stream, whose silence is filled."""

WATCH_AFTER: Final = 0.05
"""Seconds that a call may take before we look whether its client is still there."""

BACK_WITHIN: Final = 0.5
"""Seconds that a client whose connection broke has to come back, before it is taken for gone."""

POLLED_WITHIN: Final = 60.0
"""Seconds that a client has whose stream we closed."""

RETRY_MS: Final = 100
"""Milliseconds that a client is asked to wait before it comes back."""

_JSON: Final = ((b"content-type", b"application/json"),)


class Resumable(Protocol):
    """A client that can come back for a stream."""

    def keep_stream(self, reply: Reply) -> str:
        """Remember whose stream it is.  Returns what the ids of its events begin with."""
        ...

    @property
    def takes_empty_events(self) -> bool:
        """Whether the client understands an event that has an id and says nothing."""
        ...


@final
class Reply:
    """The answer to one POST.  `push` never waits; it may be called until `finish` has returned."""

    def __init__(
        self,
        send: Send,
        tasks: anyio.abc.TaskGroup,
        headers: Headers = (),
        *,
        client: Resumable | None = None,
        close_after: float | None = None,
    ) -> None:
        self.scope = tasks.cancel_scope
        """Cancelling it ends the work for this answer."""
        self.unheard = False
        """Whether nobody is there any more to hear it."""
        self.trail: EventTrail | None = None
        """What was said, once it is a stream."""
        self._send = send
        self._tasks = tasks
        self._headers = headers
        self._client = client
        self._close_after = close_after
        self._opening = b""
        self._finished = False
        self._posted = True  # the response to the POST is still open
        self._begun = False  # so is its head sent
        self._writing = False
        self._written: anyio.Event | None = None
        self._back: anyio.Event | None = None
        self._closing: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether something can still be said."""
        return not self._finished

    def push(self, message: Message) -> None:
        """Say something before the answer."""
        if not self._finished:
            self.stream().push(message)

    def stream(self) -> EventTrail:
        """Be a stream from here on, so that what follows can be told and silence can be filled."""
        if self.trail is None:
            prefix = None if self._client is None else self._client.keep_stream(self)
            self.trail = EventTrail(prefix, is_bounded=False)
            if self._client is not None and self._client.takes_empty_events:
                self._opening = f"id: {prefix}0\nretry: {RETRY_MS}\ndata: \n\n".encode()
                self._close_in_time()
            self._writing = True
            self._tasks.start_soon(self._write)
        return self.trail

    def go(self) -> None:
        """The client has gone, or has to: what is done for it ends."""
        self.unheard = True
        self.scope.cancel()

    def lose_post(self) -> None:
        """The connection of the POST broke; that is heard too after we have closed it."""
        if self._posted:
            self._posted = False
            if self.trail is not None:
                self.trail.leave()
            self._lose()

    async def resume(self, receive: Receive, send: Send, *, after: int, headers: Headers) -> None:
        """Go on in the answer to a GET, with what was said after the event of that number."""
        assert self.trail is not None
        if self._back is not None:
            self._back.set()
        self._posted = False
        self.trail.is_bounded = False
        self._close_in_time()
        stayed = await carry_while_connected(self.trail, receive, send, after=after, headers=headers)
        if not (stayed or self.trail.is_carried):
            self._lose()

    async def finish(self, message: Message, *, status: int = 200) -> None:
        """Say the last; `status` counts only when nothing was said before."""
        if self.trail is None:
            self._finished = True
            await send_json(self._send, status, message, headers=self._headers)
            return
        self.push(message)
        self.close()
        if self._posted and self._writing:
            self._written = anyio.Event()
            await self._written.wait()
        elif self._posted:  # it was ended with the work
            await self._write()

    def close(self) -> None:
        """Say no more."""
        self._finished = True
        if self.trail is not None:
            self.trail.end()

    async def _write(self) -> None:
        trail, begins, self._begun = self.stream(), not self._begun, True
        try:
            if begins:
                await trail.carry(self._send, headers=self._headers, opening=self._opening, after=0)
            else:
                await trail.go_on(self._send)
        finally:
            self._writing = False
            if self._written is not None:
                self._written.set()

    # A client that comes back

    def _close_in_time(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        if self._close_after is not None and not self._finished:
            self._closing = asyncio.get_running_loop().call_later(self._close_after, self._close_connection)

    def _close_connection(self) -> None:
        if self.trail is not None and self.trail.is_carried and not self._finished:
            self._posted = False
            self.trail.leave()
            self._expect_back(POLLED_WITHIN)

    def _lose(self) -> None:
        if self.trail is None or self._client is None:
            self.go()
        elif not self._finished:
            self._expect_back(BACK_WITHIN)

    def _expect_back(self, seconds: float) -> None:
        assert self.trail is not None
        self.trail.is_bounded = True
        self._back = anyio.Event()
        self._tasks.start_soon(self._go_unless, self._back, seconds)

    async def _go_unless(self, back: anyio.Event, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await back.wait()
            return
        self.go()


async def reply_while_connected(
    receive: Receive,
    send: Send,
    work: Callable[[Reply], Awaitable[tuple[int, Message]]],
    *,
    cancelled: Message,
    open_replies: set[Reply],
    headers: Headers = (),
    client: Resumable | None = None,
    close_after: float | None = None,
) -> None:
    """Answer a POST with what `work` returns (HTTP status and message), as long as the client stays.

    When it goes the work is cancelled.  When somebody else cancels `Reply.scope`, `cancelled` is the answer.
    `open_replies` holds the reply meanwhile.  The stream of a `client` that can come back is closed after
    `close_after` seconds, for it to do so.
    """
    done = False
    try:
        async with anyio.create_task_group() as tasks:
            reply = Reply(send, tasks, headers, client=client, close_after=close_after)
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
    finally:
        reply.close()


async def _watch(receive: Receive, reply: Reply) -> None:
    streaming = asyncio.get_running_loop().call_later(STREAM_AFTER, reply.stream)
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
        reply.lose_post()
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
