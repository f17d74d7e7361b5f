"""From a schedule to its slots (pure).

`cronsim` finds the next matching *local* time; the zone database says which
instants that local time is.  Across a change of the clocks the rules are those
of Debian's cron(8): a job with a fixed time (neither minute nor hour starts
with `*`) whose time is skipped by a gap runs at the end of the gap, and in a
fold it runs only in the first pass; a job with a wildcard runs whenever the
clock on the wall matches.  Two slots that a gap moves to the same instant are
one slot (cron would run the job twice in a row).

Every function takes and returns aware datetimes; results are in UTC.
"""

from __future__ import annotations

import hashlib
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from cronsim import CronSim, CronSimError

from sexton.errors import UsageError
from sexton.scheduler.job import EPOCH, At, Cron, Every, Job, Schedule

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
CRON_HINT = "write minute, hour, day of month, month and day of week, for example '30 7 * * mon-fri', or '@daily'"
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
COUNT_UP_TO = 10_000
LONGEST_INTERVAL = 100 * 366 * 86_400.0
# cronsim 2.8 takes `5-5/2` for `5/2`, which is every second number from 5.
_RANGE_OF_ONE = re.compile(r"(?<!\w)(\w+)-\1/\d+(?!\w)", re.IGNORECASE)


def check(schedule: Schedule, timezone: str) -> None:
    """Raise `UsageError` when the schedule or the time zone cannot be meant."""
    zone_of(timezone)
    match schedule:
        case Cron():
            _check_cron(schedule)
        case Every():
            _check_every(schedule)
        case At():
            _check_aware(schedule.time)


def zone_of(timezone: str) -> zoneinfo.ZoneInfo:
    """Raises `UsageError` for a name that the zone database does not have."""
    try:
        return zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"There is no time zone '{timezone}'.", hint="use a name like 'Europe/Amsterdam' or 'UTC'"
        ) from None


def next_slot(schedule: Schedule, timezone: str, *, after: datetime) -> datetime | None:
    """The first slot strictly after that time; None when there is none."""
    match schedule:
        case Cron():
            return _next_cron(expand(schedule.expression), zone_of(timezone), after)
        case Every():
            return _next_every(schedule, after)
        case At():
            return schedule.time.astimezone(UTC) if schedule.time > after else None


def only_slot(schedule: Schedule) -> datetime | None:
    """The time of a one-shot schedule, whether it has passed or not."""
    return schedule.time.astimezone(UTC) if isinstance(schedule, At) else None


def slots(schedule: Schedule, timezone: str, *, after: datetime) -> Iterator[datetime]:
    """All slots strictly after that time, in order."""
    slot = next_slot(schedule, timezone, after=after)
    while slot is not None:
        yield slot
        slot = next_slot(schedule, timezone, after=slot)


def last_slots(schedule: Schedule, timezone: str, *, first: datetime, until: datetime, most: int) -> list[datetime]:
    """The last slots from `first` to `until` (both included), at most `most`, in order.

    Looks back over ever longer stretches, so that its cost is that of the slots it returns and not of the distance
    to `first`.
    """
    reach = timedelta(seconds=60)
    while True:
        start = max(until - reach, first - MICROSECOND)
        found = _slots_between(schedule, timezone, start, until)
        if len(found) >= most or start < first:
            return found[-most:]
        reach *= 4


def lapped(schedule: Schedule | None, lap: int) -> Schedule | None:
    """The schedule after the clock was set back `lap` times.

    An interval goes on, so a time that comes again is another slot, a microsecond later for each lap; the slots of a
    cron expression and of a one-shot are times on the wall, and what has come has come.
    """
    if not lap or not isinstance(schedule, Every):
        return schedule
    return replace(schedule, anchor=(schedule.anchor or EPOCH) + lap * MICROSECOND)


def after_set_back(schedule: Every, *, lap: int, planned: datetime, now: datetime, jump: timedelta) -> datetime | None:
    """The first slot of that lap, for an interval whose next slot was `planned` before the clock was set back.

    It comes when `planned` would have, or within one interval after that, so that the slots stay where they are on the
    wall; with a `jump` of zero (nobody saw by how much) it is counted from now.  None: `planned` is no further away
    than it may be.
    """
    step = _step(schedule)
    if planned <= now + step:
        return None
    soonest = min(planned + jump, now + step)
    again = next_slot(lapped(schedule, lap) or schedule, "UTC", after=soonest - MICROSECOND)
    return again if again is not None and again < planned else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Consecutive slots, from `first` to `last`.  `exact` is False when there were too many to count one by one."""

    first: datetime
    last: datetime
    count: int
    exact: bool = True


def stretch(schedule: Schedule, timezone: str, *, first: datetime, until: datetime) -> Stretch | None:
    """The slots from `first` (itself a slot) up to `until`, included; None when `until` is before `first`."""
    if until < first:
        return None
    match schedule:
        case Every():
            count = (until - first) // _step(schedule) + 1
            return Stretch(first=first, last=first + (count - 1) * _step(schedule), count=count)
        case At():
            return Stretch(first=first, last=first, count=1)
        case Cron():
            return _cron_stretch(schedule, timezone, first, until)


def delay(job: Job, slot: datetime) -> timedelta:
    """How long after its slot the run starts: from 0 to `job.jitter`, the same for the same job and slot."""
    if not job.jitter:
        return timedelta()
    digest = hashlib.sha256(f"{job.name}\0{slot.astimezone(UTC).isoformat()}".encode()).digest()
    return timedelta(seconds=job.jitter * int.from_bytes(digest[:6]) / 2**48)


def next_starts(job: Job, *, after: datetime, count: int) -> tuple[datetime, ...]:
    """When the next slots start, jitter included."""
    if job.schedule is None:
        return ()
    coming = islice(slots(job.schedule, job.timezone, after=after), count)
    return tuple(slot + delay(job, slot) for slot in coming)


def expand(expression: str) -> str:
    """The fields that cronsim is given.  Raises `UsageError` for an unknown nickname."""
    text = expression.strip()
    if not text.startswith("@"):
        return _RANGE_OF_ONE.sub(r"\1", text)
    try:
        return NICKNAMES[text.lower()]
    except KeyError:
        known = ", ".join(sorted(NICKNAMES))
        raise UsageError(f"There is no schedule '{text}'.", hint=f"use one of {known}") from None


def _check_cron(schedule: Cron) -> None:
    try:
        never = next(CronSim(expand(schedule.expression), datetime(2000, 1, 1)), None) is None  # noqa: DTZ001
    except CronSimError as error:
        raise UsageError(f"'{schedule.expression}' is not a cron expression: {error}.", hint=CRON_HINT) from None
    if never:
        raise UsageError(f"The cron expression '{schedule.expression}' never matches.", hint=CRON_HINT)


def _check_every(schedule: Every) -> None:
    if not schedule.seconds >= 1:  # Not a number is less than nothing, too.
        raise UsageError(f"An interval of {schedule.seconds:g} s is too short.", hint="use an interval of 1 s or more")
    if schedule.seconds > LONGEST_INTERVAL:
        raise UsageError(f"An interval of {schedule.seconds:g} s is too long.", hint="use a hundred years or less")
    if schedule.anchor is not None:
        _check_aware(schedule.anchor)


def _check_aware(time: datetime) -> None:
    if time.tzinfo is None:
        raise UsageError(f"The time {time.isoformat()} has no time zone.", hint="add one, for example +01:00 or Z")


def _step(schedule: Every) -> timedelta:
    return timedelta(seconds=schedule.seconds)


def _next_every(schedule: Every, after: datetime) -> datetime:
    anchor = (schedule.anchor or EPOCH).astimezone(UTC)
    step = _step(schedule)
    return anchor + ((after - anchor) // step + 1) * step


def _next_cron(expression: str, zone: zoneinfo.ZoneInfo, after: datetime) -> datetime | None:
    local = after.astimezone(zone)
    if _has_fixed_time(expression):
        return _next_fixed(expression, zone, local)
    return _next_wildcard(expression, zone, local)


def _has_fixed_time(expression: str) -> bool:
    """crontab(5) of Debian: neither the minute nor the hour starts with a star."""
    minute, hour = expression.split()[-5:-3]
    return not minute.startswith("*") and not hour.startswith("*")


def _next_fixed(expression: str, zone: zoneinfo.ZoneInfo, local: datetime) -> datetime | None:
    for wall in _walls(expression, after=local):
        instant = _first_instant(wall, zone)
        if instant > local:  # Not so: the first pass of a fold, seen from the second.
            return instant
    return None


def _next_wildcard(expression: str, zone: zoneinfo.ZoneInfo, local: datetime) -> datetime | None:
    wall = next((wall for wall in _walls(expression, after=local) if not _is_imaginary(wall, zone)), None)
    if _in_first_pass(local) and (wall is None or not _is_ambiguous(wall, zone)):
        again = next(_walls(expression, after=_start_of_fold(local) - SECOND))
        if _is_ambiguous(again, zone):
            return again.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if wall is None:
        return None
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return first if first > local.astimezone(UTC) else second


def _walls(expression: str, *, after: datetime) -> Iterator[datetime]:
    """Matching local times (naive), strictly after that local time."""
    return CronSim(expression, after.replace(tzinfo=None, fold=0))


def _first_instant(wall: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    """The first instant at which a clock on the wall shows that time or, in a gap, a later one."""
    instant = wall.replace(tzinfo=zone).astimezone(UTC)
    return instant if not _is_imaginary(wall, zone) else _end_of_gap(instant, wall, zone)


def _end_of_gap(instant: datetime, wall: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    """`instant` was read with the offset from before the gap (fold 0, PEP 495), so it lies less than a gap after it."""
    before, after = (wall.replace(tzinfo=zone, fold=1).astimezone(UTC), instant)
    offset = after.astimezone(zone).utcoffset()
    while after - before > SECOND:
        middle = (before + (after - before) // 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def _is_imaginary(wall: datetime, zone: zoneinfo.ZoneInfo) -> bool:
    there_and_back = wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone)
    return there_and_back.replace(tzinfo=None) != wall


def _is_ambiguous(wall: datetime, zone: zoneinfo.ZoneInfo) -> bool:
    first, second = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return first != second and not _is_imaginary(wall, zone)


def _in_first_pass(local: datetime) -> bool:
    assert isinstance(local.tzinfo, zoneinfo.ZoneInfo)
    return local.fold == 0 and _is_ambiguous(local.replace(tzinfo=None), local.tzinfo)


def _start_of_fold(local: datetime) -> datetime:
    """The first local time (naive) that the fold repeats, given a time in its first pass."""
    zone = local.tzinfo
    assert isinstance(zone, zoneinfo.ZoneInfo)
    inside = local.replace(tzinfo=None, microsecond=0)
    first, second = (inside.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert first is not None
    assert second is not None
    outside = inside - (first - second) - SECOND
    while inside - outside > SECOND:
        middle = (outside + (inside - outside) // 2).replace(microsecond=0)
        if _is_ambiguous(middle, zone):
            inside = middle
        else:
            outside = middle
    return inside


def _slots_between(schedule: Schedule, timezone: str, after: datetime, until: datetime) -> list[datetime]:
    found = []
    for slot in slots(schedule, timezone, after=after):
        if slot > until:
            break
        found.append(slot)
    return found


def _cron_stretch(schedule: Cron, timezone: str, first: datetime, until: datetime) -> Stretch:
    count, last = 1, first
    for slot in slots(schedule, timezone, after=first):
        if slot > until:
            return Stretch(first=first, last=last, count=count)
        count, last = count + 1, slot
        if count > COUNT_UP_TO:
            break
    else:
        return Stretch(first=first, last=last, count=count)
    last = last_slots(schedule, timezone, first=first, until=until, most=1)[-1]
    return Stretch(first=first, last=last, count=count, exact=False)
