"""Lines over the pipes of one contained tree.

Owns the waiting: reading is linear and bounded, writing never blocks a caller
and has a deadline.  Promises that of every line it can be said whether any
byte of it reached the pipe.  What the lines mean, and the life of the process,
are the business of others.  Runs on asyncio and on trio.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Final, final

import anyio

from sexton.mcp_servers.line_buffer import LineBuffer, LineLimitExceeded
from sexton.mcp_servers.pipe_reader import pipe_reader

__all__ = ["LineLimitExceeded", "OutgoingLine", "StdinClosed", "StdinStalled", "StdioTransport"]


_INT: Final = struct.Struct("i")


class StdinStalled(Exception):
    """The other side took nothing from its stdin for the whole write timeout."""


class StdinClosed(Exception):
    """The other side has closed its stdin."""


@final
class OutgoingLine:
    """A line on its way out.  `started` says whether any byte of it was written to the pipe."""

    __slots__ = ("rest", "started")

    def __init__(self, line: bytes) -> None:
        self.rest = memoryview(line)
        self.started = False


@final
class StdioTransport:
    """The two pipes of one process, as lines.

    `stdin` is written to, `stdout` read from; both are non-blocking
    descriptors that stay the caller's.  Run `write_out` in a task, and `close`
    at the end.
    `write_timeout` is in seconds without a single byte taken.  `transcode` turns
    what is read into UTF-8, when the other side uses another encoding.
    """

    def __init__(
        self,
        *,
        stdin: int,
        stdout: int,
        max_line_bytes: int,
        write_timeout: float | None,
        transcode: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._stdin = stdin
        self._reader = pipe_reader(stdout)
        self._write_timeout = write_timeout
        self._transcode = transcode
        self._incoming = LineBuffer(max_line_bytes)
        self._outgoing: deque[OutgoingLine] = deque()
        self._stdin_closed = False
        self._more = anyio.Event()
        self._flushed = anyio.Event()

    async def receive_lines(self) -> list[bytes]:
        """Wait for output and return the lines it completes, at times none, without their newlines.

        Raises:
            anyio.EndOfStream: the pipe's write end is closed.
            LineLimitExceeded: a line is longer than `max_line_bytes`.
        """
        chunk = await self._reader.read()
        if not chunk:
            raise anyio.EndOfStream
        return self._incoming.feed(self._transcode(chunk) if self._transcode else chunk)

    def close(self) -> None:
        """Let go of `stdout`, before it is closed."""
        self._reader.close()

    def write(self, line: bytes) -> OutgoingLine:
        """Write as much of `line` as the pipe takes now and leave the rest to `write_out`.  Never blocks."""
        outgoing = OutgoingLine(line)
        if not self._outgoing:
            self._push(outgoing)
        if outgoing.rest:
            self._outgoing.append(outgoing)
            self._more.set()
        return outgoing

    @property
    def all_was_read(self) -> bool:
        """Whether the other side has taken all that was written out of the pipe; also true where that is not told."""
        if self._outgoing or self._stdin_closed:
            return False
        try:
            unread = fcntl.ioctl(self._stdin, termios.FIONREAD, bytes(_INT.size))
        except OSError:
            return True
        return bool(_INT.unpack(unread)[0] == 0)

    def withdraw(self, outgoing: OutgoingLine) -> bool:
        """Take a line back.  Return False when it is too late, because some of it was written."""
        if outgoing.started:
            return False
        if outgoing in self._outgoing:
            self._outgoing.remove(outgoing)
        return True

    async def write_out(self) -> None:
        """Write what `write` could not, for ever.

        Raises:
            StdinStalled: nothing was taken for `write_timeout` seconds.
            StdinClosed: the other side closed its end.
        """
        while True:
            await self._more.wait()
            await self._drain_outgoing()
            self._more = anyio.Event()
            self._flushed.set()

    async def wait_flushed(self) -> None:
        """Wait until everything handed to `write` so far is in the pipe, or never will be."""
        while self._outgoing and not self._stdin_closed:
            self._flushed = anyio.Event()
            await self._flushed.wait()

    async def _drain_outgoing(self) -> None:
        while self._outgoing and not self._stdin_closed:
            with anyio.move_on_after(self._write_timeout) as waiting:
                await anyio.wait_writable(self._stdin)
            if waiting.cancelled_caught:
                raise StdinStalled
            self._push_first()
        if self._stdin_closed:
            raise StdinClosed

    def _push_first(self) -> None:
        if not self._outgoing:  # withdrawn while we waited
            return
        self._push(self._outgoing[0])
        if not self._outgoing[0].rest:
            self._outgoing.popleft()

    def _push(self, outgoing: OutgoingLine) -> None:
        if self._stdin_closed:
            return
        try:
            written = os.write(self._stdin, outgoing.rest)
        except BlockingIOError:
            return
        except OSError:  # EPIPE in practice; whatever it is, nothing more can be written
            self._stdin_closed = True
            self._more.set()
            return
        outgoing.started = outgoing.started or written > 0
        outgoing.rest = outgoing.rest[written:]
