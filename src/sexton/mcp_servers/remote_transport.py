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

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, final

import anyio
import anyio.abc
from mcp import MCPError

from sexton.errors import SextonError
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.holder_session import HolderSession
from sexton.mcp_servers.remote_link import RemoteLink
from sexton.mcp_servers.self_description import SelfDescription
from sexton.mcp_servers.server_config import ServerConfig
from sexton.mcp_servers.server_errors import (
    ConnectionEnd,
)

_log = logging.getLogger(__name__)

_NOBODY = Callbacks()


@final
class RemoteServer(SelfDescription):
    """A server reached over HTTP, in the shape of a `ServerProcess`.  Made by `open`."""

    pid: Final = None
    last_words: Final = ""

    def __init__(self, config: ServerConfig, tasks: anyio.abc.TaskGroup) -> None:
        super().__init__(config.name)
        self.config = config
        self.ended = anyio.Event()
        self.end: ConnectionEnd | None = None
        self._tasks = tasks
        self._links: list[RemoteLink] = []
        self._calls_of_the_past = 0
        self._control: HolderSession | None = None

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
                    server._begin(control)
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
            assert self._control is not None
            session.listed_by(self._control)
            yield session

    @property
    def holders(self) -> tuple[str, ...]:
        """Who is connected."""
        return tuple(link.holder for link in self._links if link.is_holder)

    @property
    def calls(self) -> int:
        """How many tool calls were made."""
        return self._calls_of_the_past + sum(link.tool_calls for link in self._links)

    def _begin(self, control: HolderSession) -> None:
        self._control = control
        self._introduced(control, self._tasks)

    def _finish(self, what: str) -> None:
        if self.end is None:
            self.end = ConnectionEnd(server=self.config.name, what=what)
            self.ended.set()

    @asynccontextmanager
    async def _linked(self, holder: str, callbacks: Callbacks, *, is_holder: bool) -> AsyncIterator[HolderSession]:
        link = RemoteLink(
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

    def _advised(self) -> ServerConfig:
        """What we know of the server by now, it need not be asked again."""
        return replace(self.config, protocol="legacy") if self.probe_unwelcome else self.config

    async def _keep(self, link: RemoteLink) -> None:
        await link.run()
        if not link.is_holder:
            self._finish(link.trouble or "closed the connection")

    def _take_loss(self, link: RemoteLink, *, reachable: bool) -> None:
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
