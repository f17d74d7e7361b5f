"""Ends every tree of a gateway that does not say, again and again, until when they may go on.

Who can lose its right to what it runs while it is stopped (SIGSTOP, or a suspended machine) tells the warden, a process
of its own, again and again.  One descriptor, which every keeper watches, tells them.  Standard library only.

Sources: eventfd(2); CLOCK_BOOTTIME of clock_gettime(2), which goes on while the machine is suspended.
"""

from __future__ import annotations

import os
import time

_LOOK_EVERY = 1.0
"""poll(2) waits by a clock that stands still while the machine is suspended."""


def boot_time() -> float:
    """Seconds since the machine was started, suspended or not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DeadMansSwitch:
    """The warden's.  Without a word of the gateway it is never thrown."""

    def __init__(self) -> None:
        self.thrown = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Can be read from while every tree has to end, also those that are only now asked for."""
        self._until: float | None = None
        self._is_thrown = False

    def keep_until(self, until: float | None) -> None:
        """Wait until that `boot_time`; None: for ever."""
        self._until = until
        self.look()

    def look(self) -> None:
        is_over = self._until is not None and boot_time() >= self._until
        if is_over and not self._is_thrown:
            os.eventfd_write(self.thrown, 1)
        elif self._is_thrown and not is_over:
            os.eventfd_read(self.thrown)
        self._is_thrown = is_over

    def look_in(self) -> float | None:
        """Seconds until there has to be another look; None: only a word can change anything."""
        if self._until is None or self._is_thrown:
            return None
        return min(_LOOK_EVERY, max(0.0, self._until - boot_time()))
