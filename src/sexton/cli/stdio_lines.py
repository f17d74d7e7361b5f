"""Standard input and output as lines, without an event loop waiting for either.

Both may be files, terminals or pipes, whose reads and writes cannot all be
waited for; so each has a thread, which the end of the process does not wait
for when it is stuck.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import BinaryIO, final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

_LAST_WORDS = 2.0


def lines_of(stream: BinaryIO, *, ahead: int = 1000) -> MemoryObjectReceiveStream[bytes]:
    """The lines of `stream`, until it ends.  At most `ahead` of them wait to be taken."""
    sending, receiving = anyio.create_memory_object_stream[bytes](float("inf"))
    room = threading.Semaphore(ahead)
    loop = asyncio.get_running_loop()

    def hand_over(line: bytes) -> None:
        _put(sending, line)
        room.release()

    def read() -> None:
        try:
            for line in stream:
                room.acquire()
                loop.call_soon_threadsafe(hand_over, line)
            loop.call_soon_threadsafe(sending.close)
        except (OSError, ValueError, RuntimeError):
            return  # the loop has ended before the input did

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return receiving


def _put(stream: MemoryObjectSendStream[bytes], line: bytes) -> None:
    try:
        stream.send_nowait(line)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


@final
class LineWriter:
    """Writes lines in order, in a thread; `broken` is set when nobody reads them any more."""

    def __init__(self, stream: BinaryIO) -> None:
        self.broken = asyncio.Event()
        self._stream = stream
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write, name="stdout", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Write a line, without its newline, as soon as possible."""
        self._lines.put(line)

    def close(self) -> None:
        """Wait for what is left to be written, for a moment."""
        self._lines.put(None)
        self._thread.join(_LAST_WORDS)

    def _write(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                self._stream.write(line + b"\n")
                self._stream.flush()
        except (OSError, ValueError):
            try:
                self._loop.call_soon_threadsafe(self.broken.set)
            except RuntimeError:
                return
