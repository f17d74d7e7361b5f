"""What one wants to see first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from starlette.requests import Request

from sexton.gateway.dashboard.approvals import pending
from sexton.gateway.dashboard.attention import concerns_of
from sexton.gateway.dashboard.nodes import other_nodes
from sexton.gateway.dashboard.run_times import read_timeline
from sexton.gateway.dashboard.tree_rows import tree_rows
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.dashboard.wording import tell
from sexton.gateway.deliveries import DeliveryState
from sexton.gateway.documents import DeliveryDocument, JobDocument, RunCountDocument
from sexton.gateway.http import Gateway
from sexton.gateway.http.deliveries import delivery_document
from sexton.gateway.http.event_stream import wanted_events
from sexton.gateway.http.jobs import list_jobs
from sexton.gateway.http.processes import list_processes
from sexton.gateway.http.runs import count_document
from sexton.gateway.http.servers import list_servers

_TOLD = (
    *("run.ended", "run.missed", "run.skipped", "run.lost", "run.stuck"),
    *("server.started", "server.start_failed", "server.died", "server.breaker", "server.tools_changed"),
    *("settings.", "containment.", "gateway.", "clock.", "database.", "job."),
)


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    servers = await list_servers(gateway, request)
    jobs = await list_jobs(gateway, request)
    processes = await list_processes(gateway, request)
    others = await other_nodes(gateway, request)
    counts = await gateway.scheduler.run_counts(since=viewer.now - timedelta(days=1))
    timeline = await read_timeline(gateway, jobs, viewer, span="1h")
    return {
        "boundary": processes["boundary"],
        "nodes": Counter([*(node["state"] for node in others), "up" if gateway.scheduler.is_open else "drained"]),
        "elsewhere": sum(node["running"] for node in others),
        "started_at": gateway.started_at,
        "servers": Counter(server["state"] for server in servers),
        "server_count": len(servers),
        "jobs": jobs,
        "paused": sum(job["paused"] for job in jobs),
        "next_job": _next(jobs),
        "active": Counter(run["state"] for job in jobs for run in job["active_runs"]),
        "day": _states([count_document(count) for count in counts]),
        "concerns": concerns_of(
            servers,
            jobs,
            processes["trees"],
            await pending(gateway),
            await _undelivered(gateway, since=viewer.now - timedelta(days=1)),
        ),
        "rows": tree_rows(gateway, processes["trees"], servers, jobs, now=viewer.now),
        "memory": sum(tree["memory"] or 0 for tree in processes["trees"]),
        "timeline": timeline,
        "events": tell(gateway, islice(wanted_events(gateway.journal, kinds=_TOLD), 14), jobs),
    }


async def _undelivered(gateway: Gateway, *, since: datetime) -> Sequence[DeliveryDocument]:
    failed = await gateway.deliveries.deliveries(states=(DeliveryState.FAILED,), limit=100)
    return [delivery_document(one) for one in failed if one.ended_at is not None and one.ended_at >= since]


def _next(jobs: Sequence[JobDocument]) -> JobDocument | None:
    return min((job for job in jobs if job["next_run"]), key=lambda job: job["next_run"] or "", default=None)


def _states(counts: Sequence[RunCountDocument]) -> Mapping[str, int]:
    """How many runs, and of what did not run how many slots, are in each state."""
    states: Counter[str] = Counter()
    for count in counts:
        states[count["state"]] += count["slots"] if count["state"] in {"missed", "skipped"} else count["runs"]
    return states
