"""Servers that somebody else runs, over Streamable HTTP or SSE.

Rule: every holder has a session of its own with the server, because a session
is what such a server keeps its clients apart by; nothing of the virtual
connections of a shared process is needed.  One more session is ours, for the
list of tools.  The SDK's transports do the talking.  What we add: a failing
request is an error of that request, in clear words, and a broken connection
fails the calls of its holder instead of cancelling the holder.

What a failure says, and of whom:

* no connection could be made: the request was not written, and the server has
  ended for everybody;
* the connection broke while the answer was awaited: that call is lost and may
  have had its effect; our own session then finds out whether the server is
  still there;
* a session that the server does not know any more, or whose stream has ended:
  later requests of its holder were not written.
"""

from __future__ import annotations

import enum
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
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
from mcp.shared.dispatcher import (
    CallOptions,
    OnNotify,
    OnNotifyIntercept,
    OnRequest,
    as_request_id,
    coerce_request_id,
)
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher, progress_token_from_params
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    REQUEST_TIMEOUT,
    ErrorData,
    JSONRPCError,
    RequestId,
    Tool,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from sexton.errors import SextonError
from sexton.mcp_servers.big_result import lighten
from sexton.mcp_servers.call import LISTEN, LONG_RUNNING
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.handshake import shake_hands
from sexton.mcp_servers.holder_session import HolderSession, running
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.list_news import TOOLS_CHANGED, ListNews
from sexton.mcp_servers.output_schemas import OutputSchemas
from sexton.mcp_servers.server_config import HttpServer, ServerConfig
from sexton.mcp_servers.server_errors import (
    CallTimedOut,
    ConnectFailed,
    ConnectionEnd,
    ConnectTimedOut,
    ServerDied,
    words_of,
)
from sexton.mcp_servers.tool_list import ToolList

_log = logging.getLogger(__name__)

_CLOSE_TIMEOUT: Final = 3.0
"""Seconds in which the server may confirm the end of a session."""

_SILENCE_TIMEOUT: Final = 3600.0
"""Seconds of silence on an open stream; a call's own deadline is `call_timeout`."""

_SESSION_IS_GONE: Final = 404
"""What a server answers that does not know a session any more (MCP 2025-11-25, session management)."""

_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Errors of which it is sure that not one byte of the request left us."""

_NOBODY = Callbacks()


@final
class RemoteServer:
    """A server reached over HTTP, in the shape of a `ServerProcess`.  Made by `open`."""

    pid: Final = None
    last_words: Final = ""

    def __init__(self, config: ServerConfig, tasks: anyio.abc.TaskGroup) -> None:
        self.config = config
        self.ended = anyio.Event()
        self.end: ConnectionEnd | None = None
        self._tasks = tasks
        self._links: list[_Link] = []
        self._calls_of_the_past = 0
        self._control: HolderSession | None = None
        self._introduction: Introduction | None = None
        self.probe_unwelcome = False
        """Whether it did not answer `server/discover`."""
        self.news = ListNews()
        """Which of its lists have changed."""
        self._tools = ToolList()
        self._schemas = OutputSchemas(config.name, self._tools.get)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: ServerConfig, *, callbacks: Callbacks = _NOBODY) -> AsyncIterator[RemoteServer]:
        """Connect to the server of `config`; leaving ends every session on it.

        Raises:
            ConnectTimedOut: the handshake took longer than `connect_timeout`.
            ConnectFailed: nothing listens there, it wants other credentials, its
                certificate is not trusted, or it refused the handshake.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            server = cls(config, tasks)
            try:
                async with server._linked("sexton", callbacks, is_holder=False) as control:
                    await server._begin(control)
                    yield server
            except Exception as error:  # noqa: BLE001 - raised again below, out of the task group
                failure = error
            finally:
                server._finish("was left")
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def connect(self, holder: str, callbacks: Callbacks = _NOBODY) -> AsyncIterator[HolderSession]:
        """Give `holder` a session of its own with the server.

        Raises:
            NotWritten: the server has been left.
            ConnectFailed, ConnectTimedOut: as `open`.
        """
        if self.end is not None:
            raise self.end.failure(written=False)
        async with self._linked(holder, callbacks, is_holder=True) as session:
            yield session

    async def list_tools(self) -> tuple[Tool, ...]:
        """Return all tools of the server; asked once, and again after it said that they changed."""
        return await self._tools.get()

    async def wait_tools_changed(self) -> None:
        """Wait until the server says that its list of tools has changed."""
        await self._tools.wait_changed()

    @property
    def holders(self) -> tuple[str, ...]:
        """Who is connected."""
        return tuple(link.holder for link in self._links if link.is_holder)

    @property
    def calls(self) -> int:
        """How many tool calls were made."""
        return self._calls_of_the_past + sum(link.tool_calls for link in self._links)

    @property
    def introduction(self) -> Introduction:
        """What the server said of itself in the handshake, which is done."""
        assert self._introduction is not None
        return self._introduction

    async def _begin(self, control: HolderSession) -> None:
        self._control = control
        self._introduction = Introduction.of(control)
        self._tools.ask_through(control)
        if self._introduction.is_modern:
            self._tasks.start_soon(self._tools.follow_changes)

    def _finish(self, what: str) -> None:
        if self.end is None:
            self.end = ConnectionEnd(server=self.config.name, what=what)
            self.ended.set()

    @asynccontextmanager
    async def _linked(self, holder: str, callbacks: Callbacks, *, is_holder: bool) -> AsyncIterator[HolderSession]:
        link = _Link(
            self._advised(),
            holder,
            callbacks,
            self._schemas,
            on_list_changed=self._on_list_changed,
            on_loss=self._take_loss,
            is_holder=is_holder,
        )
        self._tasks.start_soon(self._keep, link)
        try:
            session = await link.wait_open()
            self.probe_unwelcome = self.probe_unwelcome or link.probe_unwelcome
            self._links.append(link)
            yield session
        finally:
            if link in self._links:
                self._links.remove(link)
                self._calls_of_the_past += link.tool_calls
            await link.close()

    def _on_list_changed(self, method: str) -> None:
        if method == TOOLS_CHANGED:
            self._tools.forget()
        self.news.tell(method)

    def _advised(self) -> ServerConfig:
        """What we know of the server by now, it need not be asked again."""
        return replace(self.config, protocol="legacy") if self.probe_unwelcome else self.config

    async def _keep(self, link: _Link) -> None:
        await link.run()
        if not link.is_holder:
            self._finish(link.trouble or "closed the connection")

    def _take_loss(self, link: _Link, *, reachable: bool) -> None:
        """A session lost a request; its caller has the error in hand."""
        if not (reachable and link.is_holder):
            self._finish(link.trouble or "closed the connection")
        elif self.end is None:
            self._tasks.start_soon(self._look_whether_it_is_there)

    async def _look_whether_it_is_there(self) -> None:
        """Ask something on our own session: what becomes of it tells."""
        assert self._control is not None
        try:
            await self._control.list_tools()
        except (SextonError, MCPError) as error:
            _log.debug("server %r, after a call was lost: %s", self.config.name, error)


@final
class _Link:
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
        self._losses: dict[RequestId, _Loss] = {}
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
            self.trouble = self.trouble or _trouble(_first(error))
            self._failure = self._connect_failure(_first(error))
        finally:
            self._opened.set()
            self._closed.set()

    async def _hold(self) -> None:
        async with self._transport() as (read, write):
            session = HolderSession(
                _LinkDispatcher(read, write, self),
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
            _HttpClient(self, headers=dict(server.headers), timeout=timeout) as client,
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
        return _HttpClient(self, headers=headers, timeout=timeout, auth=auth, fatal_posts=True)

    def broke(self, trouble: str) -> None:
        """The connection is of no use any more: fail its calls."""
        self.trouble = trouble
        self._scope.cancel()

    def stream_ended(self) -> None:
        """Nothing can be heard of the server any more: the session is over."""
        self._closing.set()

    def lost(self, request: httpx2.Request, trouble: str, loss: _Loss) -> None:
        """A request failed below MCP.  Before the handshake is done that is evidence for it, like any answer."""
        self.trouble = trouble
        if self._session is not None and (request_id := _request_id(request)) is not None:
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
        self._on_loss(self, reachable=loss is not _Loss.UNREACHABLE)
        if loss is None or loss is _Loss.BROKEN:
            what = self.trouble or "closed the connection"
            return ServerDied(ConnectionEnd(server=self._config.name, what=f"was lost during a call: it {what}"))
        return self._end("closed the connection").failure(written=False)

    def _end(self, otherwise: str) -> ConnectionEnd:
        what = self.trouble or otherwise
        return ConnectionEnd(server=self._config.name, what=what, hint=_hint_for(what))

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
            return ConnectFailed(f"server {self._config.name!r} {self.trouble}.", hint=_hint_for(self.trouble))
        return ConnectFailed(
            f"server {self._config.name!r} refused the handshake: {words_of(error)}.",
            hint="check the url and the kind (streamable-http or sse) of this server",
        )


class _Loss(enum.Enum):
    """How a request failed below MCP."""

    UNREACHABLE = enum.auto()
    """There was no connection to send it on."""
    REFUSED = enum.auto()
    """The server threw it away unread, with the session that it came in."""
    BROKEN = enum.auto()
    """It may have arrived; its answer cannot."""


@final
class _LinkDispatcher(JSONRPCDispatcher[TransportContext]):
    """The SDK's dispatcher, which fails and times out as our own connections do.

    Progress starts the timeout of a call again, and a lost connection is
    ServerDied or NotWritten.
    """

    def __init__(self, read: Any, write: Any, link: _Link) -> None:
        super().__init__(read, write)
        self._link = link
        self._ids = itertools.count(1)
        self._own_tokens: dict[RequestId, RequestId] = {}

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Receive until the stream ends."""

        def intercept(method: str, params: Mapping[str, Any] | None) -> bool:
            return on_notify_intercept is not None and on_notify_intercept(method, self._with_own_token(method, params))

        try:
            await super().run(on_request, on_notify, intercept, task_status=task_status)
        finally:
            self._link.stream_ended()

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,
        *,
        _related_request_id: RequestId | None = None,
    ) -> dict[str, Any]:
        """Send a request.

        Raises:
            MCPError: the server answered with an error, or in no time.
            ServerDied: the connection was lost (NotWritten: before the server read the request).
        """
        if method == LISTEN:  # the SDK's driver of a subscription knows no error but MCPError
            return await self._send_patiently(method, params, opts or {}, _related_request_id)
        request_id = next(self._ids)
        self._link.begin_request(request_id)
        if (own := progress_token_from_params(params)) is not None:
            self._own_tokens[request_id] = own
        try:
            numbered: CallOptions = {**(opts or {}), "request_id": request_id}
            return lighten(method, await self._send_patiently(method, params, numbered, _related_request_id))
        except MCPError as error:
            if (failure := self._link.failure_of(request_id, error)) is not None:
                raise failure from error
            raise
        finally:
            self._own_tokens.pop(request_id, None)

    def _with_own_token(self, method: str, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """A holder that forwards brought its own token along; ours, which is the request's id, took its place."""
        if method != "notifications/progress" or params is None:
            return params
        token = as_request_id(params.get("progressToken"))
        own = None if token is None else self._own_tokens.get(coerce_request_id(token))
        return params if own is None else {**params, "progressToken": own}

    async def _send_patiently(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions, _related_request_id: RequestId | None
    ) -> dict[str, Any]:
        untimed: CallOptions = {**opts}
        timeout = untimed.pop("timeout", None)
        if timeout is None or method not in LONG_RUNNING:
            return await super().send_raw_request(method, params, opts, _related_request_id=_related_request_id)
        tell = untimed.get("on_progress")
        with anyio.CancelScope(deadline=anyio.current_time() + timeout) as limit:

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                limit.deadline = anyio.current_time() + timeout
                if tell is not None:
                    await tell(progress, total, message)

            untimed["on_progress"] = on_progress
            return await super().send_raw_request(method, params, untimed, _related_request_id=_related_request_id)
        raise MCPError(REQUEST_TIMEOUT, f"{method} was not answered within {timeout:g} s")


@final
class _HttpClient(httpx2.AsyncClient):
    """An HTTP client whose failed POSTs are JSON-RPC errors with a clear message.

    The SDK's transport passes such an error to the one request that it is for;
    an exception would end the session, and a bare status gets a message that
    says nothing.
    """

    def __init__(self, link: _Link, *, fatal_posts: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._link = link
        self._fatal_posts = fatal_posts

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send `request`; the answer to a POST is always a response."""
        try:
            response = await super().send(request, **options)
        except httpx2.TransportError as error:
            self._link.trouble = trouble = _transport_trouble(error)
            if request.method != "POST":
                raise
            self._link.lost(request, trouble, _Loss.UNREACHABLE if isinstance(error, _NOT_SENT) else _Loss.BROKEN)
            return self._failed(request, 502)
        if response.status_code < 400 or request.method == "DELETE":
            return response
        if request.method == "GET":
            if self._fatal_posts:
                self._link.trouble = _status_trouble(response.status_code)
            return response
        if await _is_json_rpc_error(response):
            return response
        self._link.trouble = trouble = _status_trouble(response.status_code)
        if response.status_code == _SESSION_IS_GONE and self._link.is_open:
            self._link.lost(request, trouble, _Loss.REFUSED)
            self._link.broke(trouble)
        return self._failed(request, response.status_code)

    def _failed(self, request: httpx2.Request, status: int) -> httpx2.Response:
        trouble = self._link.trouble or ""
        if self._fatal_posts:
            self._link.broke(trouble)
        error = ErrorData(code=INTERNAL_ERROR, message=f"the server {trouble}")
        body = JSONRPCError(jsonrpc="2.0", id=None, error=error).model_dump(by_alias=True, mode="json")
        return httpx2.Response(status, json=body, request=request)


def _request_id(request: httpx2.Request) -> RequestId | None:
    """Return the id of the JSON-RPC request that `request` carries; None for a notification."""
    message = json.loads(request.content)
    return message.get("id") if "method" in message else None


def _says_that_it_closed(error: MCPError) -> bool:
    """Tell the SDK's word for a lost connection from an answer: servers use the same code for errors of their own."""
    return error.code == CONNECTION_CLOSED and (
        error.error.message == "Connection closed" or error.error.message.startswith("SSE stream ")
    )


async def _is_json_rpc_error(response: httpx2.Response) -> bool:
    if not response.headers.get("content-type", "").lower().startswith("application/json"):
        return False
    try:
        return isinstance(jsonrpc_message_adapter.validate_json(await response.aread(), by_name=False), JSONRPCError)
    except (httpx2.StreamError, httpx2.TransportError, ValidationError):
        return False


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _trouble(error: BaseException) -> str | None:
    if isinstance(error, httpx2.HTTPStatusError):
        return _status_trouble(error.response.status_code)
    return _transport_trouble(error) if isinstance(error, httpx2.TransportError) else None


def _transport_trouble(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.ConnectTimeout):
        return "cannot be reached: no connection in time"
    if isinstance(error, httpx2.TimeoutException):
        return "did not answer an HTTP request in time"
    if isinstance(error, httpx2.ConnectError):
        return _connect_trouble(str(error))
    return f"broke the connection ({str(error) or type(error).__name__})"


def _connect_trouble(text: str) -> str:
    lowered = text.lower()
    if "certificate" in lowered or "ssl" in lowered or "tls" in lowered:
        return f"cannot be trusted: the TLS connection failed ({text})"
    if "refused" in lowered or "all connection attempts failed" in lowered:
        return "cannot be reached: nothing listens at its address (connection refused)"
    return f"cannot be reached: {text}"


def _status_trouble(status: int) -> str:
    match status:
        case 401 | 403:
            return f"does not accept our credentials (HTTP {status})"
        case 404:
            return "has no MCP endpoint at this url, or has ended our session (HTTP 404)"
        case 405:
            return "does not speak this kind of MCP over HTTP at this url (HTTP 405)"
        case 429:
            return "wants fewer requests (HTTP 429)"
        case _:
            return f"answered with HTTP {status}"


def _hint_for(trouble: str) -> str:
    if "credentials" in trouble:
        return "set the Authorization header under [servers.….headers]"
    if "TLS" in trouble:
        return "check the certificate of the server, or use the name that it was made for"
    if "HTTP 404" in trouble or "HTTP 405" in trouble:
        return "check the path of the url (often /mcp or /sse) and the kind (streamable-http or sse)"
    return "check that the url is right and the server is up"
