"""The holder's side of a lifeline: what the custodians have reported, and waiting for more.

Several tasks may wait for one tree, in several event loops and threads, and there is no background task.  So whoever
waits reads what has come, for all, and nudges the others.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import anyio

from sexton.containment import lifeline
from sexton.containment.progress import TreeProgress


class Reports:
    """The progress of one tree, kept from its lifeline, which is closed when nothing more can come."""

    def __init__(self, holder: socket.socket) -> None:
        self._lifeline: socket.socket | None = holder
        self._progress = TreeProgress()
        self.changed_at = time.monotonic()
        self._lock = threading.RLock()
        self._waiters: set[int] = set()

    @property
    def progress(self) -> TreeProgress:
        """What is known by now, without waiting."""
        self._read()
        return self._progress

    def send(self, request: bytes) -> None:
        """Tell the custodian; one that is no more needs not to be told."""
        with self._lock:
            if self._lifeline is None:
                return
            try:
                self._lifeline.send(request, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:  # it does not read any more; the end of our side says the same as a release
                self._lifeline.shutdown(socket.SHUT_WR)
            except OSError:
                return

    def change(self, step: Callable[[TreeProgress], TreeProgress]) -> None:
        """Enter what was learnt elsewhere."""
        with self._lock:
            self._progress = step(self._progress)
        self.nudge()

    def nudge(self) -> None:
        """Let everybody who waits look again."""
        with self._lock:
            for waiter in self._waiters:
                os.eventfd_write(waiter, 1)

    async def wait_change(self, seen: TreeProgress, *, within: float | None) -> None:
        """Wait for progress beyond `seen`, for a nudge, or that many seconds."""
        with self._watch() as watched, anyio.move_on_after(within):
            if self.progress == seen:
                await anyio.wait_readable(watched)

    def let_go(self) -> None:
        """Nobody holds the tree from here on; what becomes of it is still reported.

        The custodian sees the end of our side even when a forked process holds a copy of it.
        """
        with self._lock:
            if self._lifeline is not None:
                with suppress(OSError):
                    self._lifeline.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go, and hear no more."""
        self.let_go()
        with self._lock:
            self._close()

    def _close(self) -> None:
        holder, self._lifeline = self._lifeline, None
        if holder is not None:
            holder.close()

    @contextmanager
    def _watch(self) -> Iterator[int]:
        """A descriptor that is readable when there is a report, or when another reader has taken it."""
        nudge = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with select.epoll() as watched:
            watched.register(nudge, select.EPOLLIN)
            with self._lock:
                if self._lifeline is not None:
                    watched.register(self._lifeline.fileno(), select.EPOLLIN)
                self._waiters.add(nudge)
            try:
                yield watched.fileno()
            finally:
                with self._lock:
                    self._waiters.discard(nudge)
                os.close(nudge)

    def _read(self) -> None:
        with self._lock:
            before = self._progress
            while self._lifeline is not None and (packet := lifeline.receive(self._lifeline)) is not None:
                report = json.loads(packet) if packet else None
                self._progress = self._progress.unattended() if report is None else self._progress.after(report)
                if self._progress.is_over:
                    self._close()
            if self._progress is not before:
                self.changed_at = time.monotonic()
                self.nudge()
