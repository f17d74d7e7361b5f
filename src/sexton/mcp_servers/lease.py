"""The right to use one server, as its holder sees it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar, final

import anyio
from mcp import MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CallToolResult, Tool

from sexton.errors import SextonError
from sexton.mcp_servers.big_result import TOOLS_CALL
from sexton.mcp_servers.call_watch import Watched
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.fleet import Fleet
from sexton.mcp_servers.holder_session import HolderSession
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.lease_book import Hold, NotHeld
from sexton.mcp_servers.pool_errors import CallRefused, pool_closed, tool_denied, unknown_server
from sexton.mcp_servers.running_server import RunningServer
from sexton.mcp_servers.server_config import ServerConfig, Sharing, ToolFilter
from sexton.mcp_servers.server_errors import ConnectFailed, NotWritten, ServerDied

LOG = logging.getLogger(__name__)

T = TypeVar("T")


@final
class Connection:
    """One hold's session.  It lives in a task of the fleet, so that a lease can be taken, used and left in any task."""

    def __init__(self, hold: Hold, server: RunningServer) -> None:
        self.hold = hold
        self.server = server
        self._session: HolderSession | None = None
        self._error: SextonError | None = None
        self._settled = anyio.Event()
        self._released = anyio.Event()

    @property
    def session(self) -> HolderSession:
        assert self._session is not None
        return self._session

    async def wait_open(self) -> None:
        """Return when the session can be used.  Raises ServerDied, or PoolClosed when the gateway stops."""
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        if self._session is None:
            raise pool_closed()

    def close(self) -> None:
        """Let the session end; its calls in flight are cancelled, at the server too."""
        self._released.set()

    async def run(self, callbacks: Callbacks) -> None:
        """Be connected until closed."""
        try:
            async with self.server.connect(self.hold.holder, callbacks) as session:
                self._session = session
                self._settled.set()
                await self._released.wait()
        except SextonError as error:
            self._error = error  # after it was open, its calls have told
        except Exception as error:  # the outermost edge of this connection's task
            LOG.exception("the connection of %s to %s: a defect of ours", self.hold.holder, self.hold.process)
            self._error = SextonError(f"the connection to {self.hold.process} failed by a defect of ours: {error!r}")
        finally:
            self._settled.set()


@final
class Lease:
    """The right of `holder` to use `server`, from entering `ServerPool.lease` until leaving it.

    Calls of one lease may run at the same time, from any task.  The process
    behind a lease of a shared server may change, but only when a call was
    provably not sent to the old one.  That of an exclusive server never
    changes: its state would be lost behind the holder's back.
    """

    def __init__(
        self,
        fleet: Fleet,
        server: str,
        *,
        holder: str,
        allow: ToolFilter | None = None,
        callbacks: Callbacks | None = None,
        returns: bool = True,
    ) -> None:
        self.server = server
        self.holder = holder
        self._fleet = fleet
        self._allow = allow or ToolFilter()
        self._callbacks = callbacks or Callbacks()
        self._returns = returns
        self._connection: Connection | None = None
        self._replacing = anyio.Lock()

    @property
    def session(self) -> HolderSession:
        """The SDK's session on the present process.  It knows no allow or deny list: `call_tool` does."""
        return self._connected().session

    @property
    def process(self) -> str:
        """The present process, as `server#serial`."""
        return str(self._connected().hold.process)

    @property
    def connection(self) -> Connection:
        """What `session` runs over."""
        return self._connected()

    def admits(self, tool: str) -> bool:
        """Say whether this holder may call `tool`, by the server's list and by its own."""
        return self._config().tools.admits(tool) and self._allow.admits(tool)

    async def list_tools(self) -> tuple[Tool, ...]:
        """Return the tools that the running server offers now and that this holder may call.

        Raises ServerDied, CallTimedOut, CallRefused.
        """

        async def ask(connection: Connection) -> tuple[Tool, ...]:
            return await connection.server.list_tools()

        try:
            tools = await self._ask(ask)
        except MCPError as error:
            raise self._refused(f"the tools of server {self.server!r} could not be listed", error) from error
        return tuple(tool for tool in tools if self.admits(tool.name))

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        progress: ProgressFnT | None = None,
    ) -> CallToolResult:
        """Call a tool and return its answer, also when that says `is_error`.

        `timeout` is in seconds without progress (None: the server's
        `call_timeout`).  A call that never reached a shared server is made once
        more, on a fresh process; any other is never repeated.

        Raises:
            ToolDenied: a list forbids it; the server was not asked.
            CallRefused: the server answered with a JSON-RPC error.
            CallTimedOut: no answer in time.  The server was told to stop.
            ServerDied: the server ended before it answered.
            ServerUnavailable: a fresh process was needed and could not be had.
            InvalidAnswer, InvalidToolResult: the answer does not fit the protocol, or the tool's own schema.
        """
        self._check_admitted(name)
        limit = self._config().call_timeout if timeout is None else timeout

        async def call(connection: Connection) -> CallToolResult:
            return await connection.session.call_tool(name, dict(arguments or {}), limit, progress)

        with self._watched(name) as watched:
            try:
                result = await self._ask(call)
            except MCPError as error:
                self._fleet.answered(self.server)
                raise self._refused(f"tool {name!r} of server {self.server!r} could not be called", error) from error
            self._fleet.answered(self.server)
            watched.is_error = bool(result.is_error)
        return result

    async def forward(
        self, method: str, params: Mapping[str, Any] | None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Send a request of the holder as it is; see `HolderSession.forward`.  Lists of tools are kept to.

        Raises:
            MCPError: the server answered with an error.
            ToolDenied, CallTimedOut, ServerDied, ServerUnavailable: as `call_tool`.
        """
        if method != TOOLS_CALL:
            return await self._forward(method, params, timeout)
        tool = str((params or {}).get("name"))
        self._check_admitted(tool)
        with self._watched(tool) as watched:
            result = await self._forward(method, params, timeout)
            watched.is_error = bool(result.get("isError"))
        return result

    async def _forward(self, method: str, params: Mapping[str, Any] | None, timeout: float | None) -> dict[str, Any]:
        limit = self._config().call_timeout if timeout is None else timeout

        async def send(connection: Connection) -> dict[str, Any]:
            return await connection.session.forward(method, params, timeout=limit)

        try:
            result = await self._ask(send)
        except MCPError:
            self._fleet.answered(self.server)
            raise
        self._fleet.answered(self.server)
        return result

    def _watched(self, tool: str) -> AbstractContextManager[Watched]:
        return self._fleet.watched_call(self.server, tool, self.holder)

    async def notify(self, method: str) -> None:
        """Send a notification of the holder."""
        await self._connected().session.notify(method)

    @property
    def introduction(self) -> Introduction:
        """What the server said of itself."""
        return self._connected().server.introduction

    @property
    def is_over(self) -> bool:
        """Whether the process behind it has ended, or was given back."""
        return self._connection is None or self._connection.server.end is not None

    # For the pool

    async def connect(self) -> Connection:
        """Take a process and connect to it; a process that turns out to be dead is passed by."""
        while True:
            hold = await self._fleet.take(self.server, holder=self.holder, returns=self._returns)
            process = self._fleet.find(hold.process)
            if process is None or process.server is None:  # it ended in the moment in which we got it
                self._fleet.give_back(hold)
                continue
            connection = self._connection = Connection(hold, process.server)
            try:
                self._fleet.start_task(connection.run, self._callbacks)
                await connection.wait_open()
            except ServerDied as error:
                # The breaker bounds how often: each dead process counts.
                self._fleet.connection_lost(hold, error)
                self.let_go()
            except ConnectFailed as error:
                # A server that we do not run may turn away one holder and go on serving the others.
                alone = self._fleet.holders_of(hold.process) == (self.holder,)
                if alone:
                    self._fleet.connection_lost(hold, error)
                self.let_go()
                if not alone:
                    raise
            else:
                return connection

    def let_go(self) -> None:
        """Give back what is held, if anything is.  Waits for nothing, so nothing can interrupt it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._fleet.give_back(connection.hold)

    # Inside

    async def _ask(self, request: Callable[[Connection], Awaitable[T]]) -> T:
        """Make a request; once more, on a fresh process, when it provably was not sent and no state can be lost."""
        connection = self._connected()
        try:
            return await request(connection)
        except NotWritten as error:
            if self._config().sharing is Sharing.EXCLUSIVE:
                raise
            connection = await self._replace(connection, error)
        return await request(connection)

    async def _replace(self, dead: Connection, error: NotWritten) -> Connection:
        """Return a connection to a fresh process, the same one for all calls that found the old one dead."""
        async with self._replacing:
            if self._connected() is not dead:
                return self._connected()
            if dead.server.end is not None:  # else only this holder's session with it is over
                self._fleet.connection_lost(dead.hold, error)
            self.let_go()
            return await self.connect()

    def _connected(self) -> Connection:
        if self._connection is None:
            raise NotHeld(f"{self.holder} has no hold of {self.server!r}: it left the lease, or could not renew it")
        return self._connection

    def _config(self) -> ServerConfig:
        config = self._fleet.configs.get(self.server)
        if config is None:
            raise unknown_server(self.server, self._fleet.configs)
        return config

    def _check_admitted(self, tool: str) -> None:
        if not self._config().tools.admits(tool):
            raise tool_denied(self.server, tool, by=f"[servers.{self.server}]")
        if not self._allow.admits(tool):
            raise tool_denied(self.server, tool, by=self.holder)

    def _refused(self, what: str, error: MCPError) -> CallRefused:
        details = error.error
        return CallRefused(
            f"{what}: {details.message}",
            code=details.code,
            data=details.data,
            hint=f"see its tools and their arguments: sexton servers tools {self.server}",
        )
