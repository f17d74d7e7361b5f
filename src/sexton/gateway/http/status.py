"""How the gateway itself is doing."""

from __future__ import annotations

import os
from collections import Counter

from starlette.requests import Request

import sexton
from sexton.database import DatabaseError
from sexton.gateway.documents import DatabaseTroubleDocument, StatusDocument
from sexton.gateway.http.parts import Gateway


async def show_status(gateway: Gateway, request: Request) -> StatusDocument:
    """A summary; also the cheapest way to ask whether the gateway answers, with a broken database too."""
    trouble = gateway.scheduler.failing
    try:
        jobs = await gateway.scheduler.jobs()
    except DatabaseError as error:
        jobs, trouble = None, error
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
        jobs=None if jobs is None else len(jobs),
        jobs_paused=None if jobs is None else sum(status.job.paused for status in jobs),
        last_event=gateway.journal.last_id,
        runs_active=None if jobs is None else sum(len(status.active) for status in jobs),
        database=None if trouble is None else _trouble_document(trouble),
    )


def _trouble_document(trouble: DatabaseError) -> DatabaseTroubleDocument:
    return DatabaseTroubleDocument(failure=str(trouble.failure), what=trouble.what, hint=trouble.hint)
