"""What a person sees of a tree."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sexton.containment import identity
from sexton.containment.cgroup_boundary import Leaf
from sexton.containment.ledger import External, Record, Stuck
from sexton.containment.subreaper_boundary import children_of
from sexton.containment.tree import ProcessTree
from sexton.containment.tree_state import Boundary, EndReason, TreeState

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStatus:
    """One tree, now.  `pids` are its members (its keeper is none), `memory_bytes` what they hold in memory together.

    `memory_bytes` counts a page that several share once per cgroup where the memory controller is ours, else once per
    process; None when nothing of the tree runs.
    """

    id: str
    name: str
    owner: str
    state: TreeState
    boundary: Boundary
    leader_pid: int | None
    keeper_pid: int | None
    pids: tuple[int, ...]
    memory_bytes: int | None
    started_at: datetime
    reason: EndReason | None
    stuck: tuple[Stuck, ...]
    external: tuple[External, ...]


def examine(record: Record) -> TreeStatus:
    """A tree as its record and the kernel have it.  Members are read without proof: to be looked at, not signalled."""
    pids = _members(record)
    return TreeStatus(
        id=record.tree,
        name=record.name,
        owner=record.owner,
        state=record.state,
        boundary=record.boundary,
        leader_pid=record.leader.pid if record.leader else None,
        keeper_pid=record.keeper.pid if record.keeper else None,
        pids=pids,
        memory_bytes=_memory(record, pids),
        started_at=datetime.fromtimestamp(record.started_at, UTC),
        reason=record.reason,
        stuck=record.stuck,
        external=record.externals,
    )


def examine_unrecorded(tree: ProcessTree) -> TreeStatus:
    """A tree whose keeper has not written it down yet."""
    return TreeStatus(
        id=tree.id,
        name=tree.spec.name,
        owner=tree.spec.owner,
        state=tree.state,
        boundary=tree.boundary,
        leader_pid=None,
        keeper_pid=None,
        pids=(),
        memory_bytes=None,
        started_at=tree.started_at,
        reason=None,
        stuck=(),
        external=(),
    )


def _members(record: Record) -> tuple[int, ...]:
    found: set[int] = set()
    if record.leaf is not None and Leaf(record.leaf.path).is_(record.leaf):
        found.update(Leaf(record.leaf.path).members())
    if record.keeper is not None and identity.is_alive(record.keeper):
        found.update(_descendants(record.keeper.pid))
    else:
        found.update(one.pid for one in record.census if identity.is_alive(one))
    return tuple(sorted(pid for pid in found if _is_running(pid)))


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    unread = [pid]
    while unread:
        children = set(children_of(unread.pop())) - found
        found |= children
        unread += children
    return found


def _is_running(pid: int) -> bool:
    stat = identity.read_stat(pid)
    return stat is not None and stat.state != "Z"


def _memory(record: Record, pids: tuple[int, ...]) -> int | None:
    if not pids:
        return None
    if record.leaf is not None:
        with suppress(OSError):
            return int(Path(record.leaf.path, "memory.current").read_text(encoding="ascii"))
    return sum(_resident(pid) for pid in pids)


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return 0
