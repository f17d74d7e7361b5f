"""The states of a run and the changes between them that are allowed (pure)."""

from __future__ import annotations

import enum

from sexton.errors import SextonError


class RunState(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    RAN = "ran"
    FAILED = "failed"
    SKIPPED = "skipped"
    MISSED = "missed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the run can no longer change."""
        return not CHANGES[self]


CHANGES: dict[RunState, frozenset[RunState]] = {
    # A queued run is missed when it waited for longer than its job's window.
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.MISSED}),
    RunState.RUNNING: frozenset({RunState.RAN, RunState.FAILED, RunState.INTERRUPTED, RunState.CANCELLED}),
    RunState.RAN: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.SKIPPED: frozenset(),
    RunState.MISSED: frozenset(),
    RunState.INTERRUPTED: frozenset(),
    RunState.CANCELLED: frozenset(),
}

STARTS_AS = frozenset({RunState.QUEUED, RunState.SKIPPED, RunState.MISSED})
ACTIVE = frozenset({RunState.QUEUED, RunState.RUNNING})
ENDED = frozenset(state for state in RunState if state.ended)


def check_change(before: RunState, after: RunState) -> None:
    """Raise `SextonError` unless a run may go from `before` to `after`."""
    if after not in CHANGES[before]:
        raise SextonError(f"A run that is {before} cannot become {after}.")
