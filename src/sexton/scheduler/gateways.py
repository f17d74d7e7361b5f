"""The gateways on one database: who they are, and which of them are dead.

A gateway is believed dead only on one of three proofs: its process is gone
from this very machine (same boot, same pid namespace) and its trees have had
their time to end; its data folder, of which there is one holder, is ours now,
and its beat stands still; or its beat has stood still for the whole lease (see
`lease`) while ours went on.  None looks at the wall clock, so a clock that
jumps declares nobody dead.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sexton.journal import JSON
from sexton.scheduler.lease import ONE_MACHINE, LeaseTimes

LEASE = ONE_MACHINE.settle_after
# The trees of a gateway that was killed are gone 2 s later; seen gone at two beats, 5 s apart.
GONE_FOR = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway process.  `process` is what finds it again on its own machine; see `is_gone`."""

    id: str
    name: str
    process: Mapping[str, JSON]
    beat: int = 0
    offers: Mapping[str, JSON] = field(default_factory=dict)
    """What it told of itself with its last beat."""


def new_node_id(name: str) -> str:
    """For one life of one gateway, and no other one."""
    return f"{name[:40]}-{secrets.token_hex(8)}"


def this_gateway(name: str, *, place: str | None = None, node_id: str | None = None) -> Gateway:
    """`place` names a data folder on one machine, which has one holder at a time."""
    process: dict[str, JSON] = {
        "place": place,
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "pid_namespace": _link(Path("/proc/self/ns/pid")),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }
    return Gateway(id=node_id or new_node_id(name), name=name, process=process)


def is_gone(other: Gateway, here: Gateway) -> bool:
    """Whether the other's process is certainly gone.  A pid that is in use again has another start time."""
    same_place = ("boot", "pid_namespace")
    if any(not here.process.get(key) or here.process.get(key) != other.process.get(key) for key in same_place):
        return False
    pid = other.process.get("pid")
    return isinstance(pid, int) and _start_time(pid) != other.process.get("started")


def is_predecessor(other: Gateway, here: Gateway) -> bool:
    """Whether the other had the data folder that is ours now."""
    place = other.process.get("place")
    return place is not None and place == here.process.get("place")


@dataclass(slots=True)
class _Seen:
    """The other's last new beat and when that was first seen; since when its process is known to be gone."""

    beat: int
    since: float
    gone_since: float | None = None


@dataclass
class Beats:
    """What this gateway has seen of the others' beats."""

    times: LeaseTimes = ONE_MACHINE
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def dead(self, others: Iterable[Gateway], here: Gateway, *, at: float) -> tuple[Gateway, ...]:
        """Take note, at that monotonic time, of every other gateway; those that are proven dead."""
        others = tuple(others)
        silent = self.observe(others, at=at)
        return tuple(other for other in others if other.id in silent or self._is_gone(other, here, at))

    def observe(self, others: Iterable[Gateway], *, at: float) -> tuple[str, ...]:
        """The ids of those whose beat stood still for the whole lease."""
        fresh = {}
        for other in others:
            seen = self._seen.get(other.id)
            fresh[other.id] = seen if seen and seen.beat == other.beat else _Seen(other.beat, at)
        self._seen = fresh
        return tuple(other for other, seen in fresh.items() if at - seen.since > self.times.settle_after)

    def _is_gone(self, other: Gateway, here: Gateway, at: float) -> bool:
        seen = self._seen[other.id]
        if is_predecessor(other, here) and at - seen.since > LEASE:
            return True
        if not is_gone(other, here):
            return False
        seen.gone_since = at if seen.gone_since is None else seen.gone_since
        return at - seen.gone_since >= GONE_FOR

    def forget(self) -> None:
        """Our own beat failed: what keeps us from the database may keep the others from it too."""
        self._seen.clear()


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/<pid>/stat, see proc_pid_stat(5); None when there is no such process, or only its zombie.

    The second field may hold spaces and parentheses, so the count starts after the last one.
    """
    stat = _text(Path(f"/proc/{pid}/stat"))
    if stat is None:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else fields[18]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # No such process, or no /proc on this system.
        return None


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None
