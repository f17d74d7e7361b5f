"""Waiting for descriptors and for children, in a process with one thread.  Standard library only.

Sources: poll(2), signal.set_wakeup_fd in the Python documentation.
"""

from __future__ import annotations

import math
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress


class Poller:
    """One per process.  It makes SIGCHLD end a wait, so an adopted child's death is noticed at once."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, _be_interrupted)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.watch(self._woken, self._drain)

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call `handler` in each wait in which there is something to read, or the other end is closed."""
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def forget(self, descriptor: int) -> bool:
        """Stop watching; whether it was watched."""
        if self._handlers.pop(descriptor, None) is None:
            return False
        self._poll.unregister(descriptor)
        return True

    def wait(self, seconds: float | None) -> None:
        """Wait that long at most (None: for ever) for anything watched or any child, then call the handlers."""
        milliseconds = None if seconds is None else max(0, math.ceil(seconds * 1000))
        for descriptor, _ in self._poll.poll(milliseconds):
            if handler := self._handlers.get(descriptor):
                handler()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._woken, 4096):
                continue


def _be_interrupted(signum: int, frame: object) -> None:
    """Nothing to do: the wake-up descriptor ends the wait."""
