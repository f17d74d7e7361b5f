"""The tools of one server, asked for once and again when they have changed."""

from __future__ import annotations

import logging
from typing import Final, final

import anyio
from mcp import ClientSession, MCPError
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost, ToolsListChanged, listen
from mcp_types import METHOD_NOT_FOUND, PaginatedRequestParams, Tool

_log = logging.getLogger(__name__)

_MAX_PAGES: Final = 100
"""A server whose pages never end must not keep us listing."""


@final
class ToolList:
    """What `tools/list` says, kept until `forget`.

    `session` is entered and has done its handshake before `get` is called.
    """

    def __init__(self) -> None:
        self._session: ClientSession | None = None
        self._tools: tuple[Tool, ...] | None = None
        self._version = 0
        self._asking = anyio.Lock()
        self._changed = anyio.Event()

    def ask_through(self, session: ClientSession) -> None:
        """Use `session` from here on."""
        self._session = session

    async def get(self) -> tuple[Tool, ...]:
        """Return all tools.  Several callers at once cause one listing.

        Raises:
            MCPError, ServerDied, CallTimedOut: as for any call.
        """
        if (known := self._tools) is not None:
            return known
        async with self._asking:
            return await self._get_alone()

    def forget(self) -> None:
        """The server has said, or may have, that its tools are others now."""
        self._tools = None
        self._version += 1
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_changed(self) -> None:
        """Wait for the next `forget`."""
        await self._changed.wait()

    async def follow_changes(self) -> None:
        """Listen for changes for as long as a 2026-07-28 server tells of them.  Older ones tell unasked."""
        session = self._session
        assert session is not None
        # Not asked for by `listChanged` in the capabilities: the SDK's servers tell of changes without announcing it.
        offered = session.server_capabilities
        if offered is None:
            return
        tools, prompts, resources = (part is not None for part in (offered.tools, offered.prompts, offered.resources))
        if not (tools or prompts or resources):
            return
        try:
            listening = listen(
                session, tools_list_changed=tools, prompts_list_changed=prompts, resources_list_changed=resources
            )
            async with listening as changes:
                async for change in changes:
                    if isinstance(change, ToolsListChanged):
                        self.forget()
        except (ListenNotSupportedError, MCPError, SubscriptionLost, TimeoutError) as loss:
            _log.debug("not told of changed tools any more: %s", loss)

    async def _get_alone(self) -> tuple[Tool, ...]:
        if (known := self._tools) is not None:
            return known
        version = self._version
        tools = await self._ask()
        if version == self._version:  # else the list changed while we were told
            self._tools = tools
        return tools

    async def _ask(self) -> tuple[Tool, ...]:
        assert self._session is not None
        tools: list[Tool] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            try:
                page = await self._session.list_tools(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:  # a server without tools need not know the request
                    return ()
                raise
            tools += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        return tuple(tools)
