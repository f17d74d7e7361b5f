"""The program that was asked for, as its keeper holds it.

When it has exited, its zombie is kept to the very end: as long as we do not reap it, its pid, and the process group of
that number, can be nobody else's.  Sources: waitid(2), kill(2).  Standard library only.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from sexton.containment.launch import Launched, LaunchFailure, parse_failure
from sexton.containment.subreaper_boundary import has_child_exited

_LARGEST_REPORT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """One of the two is None."""

    returncode: int | None
    signal: int | None


class Leader:
    def __init__(self, launched: Launched) -> None:
        self.pid = launched.pid
        self.report = launched.status
        """Readable when the program runs, or cannot; to be closed by `read_report`."""
        self._is_reaped = False

    def read_report(self) -> LaunchFailure | None:
        """What became of the launch, once `report` is readable; None: the program runs."""
        content = os.read(self.report, _LARGEST_REPORT)
        os.close(self.report)
        return parse_failure(content)

    def exit_status(self) -> ExitStatus | None:
        """How it ended; None while it runs (a zombie with living threads still runs)."""
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return ExitStatus(returncode=result.si_status, signal=None)
        return ExitStatus(returncode=None, signal=result.si_status)

    def terminate(self) -> None:
        """Ask its process group to end, also when it is stopped."""
        for signum in (signal.SIGTERM, signal.SIGCONT):
            with suppress(PermissionError):
                self._signal(signum)

    def reap(self) -> None:
        """Let go of the pid, when everything else is gone."""
        if not self._is_reaped:
            self._is_reaped = True
            os.waitpid(self.pid, 0)

    def has_exited(self) -> bool:
        return self._is_reaped or has_child_exited(self.pid)

    def _signal(self, signum: int) -> None:
        if self._is_reaped:
            return
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:  # it has not come to setsid(2) yet
            os.kill(self.pid, signum)
