"""What is said to a client of the handshake era outside of its requests: its GET stream.

Events have ids; a client that lost the stream names the last one it saw and
gets those that came after it, as far as they are still kept.
"""

from __future__ import annotations

from typing import final

import anyio
from starlette.types import Receive, Send

from sexton.gateway.mcp_endpoint.event_trail import EventTrail, Headers
from sexton.gateway.mcp_endpoint.wire import Message


@final
class EventChannel:
    """The events of one session, and the one stream that carries them; a new stream takes the place of an older one."""

    def __init__(self) -> None:
        self._trail = EventTrail("", is_bounded=True)

    @property
    def is_open(self) -> bool:
        """Whether the client listens."""
        return self._trail.is_carried

    def push(self, message: Message) -> None:
        """Say something; it waits for the client if that does not listen now."""
        self._trail.push(message)

    def close(self) -> None:
        """End the stream that is open."""
        self._trail.leave()

    async def serve(
        self, receive: Receive, send: Send, *, after: str | None, headers: Headers, closing: anyio.Event
    ) -> None:
        """Be the stream until the client goes, another one comes, the session ends or `closing` is set."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_leave_when_set, closing, self._trail)
            await carry_while_connected(self._trail, receive, send, after=number_of(after), headers=headers)
            tasks.cancel_scope.cancel()


async def carry_while_connected(
    trail: EventTrail, receive: Receive, send: Send, *, after: int | None, headers: Headers
) -> bool:
    """Be the answer to a GET.  Returns whether the client stayed to its end."""
    stayed = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
        await trail.carry(send, headers=headers, after=after)
        stayed = True
        tasks.cancel_scope.cancel()
    return stayed


def number_of(said: str | None) -> int | None:
    """Return the number that an event id says; None if it says none."""
    return int(said[:18]) if said is not None and said.isascii() and said.isdecimal() else None


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _leave_when_set(event: anyio.Event, trail: EventTrail) -> None:
    await event.wait()
    trail.leave()
