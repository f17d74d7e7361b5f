"""A server made from the SDK: it speaks 2026-07-28, and the older protocols to who asks for them.

Arguments: none for stdio, or `sse PORT`, or `streamable-http PORT`.
"""

from __future__ import annotations

import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel

server = MCPServer("sdk")


class Sum(BaseModel):
    total: int


@server.tool()
async def add(a: int, b: int) -> Sum:
    """Add."""
    return Sum(total=a + b)


@server.tool()
async def count(steps: int, ctx: Context) -> str:
    """Report progress."""
    for step in range(steps):
        await ctx.report_progress(step + 1, steps)
    return f"{steps} steps"


@server.tool()
async def hang(ctx: Context) -> str:
    """Say that it has begun, and never answer."""
    await ctx.report_progress(1, None)
    await anyio.sleep_forever()
    return ""


@server.tool()
async def greet(ctx: Context) -> str | InputRequiredResult:
    """Ask for a name, in the way of 2026-07-28."""
    answer = (ctx.input_responses or {}).get("name")
    if not isinstance(answer, ElicitResult):
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        params = ElicitRequestFormParams(message="who are you?", requested_schema=schema)
        return InputRequiredResult(input_requests={"name": ElicitRequest(params=params)}, request_state="asked")
    return f"hello {(answer.content or {}).get('name')} ({ctx.request_state})"


@server.tool()
async def ask(ctx: Context) -> str:
    """Ask for a name, in the way of the older protocols."""

    class Name(BaseModel):
        name: str

    answer = await ctx.elicit("who are you?", Name)
    return f"hello {answer.data.name}" if answer.action == "accept" else answer.action


@server.tool()
async def grow(ctx: Context) -> str:
    """Get one more tool."""
    server.add_tool(add, name="add_again")
    await ctx.notify_tools_changed()  # to those who listen, in the new way
    await ctx.session.send_tool_list_changed()  # to everybody, in the old way
    return "grown"


if len(sys.argv) > 1:
    kind, port = sys.argv[1:]
    server.run("sse" if kind == "sse" else "streamable-http", port=int(port))
else:
    server.run("stdio")
