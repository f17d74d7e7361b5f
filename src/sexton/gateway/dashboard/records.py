"""The pages that only tell: the journal, and the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from starlette.requests import Request

from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.dashboard.wording import tell
from sexton.gateway.http import Gateway
from sexton.gateway.http.event_stream import wanted_events
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
)
_PAGE = 150


async def load_journal(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    """Query: `kind`, `subject`, `text`, `before` as in the API."""
    query = request.query_params
    kind, subject, text = query.get("kind", ""), query.get("subject", ""), query.get("text", "")
    before = query.get("before", "")
    found = wanted_events(
        gateway.journal,
        kinds=(kind,) if kind else (),
        subject=subject or None,
        text=text,
        **({"before": int(before)} if before.isascii() and before.isdecimal() and len(before) < 16 else {}),
    )
    events = tell(gateway, islice(found, _PAGE), await list_jobs(gateway, request))
    return {
        "events": events,
        "kinds": KINDS,
        "kind": kind,
        "subject": subject,
        "text": text,
        "before": before,
        "more": events[-1].id if len(events) == _PAGE else None,
    }


async def load_doctor(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    return {"report": await doctor(gateway, request)}
