"""Debian's cron (3.0pl1) as far as time goes: its main loop and `find_jobs`, minute by minute, in a given time zone.

The reference for `sexton.scheduler.timetable`: written from cron.c and cron(8), without cronsim.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local
FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class Entry:
    def __init__(self, expression: str) -> None:
        texts = expression.split()
        self.minute, self.hour, self.day, self.month, weekday = (
            _field(text, low, high) for text, (low, high) in zip(texts, FIELDS, strict=True)
        )
        self.weekday = {day % 7 for day in weekday}
        self.both_days = texts[2].startswith("*") or texts[4].startswith("*")
        self.wild = texts[0].startswith("*") or texts[1].startswith("*")

    def matches(self, local_minute: int) -> bool:
        wall = EPOCH + local_minute * MINUTE
        day = wall.day in self.day
        weekday = (wall.weekday() + 1) % 7 in self.weekday
        return (
            wall.minute in self.minute
            and wall.hour in self.hour
            and wall.month in self.month
            and ((day and weekday) if self.both_days else (day or weekday))
        )


def runs(expression: str, zone: ZoneInfo, *, after: datetime, until: datetime) -> list[datetime]:
    """The instants, each once, at which cron starts the job; `after` is a whole minute."""
    entry = Entry(expression)
    found = []
    now = after
    virtual = _local_minute(now, zone)
    while now < until:
        now += MINUTE
        clock = _local_minute(now, zone)
        ahead = clock - virtual
        wild, fixed = [clock], [clock]
        if 0 < ahead <= 5:
            wild = fixed = list(range(virtual + 1, clock + 1))
        elif 5 < ahead <= 180:
            fixed = list(range(virtual + 1, clock + 1))
        elif -180 < ahead <= 0:
            fixed = []
        if ahead > 0 or ahead <= -180:
            virtual = clock
        if any(entry.matches(minute) for minute in (wild if entry.wild else fixed)):
            found.append(now)
    return found


def changes_of(zone: ZoneInfo, year: int) -> list[datetime]:
    """The instants in a year at which the zone's offset changes, to the minute."""
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    found = []
    while start < end:
        if _offset(start, zone) != _offset(start + timedelta(hours=1), zone):
            minute = start
            while _offset(minute, zone) == _offset(start, zone):
                minute += MINUTE
            found.append(minute)
        start += timedelta(hours=1)
    return found


def _local_minute(instant: datetime, zone: ZoneInfo) -> int:
    return (instant.astimezone(zone).replace(tzinfo=None) - EPOCH) // MINUTE


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta | None:
    return instant.astimezone(zone).utcoffset()


def _field(text: str, low: int, high: int) -> set[int]:
    values: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            numbers = range(low, high + 1)
        elif last:
            numbers = range(int(first), int(last) + 1)
        else:
            numbers = range(int(first), int(first) + 1)
        values.update(numbers[:: int(step or 1)])
    return values
