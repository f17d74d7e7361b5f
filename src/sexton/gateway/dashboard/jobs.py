"""The pages of the jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import available_timezones

from starlette.requests import Request

from sexton.agent import MARKS
from sexton.gateway.dashboard.run_times import read_timeline
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.documents import JobDocument
from sexton.gateway.figures import interval
from sexton.gateway.http import Gateway
from sexton.gateway.http.jobs import list_jobs, refuse_configured, show_job
from sexton.gateway.http.runs import run_document
from sexton.gateway.http.servers import list_servers
from sexton.scheduler import CatchUp, OnInterrupted, Overlap

_HISTORY = 30
_NEXT = 5


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    jobs = await list_jobs(gateway, request)
    recent = {job["name"]: await _recent(gateway, job["name"], 12) for job in jobs}
    return {"jobs": jobs, "recent": recent, "told": {job["name"]: told_schedule(job) for job in jobs}}


async def load_one(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    job = await show_job(gateway, request)
    span = request.query_params.get("span") or "6h"
    return {
        "job": job,
        "told": told_schedule(job),
        "config": str(gateway.config_path or "the config file"),
        "runs": await _recent(gateway, job["name"], _HISTORY),
        "next": await gateway.scheduler.next_times(job["name"], _NEXT),
        "shown": await read_timeline(gateway, [job], viewer, span=span, job=job["name"]),
    }


async def load_new(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    copied = request.query_params.get("from")
    jobs = {job["name"]: job for job in await list_jobs(gateway, request)}
    return await _form(gateway, request, viewer, jobs.get(copied) if copied else None, is_new=True)


async def load_edit(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    """Raises `Problem` 409 for a job of the config file, with the reason."""
    job = await show_job(gateway, request)
    refuse_configured(gateway, (await gateway.scheduler.job(job["name"])))
    return await _form(gateway, request, viewer, job, is_new=False)


async def _form(
    gateway: Gateway, request: Request, viewer: Viewer, job: JobDocument | None, *, is_new: bool
) -> Mapping[str, Any]:
    servers = await list_servers(gateway, request)
    tools = {server["name"]: _tool_names(gateway, server["name"]) for server in servers}
    return {
        "job": None if job is None else _as_ones_own(job),
        "kept": {} if job is None else {"node": job["node"], "labels": job["labels"], "deliver_on": job["deliver_on"]},
        "is_new": is_new,
        "servers": [server["name"] for server in servers],
        "tools": tools,
        "zones": sorted(available_timezones()),
        "default_zone": str(viewer.zone) if viewer.zone_known else "UTC",
        "overlaps": list(Overlap),
        "catch_ups": list(CatchUp),
        "on_interrupted": list(OnInterrupted),
    }


def _as_ones_own(job: JobDocument) -> JobDocument:
    """Whoever saves it has made it: no chat or job that scheduled it before has a hold on it any more."""
    return {**job, "action": {key: value for key, value in job["action"].items() if key not in MARKS}}


def _tool_names(gateway: Gateway, server: str) -> Sequence[str]:
    return [tool.name for tool in gateway.pool.known_tools(server) or ()]


async def _recent(gateway: Gateway, job: str, count: int) -> Sequence[Any]:
    return [run_document(run) for run in await gateway.scheduler.runs(job, limit=count)]


def told_schedule(job: JobDocument) -> str:
    """`every 30s`, the cron expression, `once`, or that it runs only by hand."""
    match job["schedule"]:
        case {"every": seconds}:
            return f"every {interval(seconds)}"
        case {"cron": expression}:
            return str(expression)
        case {"at": _}:
            return "once"
        case _:
            return "by hand"
