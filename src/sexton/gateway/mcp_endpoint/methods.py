"""What each request of a client is answered with, in either era."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from mcp import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND

import sexton
from sexton.gateway.mcp_endpoint.endpoint_settings import EndpointSettings
from sexton.gateway.mcp_endpoint.exchange import Exchange
from sexton.gateway.mcp_endpoint.offers import Offers
from sexton.gateway.mcp_endpoint.search import CALL_TOOL, DEFAULT_LIMIT, MAX_LIMIT, SEARCH_TOOL, STAND_INS, search
from sexton.gateway.mcp_endpoint.view import View
from sexton.gateway.mcp_endpoint.wire import Params, text_param

SEXTON: Final = {"name": "sexton", "title": "Sexton", "version": sexton.__version__}
EVERYTHING: Final = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "completions": {},
    "logging": {},
}

Answer: TypeAlias = Callable[["Methods", Exchange, Params | None], Awaitable[dict[str, Any]]]


class Methods:
    """Answers requests; what needs a server goes to it through the exchange."""

    def __init__(self, offers: Offers, settings: EndpointSettings) -> None:
        self._offers = offers
        self._settings = settings

    async def answer(self, exchange: Exchange, method: str, params: Params | None) -> dict[str, Any]:
        """Answer one request.  Raises MCPError, and METHOD_NOT_FOUND for what neither era has."""
        handler = _METHODS.get(method)
        if handler is None:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", method)
        return await handler(self, exchange, params)

    async def introduce(self, view: View) -> dict[str, Any]:
        """Return what the endpoint says of itself: `serverInfo`, `capabilities`, and `instructions` if there are any.

        One server speaks for itself; several are introduced as Sexton, which then has whatever any of them may have.
        """
        if view.single is None:
            return {"serverInfo": SEXTON, "capabilities": EVERYTHING, "instructions": _instructions(view)}
        introduction = await self._offers.introduction(view.single)
        said = introduction.as_document()
        capabilities = {name: said["capabilities"][name] for name in EVERYTHING if name in said["capabilities"]}
        for name in ("tools", "prompts", "resources"):
            if name in capabilities:
                capabilities[name] = {**capabilities[name], "listChanged": True}
        if introduction.is_modern and "resources" in capabilities:
            capabilities["resources"]["subscribe"] = True
        document = {"serverInfo": said["serverInfo"] or SEXTON, "capabilities": capabilities}
        return {**document, "instructions": said["instructions"]} if said["instructions"] else document

    # Tools

    async def list_tools(self, exchange: Exchange, _: Params | None) -> dict[str, Any]:
        tools = await self._offers.tools(exchange.view)
        return {"tools": list(STAND_INS) if len(tools) > self._settings.search_above else tools}

    async def call_tool(self, exchange: Exchange, params: Params | None) -> dict[str, Any]:
        name = text_param(params, "name")
        assert params is not None
        if name in (SEARCH_TOOL, CALL_TOOL):
            tools = await self._offers.tools(exchange.view)
            if len(tools) > self._settings.search_above and all(tool["name"] != name for tool in tools):
                arguments = _arguments(params)
                if name == SEARCH_TOOL:
                    return _found(tools, arguments)
                name = text_param(arguments, "name")
                params = {**params, "arguments": arguments.get("arguments") or {}}
        server, tool = await self._offers.find_tool(exchange.view, name)
        return await exchange.forward(server, "tools/call", {**params, "name": tool})

    # Prompts and completion

    async def list_prompts(self, exchange: Exchange, params: Params | None) -> dict[str, Any]:
        if exchange.view.single:
            return await exchange.forward(exchange.view.single, "prompts/list", params)
        return {"prompts": await self._offers.prompts(exchange)}

    async def get_prompt(self, exchange: Exchange, params: Params | None) -> dict[str, Any]:
        server, prompt = await self._offers.find_prompt(exchange, text_param(params, "name"))
        return await exchange.forward(server, "prompts/get", {**(params or {}), "name": prompt})

    async def complete(self, exchange: Exchange, params: Params | None) -> dict[str, Any]:
        asked = dict(params or {})
        match asked.get("ref"):
            case {"type": "ref/prompt", "name": str(name)}:
                server, prompt = await self._offers.find_prompt(exchange, name)
                asked["ref"] = {**asked["ref"], "name": prompt}
            case {"type": "ref/resource", "uri": str(uri)}:
                servers = await self._offers.find_resource(exchange, uri)
                if not servers:
                    raise MCPError(INVALID_PARAMS, f"Resource not found: {uri}")
                server = servers[0]
            case _:
                raise MCPError(INVALID_PARAMS, "Invalid params: ref must name a prompt or a resource")
        return await exchange.forward(server, "completion/complete", asked)

    # Resources

    async def list_resources(self, exchange: Exchange, params: Params | None) -> dict[str, Any]:
        if exchange.view.single:
            return await exchange.forward(exchange.view.single, "resources/list", params)
        return {"resources": await self._offers.resources(exchange)}

    async def list_templates(self, exchange: Exchange, params: Params | None) -> dict[str, Any]:
        if exchange.view.single:
            return await exchange.forward(exchange.view.single, "resources/templates/list", params)
        return {"resourceTemplates": await self._offers.templates(exchange)}

    async def read_resource(self, exchange: Exchange, params: Params | None) -> dict[str, Any]:
        uri = text_param(params, "uri")
        refusal = MCPError(INVALID_PARAMS, f"Resource not found: {uri}", {"uri": uri})
        for server in await self._offers.find_resource(exchange, uri):
            try:
                return await exchange.forward(server, "resources/read", params)
            except MCPError as error:
                refusal = error
        raise refusal


_METHODS: Final[Mapping[str, Answer]] = {
    "tools/list": Methods.list_tools,
    "tools/call": Methods.call_tool,
    "prompts/list": Methods.list_prompts,
    "prompts/get": Methods.get_prompt,
    "completion/complete": Methods.complete,
    "resources/list": Methods.list_resources,
    "resources/templates/list": Methods.list_templates,
    "resources/read": Methods.read_resource,
}


def _instructions(view: View) -> str:
    names = ", ".join(view.servers) or "none yet"
    return f"Tools and prompts of several MCP servers ({names}), each named server__name."


def _arguments(params: Params) -> Mapping[str, Any]:
    arguments = params.get("arguments") or {}
    if not isinstance(arguments, Mapping):
        raise MCPError(INVALID_PARAMS, "Invalid params: arguments must be an object")
    return arguments


def _found(tools: list[dict[str, Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    query, limit = text_param(arguments, "query"), arguments.get("limit", DEFAULT_LIMIT)
    if not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise MCPError(INVALID_PARAMS, f"Invalid params: limit must be a whole number from 1 to {MAX_LIMIT}")
    shown = [
        {name: tool[name] for name in ("name", "title", "description", "inputSchema") if name in tool}
        for tool in search(tools, query, limit)
    ]
    found = {"tools": shown, "of": len(tools)}
    return {"content": [{"type": "text", "text": json.dumps(found, ensure_ascii=False)}], "structuredContent": found}
