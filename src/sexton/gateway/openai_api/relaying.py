"""Questions to a configured model: handed on, and the answers handed back as they come."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sexton.agent import ModelConfig, ModelRelay, Relayed
from sexton.errors import SextonError
from sexton.gateway.http import Gateway, caller_of
from sexton.gateway.http.disconnect import while_connected
from sexton.gateway.http.problem import Problem
from sexton.gateway.openai_api.envelope import error_frame
from sexton.gateway.openai_api.stream import WorkStream, Write


async def relay_chat(
    gateway: Gateway, relay: ModelRelay, request: Request, config: ModelConfig, document: dict[str, Any]
) -> Response:
    """The model's own answer to the request as it came, but for the model's name.  Raises SextonError."""
    answer = await ask_model(gateway, relay, request, config, document | {"model": config.model})
    if not document.get("stream"):
        try:
            body = await while_connected(gateway, request.receive, answer.read())
        finally:
            await answer.aclose()
        return Response(body, headers={"cache-control": "no-store"} | answer.headers)

    async def work(write: Write) -> None:
        try:
            async for piece in answer.pieces():
                await write(piece)
        except SextonError as error:
            await write(b"\n\n" + error_frame(error, gateway.redactor))
        finally:
            await answer.aclose()

    return WorkStream(gateway, work)


async def ask_model(
    gateway: Gateway, relay: ModelRelay, request: Request, config: ModelConfig, document: dict[str, Any]
) -> Relayed:
    """Ask, and return once it answers with success.  Raises SextonError: what it refused, as our own refusal."""
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    gateway.journal.append("model.asked", subject=config.name, caller=caller_of(request).name)
    answer = await while_connected(gateway, request.receive, relay.ask(config, body))
    if answer.status < 400:
        return answer
    try:
        refused = await answer.read()
    finally:
        await answer.aclose()
    raise _refusal(gateway, config, answer, refused)


def _refusal(gateway: Gateway, config: ModelConfig, answer: Relayed, body: bytes) -> Problem:
    """The model's refusal; one of our key is the gateway's trouble and not its caller's."""
    said = _error_of(body)
    what = gateway.redactor.text(str(said.get("message") or f"it answered with status {answer.status}"))
    if answer.status in (401, 403):
        return Problem(
            status=502,
            kind="model-refused",
            what=f"Model {config.name!r} refused its key: {what}",
            hint=f"check api_key under [models.{config.name}]",
        )
    more = {"param": said.get("param"), "code": said.get("code")}
    headers = {name: value for name, value in answer.headers.items() if name == "retry-after"}
    return Problem(
        status=answer.status,
        kind="model-refused",
        what=f"Model {config.name!r}: {what}",
        headers=headers,
        more=more,
    )


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {"message": body.decode("utf-8", "replace")[:400]}
    return error if isinstance(error, dict) else {"message": str(error)}
