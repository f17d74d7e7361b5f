"""Whether a run that is due may wait, and whether one that waits may start (pure)."""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from sexton.scheduler.job import Job, Limits, Overlap, Trigger

MOST_WAITING = 100
LONGEST_BACKOFF = 300.0


class Verdict(enum.Enum):
    ADMIT = "admit"
    SKIP = "skip"
    FULL = "full"
    REPLACE = "replace"


def admit(job: Job, trigger: Trigger, *, waiting: int, running: int) -> Verdict:
    """What becomes of a new run, given those of its job that wait or run.

    Slots that are caught up follow one another whatever `overlap` says: their times did not overlap.  A run by hand
    is never skipped.
    """
    if job.overlap is Overlap.REPLACE and waiting + running:
        return Verdict.REPLACE
    if trigger is Trigger.CATCH_UP:
        return Verdict.ADMIT
    if job.overlap is Overlap.SKIP and trigger is Trigger.SCHEDULE and waiting + running:
        return Verdict.SKIP
    return Verdict.FULL if waiting >= MOST_WAITING else Verdict.ADMIT


@dataclass(kw_only=True)
class Room:
    """What may still start on this gateway: one count per limit, taken by `take`."""

    limits: Limits
    running: int
    running_by_job: Counter[str]
    running_by_resource: Counter[str] = field(default_factory=Counter)

    @property
    def is_full(self) -> bool:
        return self.running >= self.limits.overall

    def take(self, job: Job) -> bool:
        """Count a run of `job` as running if every limit allows it."""
        if self.is_full or self.running_by_job[job.name] >= job.most_at_once:
            return False
        if any(self._resource_is_full(resource) for resource in job.resources):
            return False
        self.running += 1
        self.running_by_job[job.name] += 1
        self.running_by_resource.update(job.resources)
        return True

    def _resource_is_full(self, resource: str) -> bool:
        limit = self.limits.per_resource.get(resource)
        return limit is not None and self.running_by_resource[resource] >= limit


def count_resources(jobs: Iterable[Job]) -> Counter[str]:
    return Counter(resource for job in jobs for resource in job.resources)


def retry_delay(job: Job, run_id: str, attempt: int) -> timedelta:
    """Doubling from `retry_backoff` up to 300 s, varied by a quarter either way, the same for the same run."""
    doubled = min(LONGEST_BACKOFF, job.retry_backoff * 2.0 ** min(attempt - 1, 30))
    share = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4]) / 2**32
    return timedelta(seconds=min(LONGEST_BACKOFF, doubled * (0.75 + share / 2)))
