"""The runs of a stretch of time, read for the timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

import anyio.to_thread

from sexton.gateway.dashboard.timeline import MOST_COMING, SPANS, Timeline, Window, draw
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.documents import JobDocument, RunDocument
from sexton.gateway.http import Gateway
from sexton.gateway.http.runs import run_document
from sexton.scheduler import Run

MOST_RUNS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTimeline:
    """`span` is its length, one of `spans`."""

    timeline: Timeline
    span: str
    spans: Sequence[str]


async def read_timeline(
    gateway: Gateway, jobs: Sequence[JobDocument], viewer: Viewer, *, span: str | None, job: str | None = None
) -> ReadTimeline:
    """The timeline of all jobs, or of one.  An unknown span is an hour."""
    span = span if span is not None and span in SPANS else "1h"
    window = Window(now=viewer.now, past=SPANS[span])
    found = await gateway.scheduler.runs(job, limit=MOST_RUNS, since=window.since)
    shown = [one for one in jobs if job in (None, one["name"])]
    coming = {one["name"]: await _coming(gateway, one, window) for one in shown if not one["paused"]}
    active = [run for one in shown for run in one["active_runs"]]
    timeline = await anyio.to_thread.run_sync(_draw, found, active, coming, window, viewer.zone)
    return ReadTimeline(timeline=timeline, span=span, spans=tuple(SPANS))


def _draw(
    found: Sequence[Run],
    active: Sequence[RunDocument],
    coming: Mapping[str, Sequence[datetime]],
    window: Window,
    zone: tzinfo,
) -> Timeline:
    """Those that were read, and those that began before the window and still go on; thousands, so in a thread."""
    runs = {run.id: run_document(run) for run in found} | {run["id"]: run for run in active}
    known_since = found[-1].created_at if len(found) == MOST_RUNS else None
    return draw([runs[name] for name in sorted(runs)], coming, window, zone=zone, known_since=known_since)


async def _coming(gateway: Gateway, job: JobDocument, window: Window) -> Sequence[datetime]:
    if job["next_run"] is None:
        return ()
    first = datetime.fromisoformat(job["next_run"])
    if first > window.until:
        return (first,)
    return await gateway.scheduler.next_times(job["name"], MOST_COMING)
