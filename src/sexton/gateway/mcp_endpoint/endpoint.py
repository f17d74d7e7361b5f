"""The ASGI application under `/mcp`."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Final, Protocol, final

import anyio
import anyio.abc
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.gateway.mcp_endpoint.core import Core
from sexton.gateway.mcp_endpoint.endpoint_settings import EndpointSettings
from sexton.gateway.mcp_endpoint.http_message import VERSION_HEADER, HttpRequest, Refused, read_message
from sexton.gateway.mcp_endpoint.legacy_http import LegacyHttp
from sexton.gateway.mcp_endpoint.modern_http import ModernHttp, is_modern
from sexton.gateway.mcp_endpoint.reply import send_json
from sexton.gateway.mcp_endpoint.wire import failure
from sexton.journal import Journal
from sexton.mcp_servers import ServerPool

_log = logging.getLogger(__name__)

_ALLOW: Final = ((b"allow", b"GET, POST, DELETE"),)


class Caller(Protocol):
    """Who makes a request, as the gate says; `profiles` None: it may see everything."""

    @property
    def name(self) -> str: ...
    @property
    def profiles(self) -> frozenset[str] | None: ...


@final
class Endpoint:
    """All servers as one MCP server; `run` must be running while it is asked.

    Callers have passed the gate and may use tools; to which profiles they are
    confined is checked here.
    """

    def __init__(
        self,
        pool: ServerPool,
        settings: EndpointSettings,
        *,
        clock: Clock,
        journal: Journal | None = None,
        closing: anyio.Event | None = None,
        cutting_off: anyio.Event | None = None,
    ) -> None:
        self.core = Core(
            pool,
            settings,
            clock=clock,
            journal=journal,
            closing=closing or anyio.Event(),
            cutting_off=cutting_off or anyio.Event(),
        )
        self._legacy = LegacyHttp(self.core)
        self._modern = ModernHttp(self.core)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Be of service until cancelled."""
        await self.core.run(task_status=task_status)

    def configure(self, settings: EndpointSettings) -> None:
        """Take over other settings."""
        self.core.configure(settings)

    @property
    def profiles(self) -> Collection[str]:
        """The names of the selections that there are."""
        return self.core.settings.profiles.keys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        try:
            await self._answer(scope, receive, send)
        except Refused as refused:
            await send_json(send, refused.status, refused.message, headers=_ALLOW if refused.status == 405 else ())
        except SextonError:
            raise  # the gate's own refusal: a body that is too large or comes too slowly
        except Exception:  # noqa: BLE001 - the outermost edge of an HTTP request
            _log.exception("%s %s failed", scope["method"], scope["path"])
            with suppress(RuntimeError):  # the answer has begun
                await send_json(send, 500, failure(None, MCPError(INTERNAL_ERROR, "Internal error")))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller = scope["state"]["caller"]
        view = self._view(scope, caller)
        headers = Headers(scope=scope)
        http = HttpRequest(headers=headers, receive=receive, send=send, view=view, owner=caller.name)
        match scope["method"]:
            case "POST":
                message = await read_message(headers, receive, limit=self.core.settings.max_body)
                era = self._modern if is_modern(message, headers) else self._legacy
                await era.post(message, http)
            case "GET" if not is_modern(None, headers):
                await self._legacy.get(http)
            case "DELETE" if not is_modern(None, headers):
                await self._legacy.delete(http)
            case method:
                raise Refused(405, f"Method Not Allowed: {method} with {VERSION_HEADER} {headers.get(VERSION_HEADER)}")

    def _view(self, scope: Scope, caller: Caller) -> str:
        path = scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
        match path.split("/"):
            case [""]:
                key = "all"
            case ["profile", name]:
                key = f"profile:{name}"
            case [name]:
                key = f"server:{name}"
            case _:
                raise Refused(404, f"Not Found: {scope['path']} is no MCP endpoint")
        if caller.profiles is not None and key not in {f"profile:{name}" for name in caller.profiles}:
            raise Refused(403, f"Forbidden: this token is only for the profiles {', '.join(sorted(caller.profiles))}")
        try:
            self.core.view(key)
        except MCPError as error:
            raise Refused(404, f"Not Found: {error}", code=INVALID_REQUEST) from error
        return key
