"""Reading a pipe from an event loop, without paying for a new registration at every message."""

from __future__ import annotations

import asyncio
import os
from typing import Final, Protocol, final

import anyio

CHUNK: Final = 256 * 1024


class PipeReader(Protocol):
    """Reads one non-blocking descriptor, which stays the caller's."""

    async def read(self) -> bytes:
        """Wait for output and return some of it; empty at end of file."""
        ...

    def close(self) -> None:
        """Stop watching the descriptor; to be called before it is closed."""
        ...


def pipe_reader(descriptor: int) -> PipeReader:
    """Return a reader for the event loop that is running: asyncio, or whatever else anyio supports."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _AnyReader(descriptor)
    return _AsyncioReader(loop, descriptor)


@final
class _AnyReader:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self) -> bytes:
        while True:
            await anyio.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                continue

    def close(self) -> None:
        """There is nothing to close: every wait registers anew."""


@final
class _AsyncioReader:
    """Stays registered with the loop from one read to the next.

    `anyio.wait_readable` registers and unregisters at every wait, two system
    calls that cost a fifth of a small call.  At most one chunk is read ahead;
    while nobody takes it the registration rests, so that a full pipe holds the
    server back and the loop does not spin.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._chunk: bytes | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watching = False
        self._closed = False

    async def read(self) -> bytes:
        while self._chunk is None:
            self._watch()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._chunk
        if chunk:  # end of file stays
            self._chunk = None
        return chunk

    def close(self) -> None:
        self._closed = True
        self._rest()

    def _watch(self) -> None:
        if not self._watching and not self._closed:
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._watching = True

    def _rest(self) -> None:
        if self._watching:
            self._loop.remove_reader(self._descriptor)
            self._watching = False

    def _on_readable(self) -> None:
        if self._chunk is not None:
            self._rest()
            return
        try:
            self._chunk = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._chunk = b""
        if not self._chunk:
            self._rest()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
