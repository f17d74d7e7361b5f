"""Deliveries: what is to be sent to somebody, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sexton.gateway.deliveries import Delivery, DeliveryState
from sexton.gateway.documents import DeliveryDocument
from sexton.gateway.http.body import RequestBody, read_body, read_count
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import bad_request

MAX_LISTED = 1000
_EXCERPT = 2_000


class MessageRequest(RequestBody):
    """A message for a target, NAME or NAME:RECIPIENT.  The same `key` again sends nothing more."""

    target: str = Field(min_length=1, max_length=255)
    text: str = Field(min_length=1, max_length=1 << 20)
    title: str | None = None
    key: str | None = Field(default=None, min_length=1, max_length=200)


async def list_deliveries(gateway: Gateway, request: Request) -> Sequence[DeliveryDocument]:
    """The latest first; query: `target`, `state`, `job`, `run`, `limit` (default 50), `before` (an id)."""
    query = request.query_params
    deliveries = await gateway.deliveries.deliveries(
        target=query.get("target"),
        states=_read_states(query.get("state")),
        job=query.get("job"),
        run=query.get("run"),
        limit=read_count(request, "limit", default=50, most=MAX_LISTED),
        before=read_count(request, "before", default=0, most=1 << 53) if "before" in query else None,
    )
    return [delivery_document(delivery) for delivery in deliveries]


async def send_delivery(gateway: Gateway, request: Request) -> DeliveryDocument:
    """Put a message into the outbox; answers when it is on disk, before it is sent."""
    asked = await read_body(request, MessageRequest)
    key = f"by-hand:{asked.key or uuid.uuid4()}"
    sent = await gateway.deliveries.send(asked.target, asked.text, title=asked.title, key=key)
    return delivery_document(sent)


async def show_delivery(gateway: Gateway, request: Request) -> DeliveryDocument:
    """One delivery."""
    return delivery_document(await gateway.deliveries.delivery(_id(request)))


async def show_text(gateway: Gateway, request: Request) -> Response:
    """All that is to be said, as plain text."""
    delivery = await gateway.deliveries.delivery(_id(request))
    return PlainTextResponse(delivery.message.text, headers={"x-content-type-options": "nosniff"})


async def retry_delivery(gateway: Gateway, request: Request) -> DeliveryDocument:
    """Send it at once, if it waits; put it back, if it failed or was cancelled."""
    return delivery_document(await gateway.deliveries.retry(_id(request)))


async def cancel_delivery(gateway: Gateway, request: Request) -> DeliveryDocument:
    """Do not send it, unless it was sent."""
    return delivery_document(await gateway.deliveries.cancel(_id(request)))


def _id(request: Request) -> int:
    said = request.path_params["delivery"]
    if not (said.isascii() and said.isdecimal() and len(said) < 16):
        raise bad_request(f"The id of a delivery is a number, not {said!r}.", hint="see them with: sexton deliveries")
    return int(said)


def _read_states(said: str | None) -> tuple[DeliveryState, ...]:
    try:
        return (DeliveryState(said),) if said is not None else ()
    except ValueError:
        states = ", ".join(DeliveryState)
        raise bad_request(f"There is no state {said!r} of a delivery.", hint=f"use one of: {states}") from None


def delivery_document(delivery: Delivery) -> DeliveryDocument:
    waits = delivery.state is DeliveryState.WAITING
    return DeliveryDocument(
        id=delivery.id,
        target=delivery.target,
        key=delivery.key,
        state=str(delivery.state),
        job=delivery.job,
        run=delivery.run,
        title=delivery.message.title,
        text=delivery.message.text[:_EXCERPT],
        characters=len(delivery.message.text),
        attempts=delivery.attempts,
        parts_sent=delivery.parts_sent,
        created_at=delivery.created_at.isoformat(),
        next_attempt=delivery.due_at.isoformat() if waits else None,
        ended_at=delivery.ended_at.isoformat() if delivery.ended_at else None,
        error=delivery.error,
        receipt=delivery.receipt,
    )
