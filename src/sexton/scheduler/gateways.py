"""The gateways on one database: who they are, and which of them are dead.

A gateway is believed dead only on one of two proofs: its process is gone from
this very machine (same boot, same pid namespace), or its beat has stood still
for `LEASE` seconds while ours went on.  Neither looks at the wall clock, so a
clock that jumps declares nobody dead.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sexton.journal import JSON

BEAT_EVERY = 5.0
LEASE = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway process.  `process` is what finds it again on its own machine; see `is_gone`."""

    id: str
    name: str
    process: Mapping[str, JSON]
    beat: int = 0
    offers: Mapping[str, JSON] = field(default_factory=dict)
    """What it told of itself with its last beat."""


def this_gateway(name: str) -> Gateway:
    process: dict[str, JSON] = {
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "pid_namespace": _link(Path("/proc/self/ns/pid")),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }
    return Gateway(id=f"{name[:40]}-{secrets.token_hex(8)}", name=name, process=process)


def is_gone(other: Gateway, here: Gateway) -> bool:
    """Whether the other's process is certainly gone.  A pid that is in use again has another start time."""
    same_place = ("boot", "pid_namespace")
    if any(not here.process.get(key) or here.process.get(key) != other.process.get(key) for key in same_place):
        return False
    pid = other.process.get("pid")
    return isinstance(pid, int) and _start_time(pid) != other.process.get("started")


@dataclass
class Beats:
    """What this gateway has seen of the others' beats."""

    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def observe(self, others: Iterable[Gateway], *, at: float) -> tuple[str, ...]:
        """Take note, at that monotonic time, of every other gateway; the ids of those whose beat stood still."""
        fresh = {}
        for other in others:
            beat, since = self._seen.get(other.id, (other.beat, at))
            fresh[other.id] = (beat, since) if beat == other.beat else (other.beat, at)
        self._seen = fresh
        return tuple(other for other, (_, since) in fresh.items() if at - since > LEASE)

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
