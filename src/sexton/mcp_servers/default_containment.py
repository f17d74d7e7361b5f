"""The one containment of a program that uses `sexton.stdio_client` and nothing else of ours.

Started on first use, in a thread with an event loop of its own, so that it
serves every loop and thread of the program.  Closed when the interpreter ends;
when the program is killed instead, the kernel closes its lifelines.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final, final

import anyio.to_thread
from anyio.from_thread import start_blocking_portal

from sexton.containment import Containment


@final
class DefaultContainment:
    """Starts one containment when it is first asked for, and keeps it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._containment: Containment | None = None
        self._parts = ExitStack()

    async def get(self) -> Containment:
        """Return the containment of this process; the first call takes some 30 ms, in a thread.

        Raises:
            ContainmentError: the warden could not be started.
        """
        # A forked child has a copy of the variables, but neither the thread nor the right to use it.
        if self._containment is not None and self._owner == os.getpid():
            return self._containment
        return await anyio.to_thread.run_sync(self._get)

    def close(self) -> None:
        """End every tree of it and the warden.  Runs at exit by itself; the next use starts another."""
        with self._lock:
            parts, self._parts, self._containment = self._parts, ExitStack(), None
        if self._owner == os.getpid():
            parts.close()

    def _get(self) -> Containment:
        with self._lock:
            if self._containment is None or self._owner != os.getpid():
                self._containment, self._parts = _start()
                self._owner = os.getpid()
                atexit.register(self.close)
            return self._containment


def _start() -> tuple[Containment, ExitStack]:
    with ExitStack() as parts:
        portal = parts.enter_context(start_blocking_portal("asyncio", name="sexton-containment"))
        containment = parts.enter_context(portal.wrap_async_context_manager(Containment.open(_state_folder())))
        return containment, parts.pop_all()


def _state_folder() -> Path:
    """One folder for all programs of this user, in which each has a ledger of its own.

    So the next program finishes what one that was killed together with its helpers has left behind.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(state) / "sexton" / "clients"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # no home folder
        return Path(tempfile.mkdtemp(prefix="sexton-clients-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="sexton-clients-"))


DEFAULT_CONTAINMENT: Final = DefaultContainment()
