"""`/metrics`: the figures for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sexton.database import DatabaseError
from sexton.gateway.http.metrics import CONTENT_TYPE, Snapshot, exposition
from sexton.gateway.http.parts import Gateway
from sexton.scheduler import JobStatus


async def show_metrics(gateway: Gateway, _: Request) -> Response:
    """Figures in the text format of Prometheus."""
    snapshot = Snapshot(
        servers=gateway.pool.status(),
        trees=gateway.containment.trees(),
        jobs=await _jobs(gateway),
        now=gateway.clock.now(),
        started_at=gateway.started_at,
    )
    text = exposition(gateway.metrics, snapshot)
    return Response(text, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})


async def _jobs(gateway: Gateway) -> tuple[JobStatus, ...]:
    try:
        return tuple(await gateway.scheduler.jobs())
    except DatabaseError:  # what else there is to tell is the more wanted then
        return ()
