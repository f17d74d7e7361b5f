"""How the gateway itself is doing."""

from __future__ import annotations

import os
from collections import Counter

from starlette.requests import Request

import sexton
from sexton.gateway.documents import StatusDocument
from sexton.gateway.http.parts import Gateway


async def show_status(gateway: Gateway, request: Request) -> StatusDocument:
    """A summary; also the cheapest way to ask whether the gateway answers."""
    jobs = await gateway.scheduler.jobs()
    return StatusDocument(
        version=sexton.__version__,
        url=f"http://{request.headers['host']}",
        pid=os.getpid(),
        node=gateway.node,
        started_at=gateway.started_at.isoformat(),
        uptime=round((gateway.clock.now() - gateway.started_at).total_seconds(), 3),
        boundary=str(gateway.containment.boundary),
        config=str(gateway.config_path) if gateway.config_path else None,
        data=str(gateway.data_dir),
        servers=dict(Counter(str(server.state) for server in gateway.pool.status())),
        jobs=len(jobs),
        jobs_paused=sum(status.job.paused for status in jobs),
        last_event=gateway.journal.last_id,
        runs_active=sum(len(status.active) for status in jobs),
    )
