"""A client that goes away takes its own work with it, and the end of the server takes what is left."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio
from starlette.types import Receive

from sexton.errors import SextonError
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import Problem

_Answer = TypeVar("_Answer")


async def while_connected(gateway: Gateway, receive: Receive, work: Awaitable[_Answer]) -> _Answer:
    """Await `work` as long as the client and the server stay; else cancel it and let its ending finish.

    The request's body must have been read.  Raises `Problem`: 503 if the server ends, 499 (as nginx has it) if the
    client went, which nobody reads.
    """
    answer: list[_Answer] = []
    failure: SextonError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_gone, receive, tasks.cancel_scope)
        tasks.start_soon(cancel_when_set, gateway.cutting_off, tasks.cancel_scope)
        try:
            answer.append(await work)
        except SextonError as error:  # raised again outside, for a task group would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None and not gateway.cutting_off.is_set():
        raise failure
    if not answer:
        raise _cut_off(gateway) from failure
    return answer[0]


async def cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel the scope once the client's connection is closed.  The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def cancel_when_set(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _cut_off(gateway: Gateway) -> Problem:
    if gateway.cutting_off.is_set():
        return Problem(status=503, kind="stopping", what="The gateway is stopping; the call was cancelled.")
    return Problem(status=499, kind="client-gone", what="The client went away; its call was cancelled.")
