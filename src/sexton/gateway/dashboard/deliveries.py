"""The pages of what is to be sent to somebody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request

from sexton.gateway.dashboard.runs import without_empty
from sexton.gateway.dashboard.viewer import Viewer
from sexton.gateway.deliveries import DeliveryState
from sexton.gateway.http import Gateway
from sexton.gateway.http.deliveries import list_deliveries, show_delivery

_PAGE: Final = 50
MOST_SHOWN: Final = 200_000


async def load(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    """Query: `target`, `state`, `job`, `before` as in the API."""
    query = request.query_params
    found = await list_deliveries(gateway, without_empty(request))
    return {
        "deliveries": found,
        "more": found[-1]["id"] if len(found) == _PAGE else None,
        "states": list(DeliveryState),
        "state": query.get("state") or None,
        "target": query.get("target") or "",
        "job": query.get("job") or "",
        "before": query.get("before") or None,
    }


async def load_one(gateway: Gateway, request: Request, viewer: Viewer) -> Mapping[str, Any]:  # noqa: ARG001
    found = await show_delivery(gateway, request)
    text = (await gateway.deliveries.delivery(found["id"])).message.text
    return {"delivery": found, "text": text[:MOST_SHOWN], "left_out": max(0, len(text) - MOST_SHOWN)}
