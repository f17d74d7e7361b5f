"""The gateway's part in the end of trees: none, unless their custodians do not do theirs.

A keeper ends its tree by itself, and a warden what a dead keeper leaves.  Here is what happens when they are frozen or
both dead: they are woken, replaced, and in the end recovery does what the ledger says.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import anyio

from sexton.containment import identity, recovery
from sexton.containment.instance import Instance
from sexton.containment.ledger import Record, Stuck
from sexton.containment.stop_ladder import StopTimes
from sexton.containment.tree import ProcessTree
from sexton.containment.tree_state import EndReason, TreeState
from sexton.containment.warden import Warden

_log = logging.getLogger(__name__)

_ENDING_TAKES = 20.0
"""Longer than any keeper needs that has nobody to wait for: all its graces, and until it reports what is stuck."""
_OVERDUE_AFTER = 5.0
"""Beyond all its graces: only a keeper that does not run is so late."""
_REPLACED_WITHIN = 2.0
_CONTAINERS_TAKE = 30.0
_WARDEN_LEAVES_WITHIN = 5.0
_LOOK_EVERY = 0.02


class Rescue:
    def __init__(self, instance: Instance, warden: Warden) -> None:
        self._instance = instance
        self._warden = warden
        self._overdue_at: dict[str, float] = {}
        """By when trees whose handles were dropped have to be gone; nobody waits for them."""

    def note_dropped(self, tree: str, stop: StopTimes) -> None:
        """A handle is gone, and its tree is not known to be: its keeper has seen the end of the lifeline."""
        self._overdue_at[tree] = time.monotonic() + stop.longest + _OVERDUE_AFTER

    async def replace_overdue(self) -> tuple[str, ...]:
        """Replace the keepers of trees that nobody holds and that should be gone; their ids.

        No handle leads back to such a tree, so it cannot come into use again.  A stuck one is not overdue: its keeper
        has said so, and goes on.
        """
        now = time.monotonic()
        due = {tree for tree, at in list(self._overdue_at.items()) if now >= at}
        overdue = [record for record in self._unsettled() if record.tree in due] if due else []
        for record in overdue:
            _log.warning("nobody holds the processes of %r, and they do not end; replacing their keeper", record.name)
            self._warden.wake()
            self._warden.kill_keeper(record.tree)
        await self._see_replaced(overdue)
        for tree in due:
            if not self._is_unsettled(tree):
                del self._overdue_at[tree]
        return tuple(record.tree for record in overdue)

    async def _see_replaced(self, overdue: Sequence[Record]) -> None:
        """Until the warden has done it; a keeper that is left then is killed from here."""
        give_up = time.monotonic() + _REPLACED_WITHIN
        left = [record.keeper for record in overdue if record.keeper is not None]
        while left and time.monotonic() < give_up:
            await anyio.sleep(_LOOK_EVERY)
            left = [keeper for keeper in left if identity.is_alive(keeper)]
        for keeper in left:
            with suppress(PermissionError):
                identity.signal_verified(keeper, signal.SIGKILL)

    async def replace_custodian(self, tree: ProcessTree, attempt: int) -> None:
        """Do something about a tree whose custodian owes a report and gives none, more with each attempt.

        A keeper that has reported before is the one that hangs; before its first report it may be the warden.
        """
        keeper = tree.progress.keeper
        if tree.progress.is_unattended:
            await self._finish(tree)
        elif attempt == (1 if keeper is None else 0):
            self._warden.kill_keeper(tree.id)
        elif attempt <= 1:
            self._warden.wake()
        elif attempt == 2:
            self._warden.kill()
        elif keeper is not None:
            with suppress(PermissionError):
                identity.signal_verified(keeper, signal.SIGKILL)

    async def wait_unheld_gone(self) -> None:
        """Trees whose handles are gone end by themselves; a keeper that does not get on with it is replaced."""
        give_up = time.monotonic() + _ENDING_TAKES
        records = self._unsettled()
        while any(map(_has_custodian, records)) and time.monotonic() < give_up:
            await anyio.sleep(_LOOK_EVERY)
            records = self._unsettled()
        for record in filter(_has_custodian, records):
            _log.warning("the processes of %r do not end in time; replacing their keeper", record.name)
            self._warden.wake()
            self._warden.kill_keeper(record.tree)
        if records:
            await recovery.recover(self._instance.state_dir, own_instance=self._instance.id)

    async def dismiss_warden(self) -> None:
        """It leaves when the last of its trees is gone, and the last container of one is removed."""
        left = self._warden.dismiss()
        if left is not None:
            waits_for_container = any(one.state is TreeState.EXTERNAL_PENDING for one in self._instance.records())
            with anyio.move_on_after(_CONTAINERS_TAKE if waits_for_container else _WARDEN_LEAVES_WITHIN):
                await anyio.wait_readable(left)
        self._warden.bury()

    async def _finish(self, tree: ProcessTree) -> None:
        """Both custodians are dead, since each held the lifeline: do what the ledger says.

        No record means that the tree was proven empty before.  A process closes its descriptors a moment before it has
        ended, and recovery leaves a tree alone whose custodian lives: so it is asked until it has done its part.
        """
        give_up = time.monotonic() + _ENDING_TAKES
        stuck = await self._recover(tree.id)
        while not stuck and self._is_unsettled(tree.id):
            if time.monotonic() >= give_up:
                stuck = (Stuck(pid=0, why="recovery does not finish it"),)
            await anyio.sleep(_LOOK_EVERY)
            stuck = stuck or await self._recover(tree.id)
        tree.settle(EndReason.WARDEN_DIED, stuck=stuck)

    async def _recover(self, tree: str) -> tuple[Stuck, ...]:
        """What does not end of that tree."""
        report = await recovery.recover(self._instance.state_dir, own_instance=self._instance.id)
        return next((one.stuck for one in report.trees if one.tree == tree and one.state is TreeState.STUCK), ())

    def _is_unsettled(self, tree: str) -> bool:
        return any(record.tree == tree for record in self._unsettled())

    def _unsettled(self) -> list[Record]:
        settled = {TreeState.STUCK, TreeState.EXTERNAL_PENDING}
        return [record for record in self._instance.records() if record.state not in settled]


def _has_custodian(record: Record) -> bool:
    return any(one is not None and identity.is_alive(one) for one in (record.keeper, record.warden))
