"""Events to whoever watches, on a thread of their own.

A terminal that was stopped (Ctrl-S) and a pipe that nobody reads block the
writer for as long as they like.  Here they block this thread and nothing else.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import final

from sexton.journal import Event, Journal

_MOST_WAITING = 10_000
_CLOSE_SECONDS = 2.0


@final
class ConsoleFeed:
    """Hands each event to `show`, in order, from one thread.  When it lags too far behind, it leaves events out."""

    def __init__(self, journal: Journal, show: Callable[[Event], None]) -> None:
        self._journal = journal
        self._show = show
        self._fed = journal.last_id
        self._waiting: queue.Queue[Event | None] = queue.Queue(_MOST_WAITING)
        # A daemon thread: one that is blocked for good must not keep the process.
        self._thread = threading.Thread(target=self._keep_showing, name="console", daemon=True)
        self._thread.start()

    async def run(self) -> None:
        """Feed until cancelled."""
        async for event in self._journal.subscribe(after=self._fed):
            self._feed(event)

    def close(self) -> None:
        """Show what is left; returns when it is shown, or after two seconds."""
        for event in self._journal.since(self._fed):
            self._feed(event)
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def _feed(self, event: Event) -> None:
        self._fed = event.id
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            return

    def _keep_showing(self) -> None:
        while (event := self._waiting.get()) is not None:
            self._show(event)
