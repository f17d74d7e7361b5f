"""The words for a tree: how it is held, where it stands, why it ended.

Standard library only: the warden, the keepers, the ledger and the gateway all use these words.
"""

from __future__ import annotations

from enum import StrEnum


class Boundary(StrEnum):
    """What holds the members of a tree together, strongest first."""

    CGROUP = "cgroup"
    """A cgroup v2 leaf of the tree's own and a subreaper; each covers what escapes the other."""
    SUBREAPER = "subreaper"
    """Every orphan of the tree is handed to its keeper by the kernel."""
    PROCESS_GROUP = "process-group"
    """Members that leave the process group escape."""


class TreeState(StrEnum):
    RESERVED = "reserved"
    """Asked for; no process of it exists yet."""
    SPAWNING = "spawning"
    """It has a keeper; the program asked for does not run yet."""
    RUNNING = "running"
    DRAINING = "draining"
    """The stop ladder has begun."""
    GONE = "gone"
    """Proven empty."""
    SPAWN_FAILED = "spawn_failed"
    """The program could not be started; proven empty."""
    STUCK = "stuck"
    """Something of it cannot be ended at the moment; its keeper stays and tries again."""
    ORPHANED = "orphaned"
    """Its keeper and its warden are dead; recovery has to finish it."""
    RECOVERED = "recovered"
    """Recovery has finished it."""
    EXTERNAL_PENDING = "external_pending"
    """The local tree is gone; a container that it started through a daemon may not be."""


class EndReason(StrEnum):
    RELEASED = "released"
    HOLDER_GONE = "holder_gone"
    TTL = "ttl"
    LEADER_EXIT = "leader_exit"
    GATEWAY_DIED = "gateway_died"
    WARDEN_DIED = "warden_died"
    KEEPER_DIED = "keeper_died"
    NOT_KEPT = "not_kept"
    """The gateway had said until when it may go on, and nothing more."""
    KILLED = "killed"
    SPAWN_FAILED = "spawn_failed"
