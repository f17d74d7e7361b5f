"""The pages of the MCP servers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from typing import Any

from starlette.requests import Request

from sexton.gateway.dashboard.plot import plot, spark
from sexton.gateway.dashboard.tool_form import fields_of
from sexton.gateway.dashboard.tree_rows import holders_of, tree_rows
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.dashboard.wording import tell
from sexton.gateway.http import Gateway
from sexton.gateway.http.event_stream import wanted_events
from sexton.gateway.http.jobs import list_jobs
from sexton.gateway.http.processes import list_processes
from sexton.gateway.http.servers import known_server, list_servers, tool_document

_PAST = timedelta(hours=1)


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    servers, jobs = await list_servers(gateway, request), await list_jobs(gateway, request)
    curves = {
        one.name: spark(tuple(one.samples), now=viewer.now) for one in gateway.memory.all() if one.ended_at is None
    }
    return {
        "servers": servers,
        "curves": curves,
        "holders": {server["name"]: holders_of(server["holders"], jobs) for server in servers},
        "waiting": {server["name"]: holders_of(server["waiting"], jobs) for server in servers},
    }


async def load_one(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:
    """Starts nothing: tools are those that the catalogue knows."""
    name = known_server(gateway, request.path_params["server"])
    servers, jobs = await list_servers(gateway, request), await list_jobs(gateway, request)
    trees = (await list_processes(gateway, request))["trees"]
    rows = tree_rows(gateway, trees, servers, jobs, now=viewer.now)
    known = gateway.pool.known_tools(name)
    tools = [tool_document(tool) for tool in known or ()]
    series = [one for one in gateway.memory.all() if one.name == name and not one.owner.startswith("run:")]
    return {
        "server": next(server for server in servers if server["name"] == name),
        "rows": [row for row in rows if row.server == name],
        "waiting": holders_of(next(one["waiting"] for one in servers if one["name"] == name), jobs),
        "used_by": [job for job in jobs if job["action"].get("server") == name],
        "tools_known": known is not None,
        "tools": [(tool, fields_of(tool["input_schema"])) for tool in tools],
        "plot": plot(series, now=viewer.now, past=_PAST, zone=viewer.zone),
        "events": tell(gateway, islice(wanted_events(gateway.journal, kinds=("server.",), subject=name), 20), jobs),
    }
