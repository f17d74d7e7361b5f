"""Curves of memory, as the points of an SVG (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from sexton.gateway.figures import size
from sexton.gateway.memory_samples import MemorySeries, Sample

SPARK_WIDTH = 96
SPARK_HEIGHT = 22
WIDTH = 1000
HEIGHT = 200
MOST_POINTS = 240
_COLOURS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`points` as SVG wants them, `area` the same closed at the bottom; `last` in bytes."""

    tree: str
    label: str
    colour: int
    points: str
    area: str
    last: int
    most: int
    is_alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A line of the grid: its place in percent, and what stands at it."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    lines: Sequence[Line]
    levels: Sequence[Grid]
    times: Sequence[Grid]
    top: int


def spark(samples: Sequence[Sample], *, now: datetime, past: timedelta = timedelta(minutes=15)) -> str:
    """The points of a small curve, from nothing at the bottom to a tenth over the highest at the top."""
    shown = _thinned([sample for sample in samples if sample.at >= now - past])
    if len(shown) < 2:
        return ""
    top = max(sample.memory for sample in shown) * 1.1 or 1
    begin, length = shown[0].at, (shown[-1].at - shown[0].at).total_seconds() or 1
    return " ".join(
        f"{(sample.at - begin).total_seconds() / length * SPARK_WIDTH:.1f},"
        f"{SPARK_HEIGHT - sample.memory / top * SPARK_HEIGHT:.1f}"
        for sample in shown
    )


def plot(series: Iterable[MemorySeries], *, now: datetime, past: timedelta, zone: tzinfo) -> Plot | None:
    """The memory of some trees over the same stretch of time; None when there is nothing to show yet."""
    since = now - past
    shown = [(one, _thinned([s for s in one.samples if s.at >= since])) for one in series]
    shown = [(one, samples) for one, samples in shown if len(samples) > 1]
    if not shown:
        return None
    first = min(samples[0].at for _, samples in shown)
    begin = max(since, first)
    length = max((now - begin).total_seconds(), 1.0)
    top = _round_up(max(sample.memory for _, samples in shown for sample in samples) * 1.1)
    lines = [_line(one, samples, number % _COLOURS, begin, length, top) for number, (one, samples) in enumerate(shown)]
    return Plot(
        lines=lines,
        levels=[Grid(at=100 - share * 100, label=size(top * share)) for share in (0.25, 0.5, 0.75, 1.0)],
        times=list(_times(begin, length, zone)),
        top=top,
    )


def _line(
    series: MemorySeries, samples: Sequence[Sample], colour: int, begin: datetime, length: float, top: int
) -> Line:
    places = [
        (
            round((sample.at - begin).total_seconds() / length * WIDTH, 1),
            round(HEIGHT - sample.memory / top * HEIGHT, 1),
        )
        for sample in samples
    ]
    points = " ".join(f"{x:g},{y:g}" for x, y in places)
    return Line(
        tree=series.tree,
        label=f"pid {series.leader_pid}" if series.leader_pid else series.tree,
        colour=colour,
        points=points,
        area=f"{places[0][0]:g},{HEIGHT} {points} {places[-1][0]:g},{HEIGHT}",
        last=samples[-1].memory,
        most=max(sample.memory for sample in samples),
        is_alive=series.ended_at is None,
    )


def _thinned(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Not more points than can be seen; of those that are left out, none is the last."""
    step = -(-len(samples) // MOST_POINTS)
    return samples if step <= 1 else [*samples[:-1:step], samples[-1]]


def _round_up(value: float) -> int:
    """The next 1, 2 or 5 times a power of ten, times a million at least, that a person reads at a glance."""
    unit = 1_000_000
    while True:
        for factor in (1, 2, 4, 8):
            if value <= unit * factor:
                return unit * factor
        unit *= 10


def _times(begin: datetime, length: float, zone: tzinfo) -> Iterator[Grid]:
    for share in (0.0, 0.25, 0.5, 0.75):
        time = (begin + timedelta(seconds=length * share)).astimezone(zone)
        yield Grid(at=share * 100, label=f"{time:%H:%M:%S}" if length < 600 else f"{time:%H:%M}")
