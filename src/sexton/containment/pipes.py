"""The gateway's ends of a tree's pipes, closed exactly once.

A descriptor's number is taken again by whatever is opened next, so code that still writes to a closed stdin would reach
a stranger.  Therefore a stdin that was closed keeps its number, and leads nowhere, until the tree's handle is left.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import cache

import anyio


class Pipes:
    """Both numbers stay ours from here to `close`."""

    def __init__(self, *, stdin: int, stdout: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self._lock = threading.Lock()
        self._is_stdin_open = True
        self._keeps_stdin = True
        self._is_open = True
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)

    def close_stdin(self) -> None:
        """The server reads end of file; a writer on our side gets a broken pipe."""
        with self._lock:
            if not self._is_stdin_open:
                return
            self._is_stdin_open = False
            _wake_waiters(self.stdin)
            nowhere = _broken_pipe()
            try:
                os.dup2(nowhere, self.stdin, inheritable=False)
            except OSError:
                # The limit was lowered below that number (dup2(2)): nobody gets it again before it is raised.
                self._keeps_stdin = False
                os.close(self.stdin)

    def close(self) -> None:
        with self._lock:
            if not self._is_open:
                return
            self._is_open = self._is_stdin_open = False
            for descriptor in (self.stdin, self.stdout) if self._keeps_stdin else (self.stdout,):
                _wake_waiters(descriptor)
                os.close(descriptor)


@cache
def _broken_pipe() -> int:
    """The writing end of a pipe that nobody reads; one for the whole process."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(reader)
    return writer


def _wake_waiters(descriptor: int) -> None:
    """Whoever waits for that descriptor in this event loop gets `anyio.ClosedResourceError`."""
    with suppress(anyio.NoEventLoopError):
        anyio.notify_closing(descriptor)
