"""Runs on a line of time: where each one stands, in percent of the width (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo

from sexton.gateway.documents import RunDocument

NOW_AT = 0.86  # of the width: what is left shows what comes
NARROWEST = 0.25  # percent; a run that took a moment is still seen
MERGE_WITHIN = 0.12  # percent; what is closer together than a pixel is drawn as one
COMING_APART = 0.8  # percent
MOST_COMING = 40
MOST_ROWS = 4

SPANS: Mapping[str, timedelta] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
}
_STEPS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800)
_MOST_TICKS = 9
_NEVER_STARTED = frozenset({"skipped", "missed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A run, or `count` runs that lie too close to be told apart; `run` is the newest of them.

    `waited` is how much before `x` it was already waiting.  All in percent.
    """

    run: RunDocument
    x: float
    width: float
    waited: float
    row: int
    state: str
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Slots that did not run: a mark, or a stretch of them."""

    run: RunDocument
    x: float
    width: float
    state: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One job.  `rows` is how many of its runs lie beside each other at most.

    `goes_on` is from where on its coming times are too many to be named.
    """

    job: str
    bars: Sequence[Bar]
    gaps: Sequence[Gap]
    coming: Sequence[float]
    goes_on: float | None
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """`unknown` is the part at the left, in percent, of which the runs were too many to be read."""

    lanes: Sequence[Lane]
    ticks: Sequence[Tick]
    now_x: float
    unknown: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The stretch of time that is shown: `past` before `now`, and a little of what comes."""

    now: datetime
    past: timedelta

    @property
    def since(self) -> datetime:
        return self.now - self.past

    @property
    def until(self) -> datetime:
        return self.now + self.past * (1 / NOW_AT - 1)

    def x(self, time: datetime) -> float:
        """Percent of the width; never outside of it."""
        share = (time - self.since) / (self.until - self.since)
        return round(min(1.0, max(0.0, share)) * 100, 3)


def draw(
    runs: Iterable[RunDocument],
    coming: Mapping[str, Sequence[datetime]],
    window: Window,
    *,
    zone: tzinfo,
    known_since: datetime | None = None,
) -> Timeline:
    """A lane for each job that has a run in the window or will have one soon, by name.

    `known_since` is the time of the earliest run that was read, where there were more.
    """
    by_job: dict[str, list[RunDocument]] = {}
    for run in runs:
        by_job.setdefault(run["job"], []).append(run)
    jobs = {*by_job, *(job for job, times in coming.items() if any(time <= window.until for time in times))}
    return Timeline(
        lanes=[_lane(job, by_job.get(job, ()), coming.get(job, ()), window) for job in sorted(jobs)],
        ticks=list(_ticks(window, zone)),
        now_x=window.x(window.now),
        unknown=window.x(known_since) if known_since else 0.0,
    )


def _lane(job: str, runs: Iterable[RunDocument], coming: Sequence[datetime], window: Window) -> Lane:
    shown = sorted((run for run in runs if _overlaps(run, window)), key=_beginning)
    bars = list(_merged(_in_rows(_bar(run, window) for run in shown if run["state"] not in _NEVER_STARTED)))
    bars.sort(key=lambda bar: bar.state == "failed")  # drawn last, so that no other lies on it
    return Lane(
        job=job,
        bars=bars,
        gaps=list(_merged_gaps(_gap(run, window) for run in shown if run["state"] in _NEVER_STARTED)),
        coming=_apart(window.x(time) for time in coming if window.now < time <= window.until),
        goes_on=window.x(coming[-1]) if len(coming) >= MOST_COMING and coming[-1] < window.until else None,
        rows=max((bar.row for bar in bars), default=0) + 1,
    )


def _apart(places: Iterable[float]) -> Sequence[float]:
    """Only so many as can be told from each other."""
    kept: list[float] = []
    for place in places:
        if not kept or place - kept[-1] >= COMING_APART:
            kept.append(place)
    return kept


def _bar(run: RunDocument, window: Window) -> Bar:
    began = _beginning(run)
    ended = _time(run["ended_at"]) or window.now
    x = window.x(began)
    asked = _time(run["slot"]) or _time(run["created_at"]) or began
    is_waiting = run["state"] == "queued"
    return Bar(
        run=run,
        x=x,
        width=max(NARROWEST, window.x(ended) - x),
        waited=0.0 if is_waiting else max(0.0, x - window.x(min(asked, began))),
        row=0,
        state=run["state"],
    )


def _gap(run: RunDocument, window: Window) -> Gap:
    x, end = window.x(_beginning(run)), _time(run["slot_end"])
    width = window.x(end) - x if end else 0.0
    return Gap(run=run, x=x, width=max(NARROWEST, width), state=run["state"], count=run["count"])


def _in_rows(bars: Iterable[Bar]) -> Iterator[Bar]:
    """Each bar in the first row where nothing lies in its way; from the last row on they lie on each other."""
    ends: list[float] = []
    for bar in bars:
        row = next((row for row, end in enumerate(ends) if end <= bar.x + MERGE_WITHIN), len(ends))
        row = min(row, MOST_ROWS - 1)
        if row == len(ends):
            ends.append(0.0)
        ends[row] = max(ends[row], bar.x + bar.width if bar.width > NARROWEST else bar.x)
        yield replace(bar, row=row)


def _merged(bars: Iterable[Bar]) -> Iterator[Bar]:
    """Bars of one state that nobody could tell apart become one; so a week of runs stays a page of reasonable size."""
    last: dict[int, Bar] = {}
    for bar in bars:
        before = last.get(bar.row)
        if before and _look_like_one(before, bar):
            last[bar.row] = _joined(before, bar)
            continue
        if before:
            yield before
        last[bar.row] = bar
    yield from last.values()


def _look_like_one(before: Bar, bar: Bar) -> bool:
    touch = bar.x - (before.x + before.width) < MERGE_WITHIN
    return touch and before.state == bar.state and (before.count > 1 or bar.x - before.x < NARROWEST * 2)


def _joined(before: Bar, bar: Bar) -> Bar:
    end = max(before.x + before.width, bar.x + bar.width)
    return replace(before, run=bar.run, width=round(end - before.x, 3), count=before.count + 1)


def _merged_gaps(gaps: Iterable[Gap]) -> Iterator[Gap]:
    before: Gap | None = None
    for gap in gaps:
        if before and before.state == gap.state and gap.x - (before.x + before.width) < MERGE_WITHIN:
            end = max(before.x + before.width, gap.x + gap.width)
            before = replace(before, run=gap.run, width=round(end - before.x, 3), count=before.count + gap.count)
            continue
        if before:
            yield before
        before = gap
    if before:
        yield before


def _overlaps(run: RunDocument, window: Window) -> bool:
    ended = _time(run["slot_end"]) or _time(run["ended_at"]) or window.now
    return ended >= window.since and _beginning(run) <= window.until


def _beginning(run: RunDocument) -> datetime:
    """When it started; of what did not, the time it was meant for."""
    time = _time(run["started_at"]) or _time(run["slot"]) or _time(run["created_at"])
    assert time is not None
    return time


def _time(said: str | None) -> datetime | None:
    return None if said is None else datetime.fromisoformat(said)


def _ticks(window: Window, zone: tzinfo) -> Iterator[Tick]:
    """At round times of the reader's clock."""
    length = (window.until - window.since).total_seconds()
    step = next((step for step in _STEPS if length / step <= _MOST_TICKS), _STEPS[-1])
    midnight = window.since.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    passed = (window.since - midnight).total_seconds()
    time = midnight + timedelta(seconds=(passed // step + 1) * step)
    while time < window.until:
        there = time.astimezone(zone)
        yield Tick(x=window.x(time), label=f"{there:%b %d}" if step >= 86400 else f"{there:%H:%M}")
        time += timedelta(seconds=step)
