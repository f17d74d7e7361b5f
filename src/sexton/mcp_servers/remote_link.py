"""One session with a server that somebody else runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, final

import anyio
import anyio.abc
import httpx2
from mcp import MCPError
from mcp.client.session import IncomingMessage
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CONNECTION_CLOSED,
    REQUEST_TIMEOUT,
    RequestId,
)

from sexton.errors import SextonError
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.handshake import shake_hands
from sexton.mcp_servers.holder_session import HolderSession, running
from sexton.mcp_servers.output_schemas import OutputSchemas
from sexton.mcp_servers.remote_client import Loss, RemoteClient, request_id_of
from sexton.mcp_servers.remote_dispatcher import RemoteDispatcher
from sexton.mcp_servers.remote_trouble import hint_for, trouble_of
from sexton.mcp_servers.server_config import HttpServer, ServerConfig
from sexton.mcp_servers.server_errors import (
    CallTimedOut,
    ConnectFailed,
    ConnectionEnd,
    ConnectTimedOut,
    ServerDied,
    words_of,
)

_log = logging.getLogger(__name__)

_CLOSE_TIMEOUT: Final = 3.0
"""Seconds in which the server may confirm the end of a session."""

_SILENCE_TIMEOUT: Final = 3600.0
"""Seconds of silence on an open stream; a call's own deadline is `call_timeout`."""


@final
class RemoteLink:
    """One session, in a task of its own, so that its end cancels nobody else."""

    def __init__(
        self,
        config: ServerConfig,
        holder: str,
        callbacks: Callbacks,
        schemas: OutputSchemas,
        *,
        on_list_changed: Callable[[str], None],
        on_loss: Callable[..., None],
        is_holder: bool,
    ) -> None:
        self.holder = holder
        self.is_holder = is_holder
        self.trouble: str | None = None
        """What went wrong last, as the end of a sentence about the server."""
        self.probe_unwelcome = False
        self._on_loss = on_loss
        self._losses: dict[RequestId, Loss] = {}
        self._config = config
        self._callbacks = callbacks
        self._schemas = schemas
        self._on_list_changed = on_list_changed
        self._session: HolderSession | None = None
        self._failure: SextonError | None = None
        self._opened = anyio.Event()
        self._closing = anyio.Event()
        self._closed = anyio.Event()
        self._scope = anyio.CancelScope()

    @property
    def tool_calls(self) -> int:
        return self._session.tool_calls if self._session else 0

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done."""
        return self._session is not None

    async def wait_open(self) -> HolderSession:
        """Wait until the handshake is done.  Raises ConnectFailed or ConnectTimedOut."""
        with anyio.move_on_after(self._config.connect_timeout):
            await self._opened.wait()
        if self._session is not None and self._opened.is_set():
            return self._session
        raise self._failure or ConnectTimedOut(
            f"server {self._config.name!r} did not complete the handshake within {self._config.connect_timeout:g} s.",
            hint="check that the url is right and the server is up, or raise its connect_timeout",
        )

    async def close(self) -> None:
        """End the session, politely at first; never takes long."""
        self._closing.set()
        if self._session is None:
            self._scope.cancel()
        try:
            with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
                await self._closed.wait()
        finally:
            self._scope.cancel()

    async def run(self) -> None:
        """Open the session and keep it until `close`, or until it breaks."""
        try:
            with self._scope:
                await self._hold()
        except Exception as error:  # noqa: BLE001 - the outermost edge of this task
            _log.debug("session of %s with server %r ended", self.holder, self._config.name, exc_info=error)
            self.trouble = self.trouble or trouble_of(_first(error))
            self._failure = self._connect_failure(_first(error))
        finally:
            self._opened.set()
            self._closed.set()

    async def _hold(self) -> None:
        async with self._transport() as (read, write):
            session = HolderSession(
                RemoteDispatcher(read, write, self),
                self._callbacks if self.is_holder else replace(self._callbacks, message_handler=self._hear),
                call_timeout=self._config.call_timeout,
                schemas=self._schemas,
                explain=self._explain,
            )
            async with running(session):
                self.probe_unwelcome = await shake_hands(session, self._config.protocol)
                self._session = session
                self._opened.set()
                await self._closing.wait()

    def _transport(self) -> AbstractAsyncContextManager[Any]:
        server = self._config.transport
        assert isinstance(server, HttpServer)
        if server.kind == "sse":
            return sse_client(
                server.url,
                headers=dict(server.headers),
                timeout=self._config.write_timeout,
                sse_read_timeout=_SILENCE_TIMEOUT,
                httpx_client_factory=self._sse_client,
            )
        return self._streamable_http(server)

    @asynccontextmanager
    async def _streamable_http(self, server: HttpServer) -> AsyncIterator[Any]:
        timeout = httpx2.Timeout(self._config.write_timeout, read=_SILENCE_TIMEOUT)
        async with (
            RemoteClient(self, headers=dict(server.headers), timeout=timeout) as client,
            streamable_http_client(
                server.url, http_client=client, max_sse_event_size=self._config.max_line_bytes
            ) as streams,
        ):
            yield streams

    def _sse_client(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        return RemoteClient(self, headers=headers, timeout=timeout, auth=auth, fatal_posts=True)

    def broke(self, trouble: str) -> None:
        """The connection is of no use any more: fail its calls."""
        self.trouble = trouble
        self._scope.cancel()

    def stream_ended(self) -> None:
        """Nothing can be heard of the server any more: the session is over."""
        self._closing.set()

    def lost(self, request: httpx2.Request, trouble: str, loss: Loss) -> None:
        """A request failed below MCP.  Before the handshake is done that is evidence for it, like any answer."""
        self.trouble = trouble
        if self._session is not None and (request_id := request_id_of(request)) is not None:
            self._losses[request_id] = loss

    def begin_request(self, request_id: RequestId) -> None:
        """Raises NotWritten when the session is over."""
        self._losses.pop(request_id, None)
        if self._closing.is_set():
            raise self._end("has ended our session").failure(written=False)

    def failure_of(self, request_id: RequestId, error: MCPError) -> ServerDied | None:
        """Return what `error` means, if it is not the server's own answer."""
        loss = self._losses.pop(request_id, None)
        if self._session is None or (loss is None and not _says_that_it_closed(error)):
            return None
        self._on_loss(self, reachable=loss is not Loss.UNREACHABLE)
        if loss is None or loss is Loss.BROKEN:
            what = self.trouble or "closed the connection"
            return ServerDied(ConnectionEnd(server=self._config.name, what=f"was lost during a call: it {what}"))
        return self._end("closed the connection").failure(written=False)

    def _end(self, otherwise: str) -> ConnectionEnd:
        what = self.trouble or otherwise
        return ConnectionEnd(server=self._config.name, what=what, hint=hint_for(what))

    async def _hear(self, message: IncomingMessage) -> None:
        method = getattr(message, "method", "")
        if method.endswith("/list_changed"):
            self._on_list_changed(method)

    def _explain(self, error: MCPError, request: str) -> Exception:
        if error.code == REQUEST_TIMEOUT:
            return CallTimedOut(
                f"server {self._config.name!r} did not answer {request} within the time for it; we told it to stop.",
                hint="raise call_timeout of this server if the call may take longer",
            )
        return error

    def _connect_failure(self, error: BaseException) -> SextonError:
        if self.trouble:
            return ConnectFailed(f"server {self._config.name!r} {self.trouble}.", hint=hint_for(self.trouble))
        return ConnectFailed(
            f"server {self._config.name!r} refused the handshake: {words_of(error)}.",
            hint="check the url and the kind (streamable-http or sse) of this server",
        )


def _says_that_it_closed(error: MCPError) -> bool:
    """Tell the SDK's word for a lost connection from an answer: servers use the same code for errors of their own."""
    return error.code == CONNECTION_CLOSED and (
        error.error.message == "Connection closed" or error.error.message.startswith("SSE stream ")
    )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
