"""The handle of one process tree: who has it owns the tree, and when it goes the tree goes."""

from __future__ import annotations

import logging
import os
import socket
import time
import weakref
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, final

import anyio
import anyio.lowlevel

from sexton.containment import lifeline
from sexton.containment.containment_errors import TreeStuck, spawn_failed, tree_stuck
from sexton.containment.ledger import Stuck
from sexton.containment.pipes import Pipes
from sexton.containment.progress import TreeEnd, TreeProgress
from sexton.containment.reports import Reports
from sexton.containment.spec import ProcessSpec
from sexton.containment.stderr_log import TailReader
from sexton.containment.tree_state import Boundary, EndReason, TreeState

_log = logging.getLogger(__name__)

_RESCUE_WITHIN = 2.0
"""What each step of a rescue gets to show an effect, in seconds."""

Rescue = Callable[["ProcessTree", int], Awaitable[None]]


@final
class ProcessTree:
    """A process and all that comes of it, held by one owner.  An async context manager.

    Always true:
        1. The tree lives no longer than this object's lifeline, a descriptor: leaving the context, `release`, losing
           the object and the death of this process all end it.
        2. `wait_gone` returns only when the tree is proven empty.
        3. Ending goes on in the keeper, whatever becomes of the task that asked for it.

    `stdin` and `stdout` are our ends of the server's pipes, non-blocking; write and read them with os.write and os.read
    and anyio's wait_writable and wait_readable.  They stay open until the context is left; after `close_stdin` writing
    gives BrokenPipeError.  Every method but the waits may be called from any thread.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        tree: str,
        boundary: Boundary,
        holder: socket.socket,
        pipes: Pipes,
        tail: int,
        rescue: Rescue,
        on_dropped: Callable[[], None],
    ) -> None:
        self.id = tree
        self.spec = spec
        self.boundary = boundary
        self.started_at = datetime.now(UTC)
        self._pipes = pipes
        self._tail = TailReader(tail)
        self._reports = Reports(holder)
        self._rescue = rescue
        self._rescues = 0
        self._rescued_at = 0.0
        self._asked_at: float | None = None
        weakref.finalize(self, _close, os.getpid(), self._reports, self._pipes, self._tail, on_dropped)

    @property
    def stdin(self) -> int:
        return self._pipes.stdin

    @property
    def stdout(self) -> int:
        return self._pipes.stdout

    @property
    def pid(self) -> int | None:
        """The leader; None until it runs."""
        return self.progress.leader_pid

    @property
    def state(self) -> TreeState:
        return self.progress.state

    @property
    def progress(self) -> TreeProgress:
        """What its custodians have reported by now."""
        return self._reports.progress

    @property
    def stderr_tail(self) -> str:
        """The last words on stderr, at most 4 KiB; empty when stderr is a descriptor of the caller's."""
        return self._tail.read()

    def close_stdin(self) -> None:
        """The server reads end of file.  Idempotent."""
        self._pipes.close_stdin()

    def release(self) -> None:
        """Begin to end the tree: close stdin, SIGTERM, SIGKILL, each after its grace.  Idempotent."""
        self._ask(lifeline.RELEASE)

    def kill(self) -> None:
        """End the tree with SIGKILL, now.  Idempotent."""
        self._ask(lifeline.KILL)

    def renew(self, ttl: float) -> None:
        """Let the tree live for that many seconds from now, whatever time it had left."""
        self._reports.send(lifeline.RENEW + repr(float(ttl)).encode("ascii"))

    async def wait_started(self) -> None:
        """Wait until the program runs.

        Raises:
            SpawnFailed: it cannot be started, or was ended before it could be.
        """
        progress = await self._wait(lambda seen: seen.is_settled)
        if progress.leader_pid is None:
            raise spawn_failed(self.spec, progress.failure, had_keeper=progress.keeper is not None)

    async def wait_ended(self) -> TreeEnd:
        """Wait until the leader has exited; the rest of the tree may still be there."""
        progress = await self._wait(lambda seen: seen.ended is not None)
        assert progress.ended is not None
        return progress.ended

    async def wait_gone(self) -> TreeEnd:
        """Wait until the tree is proven empty.  It does not begin the end: see `release`.

        Raises:
            TreeStuck: something of it does not end.  Its keeper goes on trying.
        """
        progress = await self._wait(lambda seen: seen.gone is not None or bool(seen.stuck))
        if progress.gone is None:
            raise tree_stuck(self.spec, progress.stuck)
        return progress.gone

    def settle(self, reason: EndReason, *, stuck: tuple[Stuck, ...]) -> None:
        """Enter what recovery has done in place of the custodians, who are dead: all of it, or all but `stuck`."""
        self._reports.change(lambda seen: seen.finished(reason, stuck=stuck))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the tree and prove it empty; bounded, and not cut short by a cancelled scope.

        A cancellation that defeats the shield (asyncio's own, a second time) ends the wait, never the ending.
        """
        self.release()
        try:
            with anyio.CancelScope(shield=True):
                await self.wait_gone()
        except TreeStuck as stuck:
            _log.warning("%s", stuck)
        finally:
            self._reports.let_go()
            self._pipes.close()
            self._tail.close()

    async def _wait(self, is_enough: Callable[[TreeProgress], bool]) -> TreeProgress:
        """Wait for progress; a custodian that owes us some and gives none is replaced."""
        await anyio.lowlevel.checkpoint()
        while not is_enough(progress := self.progress):
            patience = self._patience(progress)
            if patience is None or patience > 0:
                await self._reports.wait_change(progress, within=patience)
            else:
                await self._call_for_rescue()
        return progress

    def _patience(self, progress: TreeProgress) -> float | None:
        """Seconds until the custodian is overdue; None while it owes us nothing."""
        owed = progress.owed_within(self.spec.stop, is_asked=self._asked_at is not None)
        if owed is None:
            return None
        since = max(self._reports.changed_at, self._asked_at or 0.0, self._rescued_at)
        return since + (owed if self._rescues == 0 else _RESCUE_WITHIN) - time.monotonic()

    async def _call_for_rescue(self) -> None:
        attempt, self._rescues = self._rescues, self._rescues + 1
        self._rescued_at = time.monotonic()
        _log.warning("nobody answers for the processes of %r; step %d to replace its keeper", self.spec.name, attempt)
        await self._rescue(self, attempt)

    def _ask(self, request: bytes) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        self._reports.send(request)
        self.close_stdin()
        self._reports.nudge()


def _close(owner: int, reports: Reports, pipes: Pipes, tail: TailReader, on_dropped: Callable[[], None]) -> None:
    """Not in a process that was forked from the owner: there these are copies, and the tree is not its to end."""
    if os.getpid() == owner:
        if not reports.progress.is_over:
            on_dropped()
        reports.close()
        pipes.close()
        tail.close()
