"""Whether the terminal that we were started in is still there."""

from __future__ import annotations

import os
import signal
from typing import final


@final
class ControllingTerminal:
    """Tells the two meanings of SIGHUP apart: "read your settings again", and "your terminal is gone".

    Only a process that had a terminal, and was not told by nohup(1) to
    outlive it, can lose one.
    """

    def __init__(self) -> None:
        self._can_be_lost = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    def is_gone(self) -> bool:
        return self._can_be_lost and not _has_terminal()


def _has_terminal() -> bool:
    """tty(4): /dev/tty cannot be opened by a process without a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
