"""Streamable HTTP of 2026-07-28: every POST stands for itself, and closing its connection cancels it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, final

from mcp import MCPError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers

from sexton.gateway.mcp_endpoint.core import Core
from sexton.gateway.mcp_endpoint.eras import modern_result
from sexton.gateway.mcp_endpoint.http_message import VERSION_HEADER, HttpRequest, Refused, require_both
from sexton.gateway.mcp_endpoint.listen_stream import serve_listen
from sexton.gateway.mcp_endpoint.methods import SEXTON
from sexton.gateway.mcp_endpoint.modern_client import ModernCall
from sexton.gateway.mcp_endpoint.parked import is_ours
from sexton.gateway.mcp_endpoint.reply import Reply, reply_while_connected, send_json
from sexton.gateway.mcp_endpoint.wire import Message, Params, answer, failure, meta_of

_log = logging.getLogger(__name__)

CLIENT_HEADER: Final = "sexton-client"
"""Says which client a request is of, from one that knows better than token and name do; see `modern_client`."""

LISTEN: Final = "subscriptions/listen"


@final
class ModernHttp:
    """Answers the requests of 2026-07-28 clients."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def post(self, message: Any, http: HttpRequest) -> None:
        """Take one message.  Raises Refused."""
        require_both(http.headers)
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            raise Refused(400, "Body must be a single JSON-RPC request or notification object")
        if "id" not in message:
            await self._take_notification(http)
            return
        request_id = message["id"]
        if isinstance(request_id, bool) or not isinstance(request_id, str | int):
            raise Refused(400, "Body must be a single JSON-RPC request or notification object")
        if (rejection := self._rejection(message, http)) is not None:
            error = MCPError(rejection.code, rejection.message, rejection.data)
            await send_json(http.send, ERROR_CODE_HTTP_STATUS.get(rejection.code, 400), failure(request_id, error))
            return
        await self._answer(message, http)

    async def _take_notification(self, http: HttpRequest) -> None:
        """A client of this era has nothing to notify us of; what comes is taken and dropped, as the SDK does."""
        rejection = unsupported_protocol_version_rejection(http.headers.get(VERSION_HEADER, ""))
        if rejection is None:
            await send_json(http.send, 202)
        else:
            await send_json(http.send, 400, failure(None, MCPError(rejection.code, rejection.message, rejection.data)))

    def _rejection(self, message: Message, http: HttpRequest) -> InboundLadderRejection | None:
        headers = http.headers
        if CLIENT_HEADER in headers:  # a bridge from stdio, which has no headers that could say something
            verdict = classify_inbound_request(message)
            return verdict if isinstance(verdict, InboundLadderRejection) else None
        if (doubled := find_duplicated_routing_header(headers.items())) is not None:
            return InboundLadderRejection(code=HEADER_MISMATCH, message=f"{doubled} header appears more than once")
        verdict = classify_inbound_request(message, headers=dict(headers))
        if isinstance(verdict, InboundLadderRejection):
            return verdict
        return self._param_rejection(message, headers, http.view)

    def _param_rejection(self, message: Message, headers: Headers, view: str) -> InboundLadderRejection | None:
        """Compare the headers that repeat arguments with the arguments, for a tool whose schema is known."""
        params = message["params"]
        if message["method"] != "tools/call" or not isinstance(params.get("name"), str):
            return None
        arguments = params.get("arguments") or {}
        if not isinstance(arguments, Mapping):
            return None
        if not arguments and not any(name.startswith("mcp-param-") for name in headers):
            return None
        schema = self._core.input_schema(view, params["name"])
        return None if schema is None else validate_mcp_param_headers(schema, arguments, headers)

    async def _answer(self, message: Message, http: HttpRequest) -> None:
        request_id, method, params = message["id"], message["method"], message["params"]
        client = await self._core.modern_client(http.owner, http.headers.get(CLIENT_HEADER), meta_of(params))
        if client is None:
            raise Refused(503, "Too many open sessions", code=INTERNAL_ERROR)

        async def work(reply: Reply) -> tuple[int, Message]:
            try:
                call = ModernCall(
                    client, self._core.view(http.view), reply, params, parked=self._core.parked, tasks=self._core.tasks
                )
                if method == LISTEN:
                    return 200, answer(request_id, await serve_listen(self._core, call, reply, request_id, params))
                return 200, answer(request_id, await self._result(call, method, params))
            except MCPError as error:
                return ERROR_CODE_HTTP_STATUS.get(error.error.code, 200), failure(request_id, error)
            except Exception:  # noqa: BLE001 - the outermost edge of a request
                _log.exception("%s of %s failed", method, client.holder)
                return 200, failure(request_id, MCPError(INTERNAL_ERROR, "Internal server error"))

        with client.asking():
            await reply_while_connected(
                http.receive,
                http.send,
                work,
                cancelled=failure(request_id, MCPError(INTERNAL_ERROR, "Request cancelled")),
                open_replies=self._core.replies,
            )

    async def _result(self, call: ModernCall, method: str, params: Params) -> dict[str, Any]:
        if method == "server/discover":
            return await self._discover(call)
        if method in ("initialize", "ping"):
            raise MCPError(METHOD_NOT_FOUND, "Method not found", method)
        if is_ours(params.get("requestState")):
            return await call.resume(params)
        result = await self._core.methods.answer(call, method, params)
        return result if "resultType" in result else modern_result(method, result, SEXTON)

    async def _discover(self, call: ModernCall) -> dict[str, Any]:
        introduction = await self._core.methods.introduce(call.view)
        info = introduction.pop("serverInfo")
        result = {"supportedVersions": list(MODERN_PROTOCOL_VERSIONS), **introduction}
        return modern_result("server/discover", result, info)


def is_modern(message: Any, headers: Headers) -> bool:
    """Say which era a POST is of: a version that no handshake agrees on, or the envelope of 2026-07-28."""
    from_header = headers.get(VERSION_HEADER)
    if from_header is not None:
        return from_header not in _HANDSHAKE
    params = message.get("params") if isinstance(message, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and "io.modelcontextprotocol/protocolVersion" in meta


_HANDSHAKE: Final = frozenset(HANDSHAKE_PROTOCOL_VERSIONS)
