"""The pages that only tell: the journal, and the doctor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from starlette.requests import Request

from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.dashboard.wording import tell
from sexton.gateway.documents import EventDocument
from sexton.gateway.http import Gateway
from sexton.gateway.http.event_stream import node_event_document, wanted_events
from sexton.gateway.http.jobs import list_jobs
from sexton.gateway.http.processes import doctor

KINDS = (
    "run.",
    "job.",
    "server.",
    "containment.",
    "settings.",
    "gateway.",
    "turn.",
    "approval.",
    "channel.",
    "delivery.",
    "audit.",
    "database.",
    "clock.",
    "node.",
)
_PAGE = 150
ALL = "*"
LAST = 10**15
"""Greater than the id of any event."""


async def load_journal(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    """Query: `kind`, `subject`, `text`, `before` as in the API; `node` is a name, or `*` for all (none: this one).

    This gateway's own events come from its memory, those of all nodes from the database.
    """
    query = request.query_params
    kind, subject, text, of = (query.get(name, "") for name in ("kind", "subject", "text", "node"))
    before = query.get("before", "")
    from_there = int(before) if before.isascii() and before.isdecimal() and len(before) < 16 else LAST
    kinds = (kind,) if kind else ()
    if gateway.archive is not None and of:
        archived = await gateway.archive.events(
            node=None if of == ALL else of,
            kinds=kinds,
            subject=subject or None,
            text=text,
            limit=_PAGE,
            before=from_there,
        )
        found: Iterable[EventDocument] = map(node_event_document, archived)
    else:
        found = wanted_events(gateway.journal, kinds=kinds, subject=subject or None, text=text, before=from_there)
    events = tell(gateway, islice(found, _PAGE), await list_jobs(gateway, request))
    names = [] if gateway.archive is None else [node.name for node in await gateway.scheduler.nodes()]
    return {
        "events": events,
        "kinds": KINDS,
        "kind": kind,
        "subject": subject,
        "text": text,
        "of": of,
        "names": list(dict.fromkeys(names)),
        "before": before,
        "more": events[-1].id if len(events) == _PAGE else None,
    }


async def load_doctor(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    return {"report": await doctor(gateway, request)}
