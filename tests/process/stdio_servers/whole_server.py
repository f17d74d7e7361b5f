"""A server with everything that a client can use, made from the SDK; it speaks the era that it is asked for.

Arguments: none for stdio, or `streamable-http PORT`.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field

server = MCPServer("whole", instructions="Use it wholly.")
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class Name(BaseModel):
    name: str


@server.tool()
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def near(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that a 2026-07-28 client repeats in a header."""
    return f"near {region}"


@server.tool(name="a.b")
async def dotted() -> str:
    """A tool whose name no model provider takes."""
    return "dotted"


@server.tool()
async def count(steps: int, ctx: Context) -> str:
    """Report progress."""
    for step in range(steps):
        await ctx.report_progress(step + 1, steps)
    return f"{steps} steps"


@server.tool()
async def talk(ctx: Context) -> str:
    """Write to the log."""
    await ctx.log("warning", "a word")
    return "talked"


@server.tool()
async def fail() -> str:
    """Fail."""
    raise ValueError("it failed")


@server.tool()
async def ask_old(ctx: Context) -> str:
    """Ask in the way of the handshake era: three questions, one after the other."""
    answer = await ctx.elicit("who are you?", Name)
    named = answer.data.name if answer.action == "accept" else answer.action
    thought = await ctx.session.create_message([_message("think")], max_tokens=5)
    assert isinstance(thought.content, TextContent)
    roots = await ctx.session.list_roots()
    return json.dumps([named, thought.content.text, [str(root.uri) for root in roots.roots]])


@server.tool()
async def ask_new(ctx: Context) -> str | InputRequiredResult:
    """Ask in the way of 2026-07-28: all at once, and go on when the client comes back."""
    answers = ctx.input_responses or {}
    if ctx.request_state is None:
        return InputRequiredResult(
            input_requests={
                "name": ElicitRequest(params=ElicitRequestFormParams(message="who are you?", requested_schema=NAME)),
                "thought": CreateMessageRequest(
                    params=CreateMessageRequestParams(messages=[_message("think")], max_tokens=5)
                ),
                "roots": ListRootsRequest(),
            },
            request_state="asked",
        )
    name, thought, roots = answers["name"], answers["thought"], answers["roots"]
    assert isinstance(name, ElicitResult)
    assert isinstance(thought, CreateMessageResult)
    assert isinstance(thought.content, TextContent)
    assert isinstance(roots, ListRootsResult)
    return json.dumps([(name.content or {}).get("name"), thought.content.text, [str(each.uri) for each in roots.roots]])


@server.tool()
async def grow(ctx: Context) -> str:
    """Get one more tool, and say so in both ways."""
    server.add_tool(add, name="add_again")
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()
    return "grown"


@server.tool()
async def change(uri: str, ctx: Context) -> str:
    """Say in both ways that a resource has changed."""
    await ctx.notify_resource_updated(uri)
    await ctx.session.send_resource_updated(uri)
    return "changed"


@server.prompt()
async def poem(about: str) -> str:
    """A poem."""
    return f"a poem about {about}"


@server.prompt(name="a.name with blanks")
async def oddly_named() -> str:
    """A prompt whose name no model provider takes."""
    return "odd"


@server.resource("note://one")
async def one() -> str:
    """A note."""
    return "first"


@server.resource("page://{number}")
async def page(number: str) -> str:
    """A page."""
    return f"page {number}"


@server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
async def complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion | None:
    """Complete what the prompt or template asks for."""
    del context
    kind = "prompt" if isinstance(ref, PromptReference) else "template"
    return Completion(values=[f"{kind} {argument.value}x"])


def _message(text: str) -> SamplingMessage:
    return SamplingMessage(role="user", content=TextContent(type="text", text=text))


if len(sys.argv) > 1:
    server.run("streamable-http", port=int(sys.argv[2]))
else:
    server.run("stdio")
