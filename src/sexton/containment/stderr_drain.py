"""The reading end of a tree's stderr, drained by its keeper whatever else happens.  Standard library only."""

from __future__ import annotations

import os
from contextlib import suppress

from sexton.containment.stderr_log import Log, NoLog, RotatedLog, Tail

_CHUNK = 64 * 1024
_CHUNKS_PER_TURN = 16
"""A server that floods its stderr must not keep its keeper from everything else."""


class StderrDrain:
    """`reader` is to be watched; `server_end` is what the server gets, to be closed here once it has it."""

    def __init__(self, *, tail: int, log: str | None) -> None:
        self.reader, self.server_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        self._tail = Tail(tail)
        self._log = self._open_log(log)

    def drain(self) -> bool:
        """Take what is there; False when the last writer has closed."""
        for _ in range(_CHUNKS_PER_TURN):
            try:
                data = os.read(self.reader, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail.write(data)
            self._log.write(data)
        return True

    def finish(self) -> None:
        """Take the rest of what the tree wrote before it was gone.

        Its members are no more, so the pipe holds what it holds: one turn reads it all.
        """
        with suppress(OSError):
            self.drain()
            self._log.close()

    def _open_log(self, path: str | None) -> Log:
        if path is None:
            return NoLog()
        try:
            return RotatedLog(path)
        except OSError as error:
            self._tail.write(f"(sexton cannot write the log {path}: {error.strerror})\n".encode())
            return NoLog()
