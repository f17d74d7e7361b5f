"""What the pool needs from one started server; `ServerProcess` and `RemoteServer` fulfil it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
from mcp_types import Tool

from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.holder_session import HolderSession
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.list_news import ListNews
from sexton.mcp_servers.server_config import ServerConfig
from sexton.mcp_servers.server_errors import ConnectionEnd


class RunningServer(Protocol):
    """A server that has completed its handshake."""

    @property
    def pid(self) -> int | None:
        """The process that was started; None for a server that we do not run."""
        ...

    @property
    def calls(self) -> int:
        """How many tool calls were sent to it so far."""
        ...

    @property
    def introduction(self) -> Introduction:
        """What it said of itself in the handshake."""
        ...

    @property
    def news(self) -> ListNews:
        """Tells which of its lists have changed."""
        ...

    @property
    def probe_unwelcome(self) -> bool:
        """Whether it is better not asked `server/discover` when it is next started."""
        ...

    def connect(self, holder: str, callbacks: Callbacks = ...) -> AbstractAsyncContextManager[HolderSession]:
        """Connect one holder.  Raises ServerDied when the server has ended."""
        ...

    async def list_tools(self) -> tuple[Tool, ...]:
        """Return all its tools, as known at this moment.  Raises ServerDied, MCPError, CallTimedOut."""
        ...

    async def wait_tools_changed(self) -> None:
        """Return when the server says that its list of tools changed."""
        ...

    @property
    def ended(self) -> anyio.Event:
        """Set as soon as the connection is over."""
        ...

    @property
    def end(self) -> ConnectionEnd | None:
        """How it ended; None before `ended` is set."""
        ...


OpenServer = Callable[[ServerConfig], AbstractAsyncContextManager[RunningServer]]
"""Starts a server and completes the handshake; leaving it ends the server and proves that nothing of it is left.

Entering raises SextonError when that fails, within `connect_timeout`, and then too nothing is left.
"""
