"""One request to one server, whatever eras the client and the server speak."""

from __future__ import annotations

from typing import Any, Final

import anyio
from mcp import MCPError
from mcp_types import INTERNAL_ERROR

from sexton.errors import SextonError
from sexton.gateway.mcp_endpoint.eras import (
    is_input_required,
    legacy_params,
    legacy_result,
    modern_error,
    modern_params,
    modern_result,
)
from sexton.gateway.mcp_endpoint.holding import Sink
from sexton.gateway.mcp_endpoint.wire import Params, rpc_error
from sexton.mcp_servers import MAX_INPUT_ROUNDS, QUESTIONS, Lease, polite_refusal

ALL_LOGS: Final = "debug"
_EMPTY_ROUND_DELAY: Final = 0.05


async def forward_from_legacy(
    lease: Lease, call: Sink, method: str, params: Params | None, *, log_level: str | None, capabilities: Params
) -> dict[str, Any]:
    """Send a request of a client of the handshake era.  Raises MCPError."""
    try:
        if not lease.introduction.is_modern:
            return await lease.forward(method, params)
        asked = modern_params(params, log_level or ALL_LOGS)
        for _ in range(MAX_INPUT_ROUNDS + 1):
            result = await lease.forward(method, asked)
            if not is_input_required(result):
                return legacy_result(result)
            asked = await _with_input(call, asked, result, capabilities)
    except SextonError as error:
        raise rpc_error(error) from error
    raise MCPError(INTERNAL_ERROR, f"the server asked for input more than {MAX_INPUT_ROUNDS} times for one request")


async def forward_from_modern(lease: Lease, method: str, params: Params | None) -> dict[str, Any]:
    """Send a request of a 2026-07-28 client.  Raises MCPError."""
    try:
        if lease.introduction.is_modern:
            return await lease.forward(method, params)
        result = await lease.forward(method, legacy_params(params))
        return modern_result(method, result, server_info_of(lease))
    except MCPError as error:
        raise modern_error(method, error) from error
    except SextonError as error:
        raise rpc_error(error) from error


def server_info_of(lease: Lease) -> dict[str, Any]:
    """Return name and version of a server, as it tells them."""
    info = lease.introduction.server_info
    if info is None:
        return {"name": lease.server, "version": ""}
    return info.model_dump(mode="json", by_alias=True, exclude_none=True)


async def _with_input(
    call: Sink, asked: dict[str, Any], result: dict[str, Any], capabilities: Params
) -> dict[str, Any]:
    """Ask the client what a 2026-07-28 server wants to know, and return the request with the answers."""
    questions = result.get("inputRequests") or {}
    responses: dict[str, Any] = {}
    failures: list[MCPError] = []

    async def ask(key: str, question: dict[str, Any]) -> None:
        method = str(question.get("method"))
        try:
            if QUESTIONS.get(method) in capabilities:
                responses[key] = await call.ask(method, question.get("params"))
            else:
                responses[key] = polite_refusal(method)
        except MCPError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for key, question in questions.items():
            tasks.start_soon(ask, key, question)
    if failures:
        raise failures[0]
    if not questions:
        await anyio.sleep(_EMPTY_ROUND_DELAY)
    answered = {name: value for name, value in asked.items() if name not in ("inputResponses", "requestState")}
    if responses:
        answered["inputResponses"] = responses
    if (state := result.get("requestState")) is not None:
        answered["requestState"] = state
    return answered
