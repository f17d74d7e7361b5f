"""How long a node's claims hold without its beat (pure).

On one machine a death can be seen, and a beat that stands still only tells of
a gateway that is frozen.  Between machines a node that cannot reach the
database cannot know whether the others can.  So two clocks run, each on a
machine of its own, from two events of a known order:

1. The node counts from the moment *before* it sent the last beat that was
   committed.  After `fence_after` seconds it has ended its work itself.
2. Any other counts from the moment *after* it first saw that beat, which is
   later, and only while it reaches the database itself.  After `settle_after`
   seconds it may settle the node's runs, in a transaction that finds the beat
   unchanged.

As `fence_after`, the time to end work, and what two clocks may differ by in
that time are less than `settle_after`, no slot runs twice at once.  And as
`fence_after` is more than a minute, a minute without the database ends no work.
"""

from __future__ import annotations

from dataclasses import dataclass

BEAT_EVERY = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """In seconds.  `fence_after` None: nobody else can take what we hold while we live on this machine."""

    settle_after: float
    fence_after: float | None = None


ONE_MACHINE = LeaseTimes(settle_after=15.0)
SEVERAL_MACHINES = LeaseTimes(settle_after=105.0, fence_after=75.0)
# After the fence, until what has not ended by itself is killed, and until the gateway gives itself up.
KILL_AFTER = 8.0
GIVE_UP_AFTER = 16.0
# And until somebody else ends every process of this node, who is not stopped when we are.
ENDED_FOR_US_AFTER = 10.0


class Hold:
    """Whether this node may still believe that its claims hold.  Times are of a clock that also counts suspension."""

    def __init__(self, times: LeaseTimes, *, now: float) -> None:
        self._fence_after = times.fence_after
        self._renewed_at = now
        self.is_given_up = False
        """Whether our work was ended because of it, until we are back."""

    def renewed(self, sent_at: float) -> None:
        """A beat that was begun at that time is committed."""
        self._renewed_at = max(self._renewed_at, sent_at)

    @property
    def ended_for_us_at(self) -> float | None:
        """When the processes of this node are to be ended from outside, if it says nothing more; None: never."""
        return None if self._fence_after is None else self._renewed_at + self._fence_after + ENDED_FOR_US_AFTER

    def left(self, now: float) -> float:
        """Seconds until the work has to be ended; less than 0 after that."""
        return float("inf") if self._fence_after is None else self._renewed_at + self._fence_after - now
