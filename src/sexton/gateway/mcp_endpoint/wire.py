"""JSON-RPC messages, as dictionaries and as bytes (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from mcp import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
)

from sexton.errors import SextonError
from sexton.mcp_servers import ToolDenied, UnknownServer, encode

Message: TypeAlias = dict[str, Any]
Params: TypeAlias = Mapping[str, Any]

REQUEST_CANCELLED: Final = -32800
"""What a cancelled request is answered with in the handshake era, where a stream ends with an answer (so the SDK)."""


LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""From the most to the least talkative."""


def answer(request_id: object, result: Params) -> Message:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def failure(request_id: object, error: MCPError) -> Message:
    details: dict[str, Any] = {"code": error.error.code, "message": error.error.message}
    if error.error.data is not None:
        details["data"] = error.error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": details}


def notification(method: str, params: Params | None) -> Message:
    message: Message = {"jsonrpc": "2.0", "method": method}
    return message if params is None else {**message, "params": params}


def request(request_id: object, method: str, params: Params | None) -> Message:
    message: Message = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return message if params is None else {**message, "params": params}


def as_bytes(message: Message) -> bytes:
    """Return the message without a newline."""
    return encode(message)[:-1]


def event_frame(message: Message, event_id: str | None = None) -> bytes:
    """Return the message as a server-sent event; JSON has no line ends of its own."""
    head = b"event: message\n" if event_id is None else b"event: message\nid: " + event_id.encode() + b"\n"
    return head + b"data: " + as_bytes(message) + b"\n\n"


def rpc_error(error: SextonError) -> MCPError:
    """Return an error of ours in the words of JSON-RPC, hint included: the reader may be a person."""
    code = INVALID_PARAMS if isinstance(error, ToolDenied | UnknownServer) else INTERNAL_ERROR
    return MCPError(code, str(error))


def meta_of(params: Params | None) -> Params:
    """Return `_meta`, empty if there is none that is an object."""
    meta = params.get("_meta") if params else None
    return meta if isinstance(meta, Mapping) else {}


def text_param(params: Params | None, name: str) -> str:
    """Return a parameter that has to be text.  Raises MCPError."""
    value = params.get(name) if params else None
    if not isinstance(value, str):
        raise MCPError(INVALID_PARAMS, f"Invalid params: {name} must be a string")
    return value


def refuse(what: str) -> MCPError:
    return MCPError(INVALID_REQUEST, what)


def plain_name(name: object) -> str:
    """Return a client's name for people: printable and short, whatever the client says."""
    words = "".join(each for each in str(name or "") if each.isalnum() or each in "-_. ").strip()
    return words[:32].replace(" ", "-") or "client"
