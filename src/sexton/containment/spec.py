"""What is asked of one contained process tree: frozen data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTimes:
    """How long each step of stopping a tree may take, in seconds.

    The ladder is MCP's shutdown for stdio: close stdin, wait; SIGTERM, wait;
    SIGKILL.  `orphaned_…` apply when the gateway itself has died.
    """

    stdin_grace: float = 2.0
    term_grace: float = 2.0
    leader_exit_grace: float = 0.2
    orphaned_stdin_grace: float = 0.5
    orphaned_term_grace: float = 0.5
    stuck_after: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds for one tree; None means no bound.  `cpu` is in cores."""

    memory_bytes: int | None = None
    processes: int | None = None
    cpu: float | None = None
    open_files: int | None = None
