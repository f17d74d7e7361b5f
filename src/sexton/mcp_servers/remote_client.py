"""The HTTP client under the SDK's transports: a request that fails below MCP is an error of that request."""

from __future__ import annotations

import enum
import json
from typing import Any, Final, Protocol, final

import httpx2
from mcp_types import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from sexton.mcp_servers.remote_trouble import status_trouble, transport_trouble

_SESSION_IS_GONE: Final = 404
"""What a server answers that does not know a session any more (MCP 2025-11-25, session management)."""

_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Errors of which it is sure that not one byte of the request left us."""


class Loss(enum.Enum):
    """How a request failed below MCP."""

    UNREACHABLE = enum.auto()
    """There was no connection to send it on."""
    REFUSED = enum.auto()
    """The server threw it away unread, with the session that it came in."""
    BROKEN = enum.auto()
    """It may have arrived; its answer cannot."""


class Watcher(Protocol):
    """Who has to know of what fails."""

    trouble: str | None

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done."""
        ...

    def lost(self, request: httpx2.Request, trouble: str, loss: Loss) -> None:
        """A request failed below MCP."""
        ...

    def broke(self, trouble: str) -> None:
        """The connection is of no use any more."""
        ...


@final
class RemoteClient(httpx2.AsyncClient):
    """An HTTP client whose failed POSTs are JSON-RPC errors with a clear message.

    The SDK's transport passes such an error to the one request that it is for;
    an exception would end the session, and a bare status gets a message that
    says nothing.
    """

    def __init__(self, watcher: Watcher, *, fatal_posts: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._watcher = watcher
        self._fatal_posts = fatal_posts

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send `request`; the answer to a POST is always a response."""
        try:
            response = await super().send(request, **options)
        except httpx2.TransportError as error:
            self._watcher.trouble = trouble = transport_trouble(error)
            if request.method != "POST":
                raise
            self._watcher.lost(request, trouble, Loss.UNREACHABLE if isinstance(error, _NOT_SENT) else Loss.BROKEN)
            return self._failed(request, 502)
        if response.status_code < 400 or request.method == "DELETE":
            return response
        if request.method == "GET":
            if self._fatal_posts:
                self._watcher.trouble = status_trouble(response.status_code)
            return response
        if await _is_json_rpc_error(response):
            return response
        self._watcher.trouble = trouble = status_trouble(response.status_code)
        if response.status_code == _SESSION_IS_GONE and self._watcher.is_open:
            self._watcher.lost(request, trouble, Loss.REFUSED)
            self._watcher.broke(trouble)
        return self._failed(request, response.status_code)

    def _failed(self, request: httpx2.Request, status: int) -> httpx2.Response:
        trouble = self._watcher.trouble or ""
        if self._fatal_posts:
            self._watcher.broke(trouble)
        error = ErrorData(code=INTERNAL_ERROR, message=f"the server {trouble}")
        body = JSONRPCError(jsonrpc="2.0", id=None, error=error).model_dump(by_alias=True, mode="json")
        return httpx2.Response(status, json=body, request=request)


def request_id_of(request: httpx2.Request) -> RequestId | None:
    """Return the id of the JSON-RPC request that `request` carries; None for a notification."""
    message = json.loads(request.content)
    return message.get("id") if "method" in message else None


async def _is_json_rpc_error(response: httpx2.Response) -> bool:
    if not response.headers.get("content-type", "").lower().startswith("application/json"):
        return False
    try:
        return isinstance(jsonrpc_message_adapter.validate_json(await response.aread(), by_name=False), JSONRPCError)
    except (httpx2.StreamError, httpx2.TransportError, ValidationError):
        return False
