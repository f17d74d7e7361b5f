"""The runs of a stretch of time, read for the timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sexton.gateway.dashboard.timeline import MOST_COMING, SPANS, Timeline, Window, draw
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.documents import JobDocument, RunDocument
from sexton.gateway.http import Gateway
from sexton.gateway.http.runs import run_document

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
    runs = {run.id: run_document(run) for run in found}
    shown = [one for one in jobs if job in (None, one["name"])]
    runs |= {run["id"]: run for one in shown for run in one["active_runs"]}
    coming = {one["name"]: await _coming(gateway, one, window) for one in shown if not one["paused"]}
    known_since = found[-1].created_at if len(found) == MOST_RUNS else None
    return ReadTimeline(
        timeline=draw(_latest_first(runs), coming, window, zone=viewer.zone, known_since=known_since),
        span=span,
        spans=tuple(SPANS),
    )


def _latest_first(runs: Mapping[str, RunDocument]) -> Sequence[RunDocument]:
    return [runs[name] for name in sorted(runs)]


async def _coming(gateway: Gateway, job: JobDocument, window: Window) -> Sequence[datetime]:
    if job["next_run"] is None:
        return ()
    first = datetime.fromisoformat(job["next_run"])
    if first > window.until:
        return (first,)
    return await gateway.scheduler.next_times(job["name"], MOST_COMING)
