"""Whether the gateway lives, and whether it can do its work; for whoever watches it, without a token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio
from starlette.requests import Request
from starlette.responses import Response

from sexton.errors import SextonError
from sexton.gateway.documents import HealthDocument, ReadinessDocument, TroubleDocument
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.caller import Caller
from sexton.gateway.http.parts import Gateway

Check = Callable[[], Awaitable[None]]
CHECK_SECONDS = 3.0


async def show_health(_: Gateway, __: Request) -> HealthDocument:
    """That the gateway answers at all.  No token is needed."""
    return HealthDocument(alive=True)


async def show_readiness(gateway: Gateway, request: Request) -> Response:
    """Whether the gateway can do its work, with the parts that cannot; 503 if there are any.

    No token is needed; with one, `what` says what is wrong with a part.
    """
    known: Caller | None = getattr(request.state, "caller", None)
    troubles = await find_troubles(gateway)
    told = [
        TroubleDocument(part=part, what=gateway.redactor.text(what) if known else None)
        for part, what in sorted(troubles.items())
    ]
    return json_response(ReadinessDocument(ready=not told, troubles=told), status=503 if told else 200)


async def find_troubles(gateway: Gateway) -> Mapping[str, str]:
    """What is wrong, by part; each is asked for `CHECK_SECONDS` at most."""
    troubles: dict[str, str] = {}
    if gateway.closing.is_set():
        troubles["gateway"] = "The gateway is stopping."
    async with anyio.create_task_group() as tasks:
        for part, check in {"database": _check_database(gateway)}.items():
            tasks.start_soon(_look, part, check, troubles)
    return troubles


async def _look(part: str, check: Check, troubles: dict[str, str]) -> None:
    with anyio.move_on_after(CHECK_SECONDS) as bound:
        try:
            await check()
        except SextonError as error:
            troubles[part] = error.what
    if bound.cancelled_caught:
        troubles[part] = f"The {part} does not answer within {CHECK_SECONDS:g} s."


def _check_database(gateway: Gateway) -> Check:
    async def check() -> None:
        if (failure := gateway.scheduler.failing) is not None:
            raise failure  # what can be read may still not be written
        await gateway.scheduler.runs(limit=1)

    return check
