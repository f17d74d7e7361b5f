"""The client of the SDK, or (with `fastmcp` as the first argument) that of fastmcp, through the steps of the test.

    python sdk_client.py sdk|fastmcp PLAN

PLAN is JSON: `server` as clients are configured (`url` and `headers`, or
`command`, `args` and `env`), and `mode`.  Each step is a line of JSON on
standard output; the last one leaves a call under way and waits to be killed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
CallTool = Callable[[str, dict[str, Any], Progress | None], Awaitable[Any]]


def say(**step: Any) -> None:
    print(json.dumps(step), flush=True)


async def walk(tools: list[str], call_tool: CallTool) -> None:
    """Everything that the test wants to see."""
    say(tools=tools)
    answer = await call_tool("time__get_current_time", {"timezone": "UTC"}, None)
    say(answer=answer.content[0].text)
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    answer = await call_tool(LONG, {"duration": 0.4, "steps": 2}, hear)
    say(answer=answer.content[0].text, progress=heard)
    with anyio.CancelScope() as scope:

        async def stop(progress: float, total: float | None, message: str | None) -> None:
            scope.cancel()

        await call_tool(LONG, ENDLESS, stop)
    say(cancelled=scope.cancelled_caught)

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        say(running=progress)

    await call_tool(LONG, ENDLESS, tell)


LONG = "everything__trigger-long-running-operation"
ENDLESS = {"duration": 600, "steps": 3000}


@asynccontextmanager
async def sdk(server: Mapping[str, Any], mode: str) -> AsyncIterator[Any]:
    import httpx2
    from mcp import Client, StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client

    if "url" not in server:
        async with Client(StdioServerParameters(**server), mode=mode) as client:
            yield client
        return
    async with (
        httpx2.AsyncClient(headers=server["headers"], timeout=60) as http,
        Client(streamable_http_client(server["url"], http_client=http), mode=mode) as client,
    ):
        yield client


@asynccontextmanager
async def fastmcp(server: Mapping[str, Any], mode: str) -> AsyncIterator[Any]:
    from fastmcp import Client  # type: ignore[import-not-found]  # installed beside us, not with us

    async with Client({"mcpServers": {"sexton": dict(server)}}, mode=mode) as client:
        yield client


async def main() -> None:
    library, plan = sys.argv[1], json.loads(sys.argv[2])
    if library == "sdk":
        async with sdk(plan["server"], plan["mode"]) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            await walk(tools, lambda name, arguments, hear: client.call_tool(name, arguments, progress_callback=hear))
    else:
        async with fastmcp(plan["server"], plan["mode"]) as client:
            tools = [tool.name for tool in await client.list_tools()]
            await walk(tools, lambda name, arguments, hear: client.call_tool(name, arguments, progress_handler=hear))


if __name__ == "__main__":
    anyio.run(main)
