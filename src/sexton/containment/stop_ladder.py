"""How a tree is ended, step by step: close stdin, SIGTERM, SIGKILL until it is proven empty (pure).

The first three steps are MCP's shutdown for stdio servers.  What is to be done on entering a step is the keeper's
business; when the next step is due stands here.  Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class Step(StrEnum):
    RUNNING = "running"
    STDIN_CLOSED = "stdin_closed"
    """The holder has closed stdin: a server that follows MCP exits now."""
    TERM_SENT = "term_sent"
    COURTESY = "courtesy"
    """The leader has exited; the others may follow it."""
    KILLING = "killing"
    STUCK = "stuck"
    """Killed, and still there; we go on killing."""
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTimes:
    """How long each step of a stop may take, in seconds.

    `leader_exit_grace` is what the rest of a tree gets when its leader has exited.  The `orphaned` ones apply when the
    gateway died: everything has to be gone within 2 s then.
    """

    stdin_grace: float = 2.0
    term_grace: float = 2.0
    leader_exit_grace: float = 0.2
    orphaned_stdin_grace: float = 0.5
    orphaned_term_grace: float = 0.5
    stuck_after: float = 10.0

    def grace(self, step: Step, *, orphaned: bool = False) -> float | None:
        """How long that step may take; None for one that nothing limits."""
        return {
            Step.STDIN_CLOSED: self.orphaned_stdin_grace if orphaned else self.stdin_grace,
            Step.TERM_SENT: self.orphaned_term_grace if orphaned else self.term_grace,
            Step.COURTESY: self.leader_exit_grace,
            Step.KILLING: self.stuck_after,
        }.get(step)

    @property
    def longest(self) -> float:
        """From a release until the tree is gone or reported stuck, whatever its members do."""
        return self.stdin_grace + self.term_grace + self.leader_exit_grace + self.stuck_after


class Event(StrEnum):
    RELEASE = "release"
    """The holder wants it ended, or is no more."""
    TERMINATE = "terminate"
    """It has to end, and nobody will close its stdin: the holder lives and has not let go."""
    KILL = "kill"
    LEADER_EXIT = "leader_exit"
    TIMEOUT = "timeout"
    EMPTY = "empty"
    """Proven: no member is left."""


_NEXT: Mapping[Step, Mapping[Event, Step]] = {
    Step.RUNNING: {
        Event.RELEASE: Step.STDIN_CLOSED,
        Event.TERMINATE: Step.TERM_SENT,
        Event.KILL: Step.KILLING,
        Event.LEADER_EXIT: Step.COURTESY,
    },
    Step.STDIN_CLOSED: {
        Event.TERMINATE: Step.TERM_SENT,
        Event.KILL: Step.KILLING,
        Event.LEADER_EXIT: Step.COURTESY,
        Event.TIMEOUT: Step.TERM_SENT,
    },
    Step.TERM_SENT: {
        Event.KILL: Step.KILLING,
        Event.LEADER_EXIT: Step.COURTESY,
        Event.TIMEOUT: Step.KILLING,
    },
    Step.COURTESY: {
        Event.KILL: Step.KILLING,
        Event.TIMEOUT: Step.KILLING,
        Event.EMPTY: Step.GONE,
    },
    Step.KILLING: {
        Event.TIMEOUT: Step.STUCK,
        Event.EMPTY: Step.GONE,
    },
    Step.STUCK: {
        Event.EMPTY: Step.GONE,
    },
    Step.GONE: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Where a tree stands, and when that stops being good enough.

    `deadline` is on the monotonic clock that `now` is read from; None: this step lasts until something happens.
    """

    times: StopTimes
    step: Step = Step.RUNNING
    deadline: float | None = None
    orphaned: bool = False

    def on(self, event: Event, *, now: float) -> Ladder:
        """The ladder after that event; an event that means nothing in this step changes nothing."""
        step = _NEXT[self.step].get(event)
        if step is None:
            return self
        return replace(self, step=step, deadline=self._due(step, now))

    def hurry(self, *, now: float) -> Ladder:
        """The gateway is no more: from here on its shorter graces apply, also to the step that is under way."""
        hurried = replace(self, orphaned=True)
        due = hurried._due(self.step, now)  # noqa: SLF001 -- it is another one of us
        if self.deadline is None or due is None:
            return hurried
        return replace(hurried, deadline=min(self.deadline, due))

    def is_due(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    @property
    def has_begun(self) -> bool:
        return self.step is not Step.RUNNING

    @property
    def is_killing(self) -> bool:
        return self.step in {Step.KILLING, Step.STUCK}

    def _due(self, step: Step, now: float) -> float | None:
        grace = self.times.grace(step, orphaned=self.orphaned)
        return None if grace is None else now + grace
