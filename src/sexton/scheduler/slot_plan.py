"""Which of the slots that have come run, which are missed, and which is next (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sexton.scheduler import timetable
from sexton.scheduler.job import CatchUp, Job, Overlap, Schedule, Trigger
from sexton.scheduler.timetable import Stretch

# A run that starts within this time of its slot is on time; after it, `catch_up` decides.
ON_TIME = timedelta(seconds=15)
MOST_CAUGHT_UP = 1_000
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    slot: datetime
    trigger: Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """`due` in the order of slots; `missed` are all that came before them; `next_slot` is the first that is to come."""

    due: tuple[Due, ...]
    missed: Stretch | None
    next_slot: datetime | None
    next_start: datetime | None


def plan_slots(job: Job, *, first: datetime, now: datetime) -> SlotPlan:
    """Deal with every slot from `first` (whose start has come) up to `now`."""
    assert job.schedule is not None
    last = _last_due(job, job.schedule, first, now)
    chosen = _chosen(job, job.schedule, first, last, now)
    missed_until = chosen[0] - MICROSECOND if chosen else last
    following = timetable.next_slot(job.schedule, job.timezone, after=last)
    return SlotPlan(
        due=tuple(Due(slot=slot, trigger=_trigger(job, chosen, now)) for slot in chosen),
        missed=timetable.stretch(job.schedule, job.timezone, first=first, until=missed_until),
        next_slot=following,
        next_start=start_of(job, following),
    )


def start_of(job: Job, slot: datetime | None) -> datetime | None:
    return None if slot is None else slot + timetable.delay(job, slot)


def lateness(job: Job, slot: datetime, now: datetime) -> timedelta:
    return now - slot - timetable.delay(job, slot)


def _last_due(job: Job, schedule: Schedule, first: datetime, now: datetime) -> datetime:
    """The last slot whose start has come, without looking at each slot of a long absence."""
    surely = now - timedelta(seconds=job.jitter)
    last = first
    if surely > first:
        last = timetable.last_slots(schedule, job.timezone, first=first, until=surely, most=1)[-1]
    for slot in timetable.slots(schedule, job.timezone, after=last):
        if slot > now or slot + timetable.delay(job, slot) > now:
            break
        last = slot
    return last


def _chosen(job: Job, schedule: Schedule, first: datetime, last: datetime, now: datetime) -> list[datetime]:
    on_time = lateness(job, last, now) <= ON_TIME
    in_window = lateness(job, last, now) <= timedelta(seconds=job.catch_up_window)
    match job.catch_up:
        case CatchUp.NONE:
            return [last] if on_time else []
        case CatchUp.ALL if job.overlap is not Overlap.REPLACE:
            since = max(first, now - max(timedelta(seconds=job.catch_up_window), ON_TIME))
            if since > last:
                return []
            return timetable.last_slots(schedule, job.timezone, first=since, until=last, most=MOST_CAUGHT_UP)
        case _:  # Of many that replace each other, only the latest would be left.
            return [last] if on_time or in_window else []


def _trigger(job: Job, chosen: list[datetime], now: datetime) -> Trigger:
    """Several at once are caught up together, the last included, so that it waits for the others and is not skipped."""
    on_time = len(chosen) == 1 and lateness(job, chosen[0], now) <= ON_TIME
    return Trigger.SCHEDULE if on_time else Trigger.CATCH_UP
