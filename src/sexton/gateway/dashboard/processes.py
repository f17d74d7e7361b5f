"""The page of the process trees, and of what was reaped."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from starlette.requests import Request

from sexton.gateway.dashboard.nodes import other_nodes
from sexton.gateway.dashboard.tree_rows import tree_rows
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.dashboard.wording import tell
from sexton.gateway.http import Gateway
from sexton.gateway.http.event_stream import wanted_events
from sexton.gateway.http.jobs import list_jobs
from sexton.gateway.http.processes import list_processes
from sexton.gateway.http.servers import list_servers
from sexton.gateway.record_documents import orphan_document


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    servers = await list_servers(gateway, request)
    jobs = await list_jobs(gateway, request)
    processes = await list_processes(gateway, request)
    rows = tree_rows(gateway, processes["trees"], servers, jobs, now=viewer.now)
    return {
        "boundary": processes["boundary"],
        "rows": rows,
        "others": await other_nodes(gateway, request),
        "memory": sum(row.tree["memory"] or 0 for row in rows),
        "pids": sum(len(row.tree["pids"]) for row in rows),
        "remote": [server for server in servers if server["transport"] != "stdio" and server["age"] is not None],
        "orphans": [orphan_document(record, viewer.now) for record in gateway.orphans()],
        "sweeps": tell(gateway, islice(wanted_events(gateway.journal, kinds=("containment.", "audit.reap")), 30), jobs),
    }
