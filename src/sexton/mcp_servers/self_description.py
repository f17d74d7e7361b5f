"""What a server says of itself, however it is reached: who it is, which tools it has, which lists have changed."""

from __future__ import annotations

import anyio.abc
from mcp_types import Tool

from sexton.mcp_servers.holder_session import HolderSession
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.list_news import TOOLS_CHANGED, ListNews
from sexton.mcp_servers.output_schemas import OutputSchemas
from sexton.mcp_servers.tool_list import ToolList


class SelfDescription:
    """The part of a connected server that its catalogue is made of."""

    def __init__(self, server: str) -> None:
        self.news = ListNews()
        """Which of its lists have changed."""
        self.probe_unwelcome = False
        """Whether it died of `server/discover`, or did not answer it."""
        self._introduction: Introduction | None = None
        self._tools = ToolList()
        self._schemas = OutputSchemas(server, self._tools.get)

    @property
    def introduction(self) -> Introduction:
        """What the server said of itself in the handshake, which is done."""
        assert self._introduction is not None
        return self._introduction

    async def list_tools(self) -> tuple[Tool, ...]:
        """Return all tools of the server; asked once, and again after it said that they changed.

        Raises:
            MCPError, ServerDied, CallTimedOut: as for any call.
        """
        return await self._tools.get()

    async def wait_tools_changed(self) -> None:
        """Wait until the server says that its list of tools has changed."""
        await self._tools.wait_changed()

    def _introduced(self, control: HolderSession, tasks: anyio.abc.TaskGroup) -> None:
        """The handshake of `control` is done, which is asked for the tools from here on."""
        self._introduction = Introduction.of(control)
        self._tools.ask_through(control)
        if self._introduction.is_modern:
            tasks.start_soon(self._tools.follow_changes)

    def _on_list_changed(self, method: str) -> None:
        if method == TOOLS_CHANGED:
            self._tools.forget()
        self.news.tell(method)
