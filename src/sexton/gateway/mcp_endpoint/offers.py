"""What the servers of a view offer, as one server would.

Tools come from the pool's catalogue, so that listing them starts nothing.
Prompts, resources and templates are asked of a server that runs, remembered,
and answered from memory while it does not run.  In a view of several servers
one that cannot be started is left out of a list, and the others are shown.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar, final

import anyio
from mcp import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, Tool

from sexton.errors import SextonError
from sexton.gateway.mcp_endpoint.exchange import Exchange
from sexton.gateway.mcp_endpoint.view import View, is_changed
from sexton.gateway.mcp_endpoint.wire import rpc_error
from sexton.mcp_servers import Introduction, ServerPool, Sharing

_log = logging.getLogger(__name__)

_MAX_PAGES: Final = 100
_KINDS: Final = {
    "prompts/list": ("prompts", "prompts"),
    "resources/list": ("resources", "resources"),
    "resources/templates/list": ("resources", "resourceTemplates"),
}
"""The method of a list, the capability that a server needs for it, and the member of the result."""

_EXPRESSION: Final = re.compile(r"\{[^}]*\}")

T = TypeVar("T")
Raw = dict[str, Any]


@final
class Offers:
    """Lists over all servers of a view, and which server a name or address belongs to."""

    def __init__(self, pool: ServerPool) -> None:
        self._pool = pool
        self._lists: dict[tuple[str, str], list[Raw]] = {}
        self._dumps: dict[str, tuple[tuple[Tool, ...], list[Raw]]] = {}

    def forget(self, server: str, notification: str) -> None:
        """One of the server's lists has changed."""
        kind = notification.removeprefix("notifications/").removesuffix("/list_changed")
        for method, (capability, _) in _KINDS.items():
            if capability == kind:
                self._lists.pop((server, method), None)

    async def introduction(self, server: str) -> Introduction:
        """Return what a server said of itself; one that was never started is.  Raises MCPError."""
        try:
            return await self._pool.introduction(server)
        except SextonError as error:
            raise rpc_error(error) from error

    # Tools

    async def tools(self, view: View) -> list[Raw]:
        """Return the tools of a view under the names that it shows."""

        async def of(server: str) -> list[Raw]:
            return [
                tool if view.single else {**tool, "name": view.shown(server, tool["name"])}
                for tool in await self._tools_of(view, server)
            ]

        return _without_doubles(await self._gather(view, of))

    async def find_tool(self, view: View, name: str) -> tuple[str, str]:
        """Return the server and its own name of a tool.  Raises MCPError if the view has none of that name."""
        # A name that had to be changed ends in a hash, and looks like one that had not.
        found = self._shown_tool(view, name) if is_changed(name) else None
        found = found or view.split(name)
        if found is None or not view.admits(*found):
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {name}")
        return found

    def schema_of(self, server: str, tool: str) -> Raw | None:
        """Return a tool's input schema, if it is known."""
        known = self._pool.known_tools(server)
        return next((each.input_schema for each in known or () if each.name == tool), None)

    def may_change(self, server: str, tool: str) -> bool:
        """Say whether a tool may change something: all may but those that are declared to be read-only."""
        known = next((each for each in self._pool.known_tools(server) or () if each.name == tool), None)
        return known is None or known.annotations is None or not known.annotations.read_only_hint

    def _shown_tool(self, view: View, name: str) -> tuple[str, str] | None:
        for server in view.servers:
            for tool in self._pool.known_tools(server) or ():
                if view.shown(server, tool.name) == name:
                    return server, tool.name
        return None

    async def _tools_of(self, view: View, server: str) -> list[Raw]:
        try:
            tools = await self._pool.tools(server)
        except SextonError as error:
            raise rpc_error(error) from error
        return [raw for raw in self._dump(server, tools) if view.admits(server, raw["name"])]

    def _dump(self, server: str, tools: tuple[Tool, ...]) -> list[Raw]:
        known = self._dumps.get(server)
        if known is None or known[0] != tools:
            dumped = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
            known = self._dumps[server] = (tools, dumped)
        return known[1]

    # Prompts and resources

    async def prompts(self, exchange: Exchange) -> list[Raw]:
        """Return the prompts of a view under the names that it shows."""
        view = exchange.view

        async def of(server: str) -> list[Raw]:
            listed = await self._list(exchange, server, "prompts/list")
            return [
                {**prompt, "name": view.shown(server, prompt["name"])}
                for prompt in listed
                if view.admits_prompt(server, prompt["name"])
            ]

        return _without_doubles(await self._gather(view, of))

    async def resources(self, exchange: Exchange) -> list[Raw]:
        """Return the resources of a view; their addresses are those of the servers."""
        return await self._addresses(exchange, "resources/list", "uri")

    async def templates(self, exchange: Exchange) -> list[Raw]:
        """Return the resource templates of a view."""
        return await self._addresses(exchange, "resources/templates/list", "uriTemplate")

    async def _addresses(self, exchange: Exchange, method: str, member: str) -> list[Raw]:
        listed = await self._gather(exchange.view, lambda server: self._list(exchange, server, method))
        return [each for each in listed if exchange.view.admits_resource(str(each.get(member)))]

    async def find_prompt(self, exchange: Exchange, name: str) -> tuple[str, str]:
        """Return the server and its own name of a prompt.  Raises MCPError."""
        view = exchange.view
        found = self._shown_prompt(view, name)
        if found is None and is_changed(name):
            await self.prompts(exchange)
            found = self._shown_prompt(view, name)
        found = found or view.split(name)
        if found is None or not view.admits_prompt(*found):
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {name}")
        return found

    async def find_resource(self, exchange: Exchange, uri: str) -> Sequence[str]:
        """Return the servers that may have a resource: the one that lists it, or whose template it fits, else all.

        Raises MCPError if the view does not have it.
        """
        if not exchange.view.admits_resource(uri):
            raise MCPError(INVALID_PARAMS, f"Resource not found: {uri}", {"uri": uri})
        if exchange.view.single:
            return exchange.view.servers
        owner = self._owner(exchange.view, uri)
        if owner is None:
            await self.resources(exchange)
            await self.templates(exchange)
            owner = self._owner(exchange.view, uri)
        return (owner,) if owner is not None else await self._with(exchange.view, "resources")

    def _shown_prompt(self, view: View, name: str) -> tuple[str, str] | None:
        for server in view.servers:
            for prompt in self._lists.get((server, "prompts/list"), ()):
                if view.shown(server, prompt["name"]) == name:
                    return server, prompt["name"]
        return None

    def _owner(self, view: View, uri: str) -> str | None:
        for server in view.servers:
            if any(each.get("uri") == uri for each in self._lists.get((server, "resources/list"), ())):
                return server
        for server in view.servers:
            templates = self._lists.get((server, "resources/templates/list"), ())
            if any(fits(uri, str(each.get("uriTemplate"))) for each in templates):
                return server
        return None

    async def _with(self, view: View, capability: str) -> list[str]:
        async def of(server: str) -> list[str]:
            return [server] if (await self.introduction(server)).has(capability) else []

        return await self._gather(view, of)

    async def _list(self, exchange: Exchange, server: str, method: str) -> list[Raw]:
        capability, member = _KINDS[method]
        if not (await self.introduction(server)).has(capability):
            return []
        known = self._lists.get((server, method))
        if known is not None and not self._costs_nothing(server):
            return known
        listed: list[Raw] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            try:
                page = await exchange.forward(server, method, {"cursor": cursor} if cursor else {})
            except MCPError as error:
                if error.code != METHOD_NOT_FOUND:
                    raise
                break
            listed += page.get(member) or []
            cursor = page.get("nextCursor")
            if not cursor:
                break
        self._lists[server, method] = listed
        return listed

    def _costs_nothing(self, server: str) -> bool:
        """Say whether asking the server starts no process."""
        return self._pool.is_running(server) and self._pool.config(server).sharing is Sharing.SHARED

    async def _gather(self, view: View, of: Callable[[str], Awaitable[list[T]]]) -> list[T]:
        """Ask all servers at once and put their answers in the order of the view."""
        if view.single:
            return await of(view.single)
        answers: dict[str, list[T]] = {}

        async def ask(server: str) -> None:
            try:
                answers[server] = await of(server)
            except MCPError as error:
                _log.info("server %r is left out of a list: %s", server, error)

        async with anyio.create_task_group() as tasks:
            for server in view.servers:
                tasks.start_soon(ask, server)
        return [each for server in view.servers for each in answers.get(server, ())]


def fits(uri: str, template: str) -> bool:
    """Say whether `uri` may have come of a URI template (RFC 6570): each expression stands for some text."""
    parts = map(re.escape, _EXPRESSION.split(template))
    return re.fullmatch(".*".join(parts), uri, re.DOTALL) is not None


def _without_doubles(items: Iterable[Raw]) -> list[Raw]:
    """Keep the first of each name: a server that lists one twice must not spoil the list."""
    return list({item["name"]: item for item in reversed(list(items))}.values())[::-1]
