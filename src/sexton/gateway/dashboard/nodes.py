"""The page of the nodes on this database, with what each does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from starlette.requests import Request

from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.dashboard.wording import tell
from sexton.gateway.documents import JobDocument, NodeDocument, RunDocument
from sexton.gateway.http import Gateway
from sexton.gateway.http.event_stream import node_event_document, wanted_events
from sexton.gateway.http.jobs import list_jobs
from sexton.gateway.http.nodes import list_nodes
from sexton.gateway.journal_archive import JournalArchive

_EVENTS: Final = 30
_KINDS: Final = ("node.", "gateway.", "database.")


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    nodes = await list_nodes(gateway, request)
    jobs = await list_jobs(gateway, request)
    return {
        "nodes": nodes,
        "living": [node for node in nodes if node["id"]],
        "runs": {node["id"]: runs_at(node, jobs) for node in nodes if node["id"]},
        "events": await _events(gateway, gateway.archive, jobs),
    }


def runs_at(node: NodeDocument, jobs: Sequence[JobDocument]) -> Sequence[RunDocument]:
    """What runs there, the longest first."""
    active = [run for job in jobs for run in job["active_runs"] if run["state"] == "running"]
    return sorted((run for run in active if run["node"] == node["id"]), key=lambda run: run["started_at"] or "")


async def other_nodes(gateway: Gateway, request: Request) -> Sequence[NodeDocument]:
    """Those that run beside this one; none where the database is this gateway's alone."""
    if gateway.archive is None:
        return []
    return [node for node in await list_nodes(gateway, request) if node["id"] and not node["here"]]


async def _events(gateway: Gateway, archive: JournalArchive | None, jobs: Sequence[JobDocument]) -> Any:
    if archive is None:
        return tell(gateway, islice(wanted_events(gateway.journal, kinds=_KINDS), _EVENTS), jobs)
    return tell(gateway, map(node_event_document, await archive.events(kinds=_KINDS, limit=_EVENTS)), jobs)
