"""The pages of the runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from sexton.gateway.dashboard.run_times import read_timeline
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.dashboard.wording import tell
from sexton.gateway.documents import RunRecordDocument
from sexton.gateway.http import Gateway
from sexton.gateway.http.event_stream import wanted_events
from sexton.gateway.http.jobs import list_jobs
from sexton.gateway.http.runs import list_runs, show_run
from sexton.scheduler import RunState

_PAGE = 50
MOST_SHOWN = 200_000
_BESIDE = 60


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    """Query: `job`, `state`, `before` as in the API; `span` of the timeline."""
    query = request.query_params
    jobs = await list_jobs(gateway, request)
    runs = await list_runs(gateway, without_empty(request))
    return {
        "runs": runs,
        "more": runs[-1]["id"] if len(runs) == _PAGE else None,
        "jobs": [job["name"] for job in jobs],
        "states": list(RunState),
        "job": query.get("job") or None,
        "state": query.get("state") or None,
        "before": query.get("before") or None,
        "shown": await read_timeline(gateway, jobs, viewer, span=query.get("span"), job=query.get("job") or None),
    }


def without_empty(request: Request) -> Request:
    """The request without what was not chosen, which a form sends as nothing; the API takes nothing for a name."""
    kept = "&".join(part for part in request.url.query.split("&") if part and not part.endswith("="))
    return Request({**request.scope, "query_string": kept.encode()}, request.receive)


async def load_one(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    record: RunRecordDocument = await show_run(gateway, request)
    run = record["run"]
    jobs = {job["name"]: job for job in await list_jobs(gateway, request)}
    output = record["output"] or ""
    told = (event for event in wanted_events(gateway.journal, text=run["id"]) if event["data"].get("run") == run["id"])
    beside = await gateway.scheduler.runs(run["job"], limit=_BESIDE)
    ids = [one.id for one in beside]
    place = ids.index(run["id"]) if run["id"] in ids else None
    return {
        "run": run,
        "job": jobs.get(run["job"]),
        "log": record["log"],
        "calls": record["calls"],
        "output": output[:MOST_SHOWN],
        "left_out": max(0, len(output) - MOST_SHOWN),
        "events": tell(gateway, list(told)[::-1], jobs.values()),
        "newer": ids[place - 1] if place else None,
        "older": ids[place + 1] if place is not None and place + 1 < len(ids) else None,
    }
