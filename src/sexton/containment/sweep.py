"""A sweep ends what nobody keeps any more.  What is in use is not disturbed, unless that is asked for by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass

import anyio

from sexton.containment.containment_errors import TreeStuck
from sexton.containment.recovery import RecoveryReport, recover
from sexton.containment.tree import ProcessTree

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What a sweep found without a keeper, and the ids of the live trees that it ended because it was told to.

    `stuck` are the ids of those that did not end; their keepers go on trying.  `replaced` are the ids of trees that
    nobody held and whose keepers did not get on with ending them: the warden ends those.
    """

    recovery: RecoveryReport
    ended: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


async def sweep(
    state_dir: str | os.PathLike[str], *, own_instance: str, active: Collection[ProcessTree] = ()
) -> SweepReport:
    """End the orphans that the ledger tells of, and all of `active`.

    Trees of other gateways that live are never touched.  Bounded by the stop times of `active` and by `recover`.
    """
    for tree in active:
        tree.release()
    stuck: list[str] = []
    async with anyio.create_task_group() as tasks:
        for tree in active:
            tasks.start_soon(_wait_gone, tree, stuck)
    report = await recover(state_dir, own_instance=own_instance)
    ended = tuple(tree.id for tree in active if tree.id not in stuck)
    return SweepReport(recovery=report, ended=ended, stuck=tuple(stuck))


async def _wait_gone(tree: ProcessTree, stuck: list[str]) -> None:
    try:
        await tree.wait_gone()
    except TreeStuck as error:
        _log.warning("%s", error)
        stuck.append(tree.id)
