"""A stream of frames that ends with its client, and takes its work with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sexton.gateway.http import Gateway
from sexton.gateway.http.disconnect import cancel_when_gone, cancel_when_set

KEEP_ALIVE: Final = 15.0
"""Seconds after which a comment is sent, so that proxies keep a connection on which a tool is at work."""

SEND_SECONDS: Final = 60.0
"""A client that takes nothing for so long is dropped."""

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
Work: TypeAlias = Callable[[Write], Awaitable[None]]


@final
class WorkStream(Response):
    """Server-sent events that `work` writes; it is cancelled when the client goes away or the server cuts off."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway, work: Work) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._gateway = gateway
        self._work = work

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        is_whole = False
        async with anyio.create_task_group() as tasks:

            async def write(frame: bytes) -> None:
                with anyio.move_on_after(SEND_SECONDS) as bound:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
                if bound.cancelled_caught:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(cancel_when_gone, receive, tasks.cancel_scope)
            tasks.start_soon(cancel_when_set, self._gateway.cutting_off, tasks.cancel_scope)
            tasks.start_soon(_keep_alive, write)
            await self._work(write)
            is_whole = True
            tasks.cancel_scope.cancel()
        if is_whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _keep_alive(write: Write) -> None:
    while True:
        await anyio.sleep(KEEP_ALIVE)
        await write(b": still here\n\n")
