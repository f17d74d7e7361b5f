"""How much memory each process tree used lately: a ring of samples per tree.

Owns the samples and nothing else.  They are taken every few seconds while there are trees; where there are none nobody
is asked anything until the journal says that something happened.  Trees that ended stay for a while, so that a server
that was restarted can be compared with itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import final

import anyio
import anyio.abc
import anyio.to_thread

from sexton.clock import Clock
from sexton.gateway.tree_status import TreeStatus
from sexton.journal import Journal

EVERY = 5.0
KEEP = 720  # an hour of them
KEEP_ENDED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at: datetime
    memory: int


@dataclass(slots=True, kw_only=True)
class MemorySeries:
    """The samples of one tree, oldest first.  `ended_at` is when it was first found gone, None while it lives."""

    tree: str
    name: str
    owner: str
    started_at: datetime
    leader_pid: int | None
    samples: deque[Sample]
    ended_at: datetime | None = None


@final
@dataclass(slots=True)
class MemorySamples:
    """Everything that is remembered; filled by `record`.  At most `keep` samples a tree, `keep_ended` ended trees."""

    keep: int = KEEP
    keep_ended: int = KEEP_ENDED
    _series: dict[str, MemorySeries] = field(default_factory=dict)

    def record(self, trees: Sequence[TreeStatus], *, now: datetime) -> None:
        """Take note of every tree that lives now; the others have ended."""
        for tree in trees:
            series = self._of(tree)
            series.leader_pid = series.leader_pid or tree.leader_pid
            if tree.memory_bytes is not None:
                series.samples.append(Sample(at=now, memory=tree.memory_bytes))
        self._note_ended({tree.id for tree in trees}, now)

    def series(self, tree: str) -> MemorySeries | None:
        return self._series.get(tree)

    def all(self) -> tuple[MemorySeries, ...]:
        """Every tree that is remembered, the oldest first."""
        return tuple(self._series.values())

    def _of(self, tree: TreeStatus) -> MemorySeries:
        if tree.id not in self._series:
            self._series[tree.id] = MemorySeries(
                tree=tree.id,
                name=tree.name,
                owner=tree.owner,
                started_at=tree.started_at,
                leader_pid=tree.leader_pid,
                samples=deque(maxlen=self.keep),
            )
        return self._series[tree.id]

    def _note_ended(self, alive: set[str], now: datetime) -> None:
        ended = [series for series in self._series.values() if series.tree not in alive]
        for series in ended:
            series.ended_at = series.ended_at or now
        ended.sort(key=lambda series: series.ended_at or now)
        for series in ended[: max(0, len(ended) - self.keep_ended)]:
            del self._series[series.tree]


async def keep_sampling(
    samples: MemorySamples,
    trees: Callable[[], Sequence[TreeStatus]],
    *,
    journal: Journal,
    clock: Clock,
    every: float = EVERY,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Fill `samples` every so many seconds, until cancelled.  `trees` reads files, so it is called in a thread.

    Where it cannot read them, because no descriptor is left, a sample is missing.
    """
    task_status.started()
    while True:
        last_event = journal.last_id
        with suppress(OSError):
            found = await anyio.to_thread.run_sync(partial(trees), abandon_on_cancel=True)
            samples.record(found, now=clock.now())
            if not found:
                await journal.wait_after(last_event)
        await clock.sleep(every)
