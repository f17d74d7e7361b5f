"""Whether the settings file was changed since we read it."""

from __future__ import annotations

from pathlib import Path
from typing import final

import anyio

from sexton.clock import Clock

POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.2

Fingerprint = tuple[int, int, int] | None


def fingerprint(path: Path) -> Fingerprint:
    """Modification time (ns), inode and size; None while there is no such file.

    The inode tells an atomic replacement that kept the time (`cp -p`, a
    version control checkout).
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


@final
class SettingsWatch:
    """Says when to read the file again.  Polls: one stat(2) a second works on every file system."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._seen = fingerprint(path)
        self._asked = anyio.Event()

    def ask(self) -> None:
        """Read it again, changed or not (SIGHUP)."""
        self._asked.set()

    async def wait_change(self) -> bool:
        """Wait for a change, or until asked.  Returns whether somebody asked."""
        while True:
            with anyio.move_on_after(POLL_SECONDS):
                await self._asked.wait()
            was_asked = self._asked.is_set()
            if was_asked or fingerprint(self._path) != self._seen:
                await self._wait_settled()
                self._asked = anyio.Event()
                return was_asked

    async def _wait_settled(self) -> None:
        """An editor that writes in place is not done at its first write."""
        seen = fingerprint(self._path)
        while True:
            await self._clock.sleep(SETTLE_SECONDS)
            before, seen = seen, fingerprint(self._path)
            if seen == before:
                break
        self._seen = seen
