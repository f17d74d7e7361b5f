"""One tool call, now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import Field
from starlette.requests import Request

from sexton.gateway.documents import CallDocument
from sexton.gateway.http.audit import about
from sexton.gateway.http.body import RequestBody, read_body
from sexton.gateway.http.disconnect import while_connected
from sexton.gateway.http.parts import Gateway, Lease, ToolResult
from sexton.gateway.http.problem import not_found
from sexton.gateway.http.servers import known_server


class CallRequest(RequestBody):
    """`timeout` in seconds; without one the server's own applies."""

    server: str
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    timeout: float | None = Field(default=None, gt=0)


async def call_tool(gateway: Gateway, request: Request) -> CallDocument:
    """Call a tool and answer with its result, also when the tool says that it failed (`is_error`).

    A client that goes away before the answer ends its call, at the server too, and nobody else's.
    """
    asked = await read_body(request, CallRequest)
    about(request, f"{asked.server}.{asked.tool}")
    known_server(gateway, asked.server)
    return await while_connected(gateway, request.receive, _call(gateway, asked))


async def _call(gateway: Gateway, asked: CallRequest) -> CallDocument:
    began = gateway.clock.monotonic()
    async with gateway.pool.lease(asked.server, holder=f"api:{uuid4().hex[:8]}", returns=False) as lease:
        await require_tool(lease, asked.server, asked.tool)
        result = await lease.call_tool(asked.tool, asked.arguments, timeout=asked.timeout)
    return call_document(asked.server, asked.tool, result, seconds=gateway.clock.monotonic() - began)


async def require_tool(lease: Lease, server: str, tool: str) -> None:
    """Raise `Problem` 404 with the nearest name if the server has no such tool.  Denying is up to the lease."""
    names = [known.name for known in await lease.list_tools()]
    if tool not in names and lease.admits(tool):
        raise not_found(f"tool of server {server!r} named", tool, names, listing=f"sexton servers tools {server}")


def call_document(server: str, tool: str, result: ToolResult, *, seconds: float) -> CallDocument:
    content = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]
    return CallDocument(
        server=server,
        tool=tool,
        is_error=bool(result.is_error),
        text=content_text(content),
        content=content,
        structured_content=result.structured_content,
        seconds=round(seconds, 4),
    )


def content_text(content: Sequence[Mapping[str, Any]]) -> str:
    """What a person reads of a result: its texts, and of anything else what it is and how large."""
    return "\n".join(_block_text(block) for block in content)


def _block_text(block: Mapping[str, Any]) -> str:
    match block:
        case {"type": "text", "text": str(text)} | {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "image" | "audio" as kind, "data": str(data), **rest}:
            return f"[{kind} {rest.get('mimeType', '')}, {len(data) * 3 // 4} bytes]"
        case {"type": "resource_link", "uri": uri}:
            return f"[link {uri}]"
        case {"type": "resource", "resource": {"uri": uri}}:
            return f"[resource {uri}]"
        case _:
            return json.dumps(block, ensure_ascii=False)
