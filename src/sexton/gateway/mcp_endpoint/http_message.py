"""One HTTP request to the endpoint: its headers, its body, and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import anyio.to_thread
from mcp import MCPError
from mcp_types import INVALID_REQUEST, PARSE_ERROR
from starlette.datastructures import Headers
from starlette.types import Receive, Send

from sexton.gateway.mcp_endpoint.wire import Message, failure
from sexton.mcp_servers import BIG_LINE, decode, decode_slowly

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"
LAST_EVENT_HEADER: Final = "last-event-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request that passed the gate: which view it is for, and who makes it."""

    headers: Headers
    receive: Receive
    send: Send
    view: str
    owner: str


class Refused(Exception):
    """The HTTP request itself is refused; `message` is a JSON-RPC error without an id."""

    def __init__(self, status: int, what: str, *, code: int = INVALID_REQUEST) -> None:
        super().__init__(what)
        self.status = status
        self.message: Message = failure(None, MCPError(code, what))


async def read_message(headers: Headers, receive: Receive, *, limit: int) -> Any:
    """Return the JSON value of the body.  Raises Refused: 415, 413 or 400."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "Unsupported Media Type: Content-Type must be application/json")
    body = await _read_body(headers, receive, limit)
    try:
        if len(body) > BIG_LINE:
            return await anyio.to_thread.run_sync(decode_slowly, body)
        return decode(body)
    except ValueError as error:
        raise Refused(400, f"Parse error: {error}", code=PARSE_ERROR) from error


def accepted(headers: Headers) -> tuple[bool, bool]:
    """Return whether the client takes JSON, and whether it takes event streams."""
    kinds = {part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(",")}
    anything = "*/*" in kinds
    json = anything or bool(kinds & {"application/json", "application/*"})
    events = anything or bool(kinds & {"text/event-stream", "text/*"})
    return json, events


def prefers_events(headers: Headers) -> bool:
    """Say whether the client would rather have event streams than JSON: it gives them more weight, or names them first.

    Source: RFC 9110, 12.5.1, which leaves the order open for equal weights.
    """
    said = headers.get("accept", "")
    if ";" not in said:  # as every client that we know writes it
        return 0 <= said.find("text/event-stream") < said.find("application/json")
    return _rank(said, "text/event-stream") < _rank(said, "application/json")


def _rank(said: str, kind: str) -> tuple[float, int]:
    """Return the less, the more a kind is wanted."""
    for place, part in enumerate(said.split(",")):
        name, *params = (each.strip().lower() for each in part.split(";"))
        if name == kind:
            return -_weight(params), place
    return 0.0, len(said)


def _weight(params: list[str]) -> float:
    for param in params:
        if param.startswith("q="):
            try:
                return float(param[2:])
            except ValueError:
                return 0.0
    return 1.0


def require_both(headers: Headers) -> None:
    """Raises Refused, 406, unless the client takes JSON and event streams."""
    if not all(accepted(headers)):
        raise Refused(406, "Not Acceptable: Client must accept both application/json and text/event-stream")


async def _read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
        body = b"".join(parts)
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> Refused:
    return Refused(413, f"Content Too Large: a message may have at most {limit} bytes")
