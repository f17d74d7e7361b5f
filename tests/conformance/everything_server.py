"""The server that the official conformance suite wants to find, in both protocol eras.

    python everything_server.py http       over Streamable HTTP; prints its address
    python everything_server.py stdio      over stdin and stdout, in the era that the client chooses
    python everything_server.py legacy     the same, but it speaks no protocol newer than 2025-11-25

What it offers is what the scenarios of `@modelcontextprotocol/conformance` say
under "Server Implementation Requirements"; no package has such a server.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import mcp_types as types
import uvicorn
from mcp import MCPError
from mcp.server import NotificationOptions, Server
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

sys.path.insert(0, str(Path(__file__).parent.parent))  # it is started as a program, by whoever

from conformance.input_rounds import LIST_ROOTS, Asking, Document, InputRequired, elicit, sample

Ctx = ServerRequestContext[Any, Any]
Arguments = Mapping[str, Any]

PNG: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
WAV: Final = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
NAME: Final = {"name": {"type": "string"}}
PAUSE: Final = 0.05
"""Seconds between two steps of a tool, as the suite asks for."""
LONG: Final = 3.0
"""Seconds of a call that is longer than the gateway keeps a stream open here."""

bus = InMemorySubscriptionBus()
extras: set[str] = set()
"""What `test_trigger_tool_change` and its like have added to the lists."""


def text(words: str) -> Document:
    return {"type": "text", "text": words}


def resource(uri: str, words: str, mime_type: str = "text/plain") -> Document:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": words}}


IMAGE: Final[Document] = {"type": "image", "data": PNG, "mimeType": "image/png"}


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: `run` returns its content."""

    does: str
    run: Callable[[Ctx, Arguments], Awaitable[list[Document]]]
    schema: Document

    def listed(self, name: str) -> Document:
        return {"name": name, "description": self.does, "inputSchema": self.schema}


TOOLS: dict[str, Tool] = {}
NO_ARGUMENTS: Final[Document] = {"type": "object", "properties": {}}
Run = Callable[[Ctx, Arguments], Awaitable[list[Document]]]


def tool(does: str, schema: Document = NO_ARGUMENTS) -> Callable[[Run], Run]:
    """Enter the function into the table of tools, under its own name."""

    def enter(run: Run) -> Run:
        TOOLS[run.__name__] = Tool(does, run, schema)
        return run

    return enter


def strings(*names: str, **extra: Document) -> Document:
    properties = {name: {"type": "string", **extra.get(name, {})} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


# --- content -------------------------------------------------------------------------------------


@tool("Answers with a line of text")
async def test_simple_text(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return [text("This is a simple text response for testing.")]


@tool("Answers with a picture")
async def test_image_content(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return [IMAGE]


@tool("Answers with a sound")
async def test_audio_content(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]


@tool("Answers with a resource")
async def test_embedded_resource(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return [resource("test://embedded-resource", "This is an embedded resource content.")]


@tool("Answers with text, a picture and a resource")
async def test_multiple_content_types(ctx: Ctx, arguments: Arguments) -> list[Document]:
    data = json.dumps({"test": "data", "value": 123})
    return [
        text("Multiple content types test:"),
        IMAGE,
        resource("test://mixed-content-resource", data, "application/json"),
    ]


@tool("Fails")
async def test_error_handling(ctx: Ctx, arguments: Arguments) -> list[Document]:
    raise ToolFailed("This tool intentionally returns an error for testing")


@tool(
    "Repeats its argument, which the client also says in a header", strings("region", region={"x-mcp-header": "Region"})
)
async def test_header_parameter(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return [text(f"ran in {arguments['region']}")]


@tool(
    "Has a schema with keywords that are easily lost",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema_2020_12_tool(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return [text(json.dumps(dict(arguments)))]


# --- while a call runs -----------------------------------------------------------------------------


async def log(ctx: Ctx, words: str) -> None:
    params = types.LoggingMessageNotificationParams(level="info", data=words)
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and types.LOG_LEVEL_META_KEY not in (ctx.meta or {}):
        return
    await ctx.session.send_notification(types.LoggingMessageNotification(params=params), ctx.request_id)


@tool("Logs three lines")
async def test_tool_with_logging(ctx: Ctx, arguments: Arguments) -> list[Document]:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(ctx, line)
        await anyio.sleep(PAUSE)
    return [text("logged three lines")]


@tool("Logs a line, for who asked for log lines")
async def test_logging_tool(ctx: Ctx, arguments: Arguments) -> list[Document]:
    await log(ctx, "a line of the log")
    return [text("logged a line")]


@tool("Reports progress three times")
async def test_tool_with_progress(ctx: Ctx, arguments: Arguments) -> list[Document]:
    for progress in (0, 50, 100):
        await ctx.session.report_progress(progress, 100, f"{progress} of 100")
        await anyio.sleep(PAUSE)
    return [text("reported progress three times")]


@tool("Closes the stream in mid-call, or lets the gateway do it, so that the client must come back for the answer")
async def test_reconnection(ctx: Ctx, arguments: Arguments) -> list[Document]:
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
        await anyio.sleep(4 * PAUSE)
    else:
        await anyio.sleep(LONG)
    return [text("found again")]


@tool("Changes the list of tools")
async def test_trigger_tool_change(ctx: Ctx, arguments: Arguments) -> list[Document]:
    extras.symmetric_difference_update({"test_dynamic_tool"})
    await bus.publish(ToolsListChanged())
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        await ctx.session.send_tool_list_changed()
    return [text("the list of tools has changed")]


@tool("Changes the list of prompts")
async def test_trigger_prompt_change(ctx: Ctx, arguments: Arguments) -> list[Document]:
    extras.symmetric_difference_update({"test_dynamic_prompt"})
    await bus.publish(PromptsListChanged())
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        await ctx.session.send_prompt_list_changed()
    return [text("the list of prompts has changed")]


async def test_dynamic_tool(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return [text("here for now")]


# --- what is asked of the client -----------------------------------------------------------------


async def ask_one(ctx: Ctx, key: str, request: Document) -> Document:
    return (await Asking.of(ctx).ask({key: request}))[key]


def told(answer: Document) -> str:
    return f"action={answer.get('action')}, content={json.dumps(answer.get('content'))}"


@tool("Asks the client's model", strings("prompt"))
async def test_sampling(ctx: Ctx, arguments: Arguments) -> list[Document]:
    answer = await ask_one(ctx, "sample", sample(arguments["prompt"], 100))
    return [text(f"LLM response: {answer['content']['text']}")]


@tool("Asks the person at the client", strings("message"))
async def test_elicitation(ctx: Ctx, arguments: Arguments) -> list[Document]:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    answer = await ask_one(ctx, "user", elicit(arguments["message"], properties, ["username", "email"]))
    return [text(f"User response: {told(answer)}")]


@tool("Asks for values that have defaults")
async def test_elicitation_sep1034_defaults(ctx: Ctx, arguments: Arguments) -> list[Document]:
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    answer = await ask_one(ctx, "user", elicit("Who are you?", properties, []))
    return [text(f"Elicitation completed: {told(answer)}")]


@tool("Asks for a choice in each of the five forms")
async def test_elicitation_sep1330_enums(ctx: Ctx, arguments: Arguments) -> list[Document]:
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"{nth} Option"} for n, nth in enumerate(("First", "Second", "Third"), 1)]
    properties = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    answer = await ask_one(ctx, "user", elicit("Choose", properties, []))
    return [text(f"Elicitation completed: {told(answer)}")]


@tool("Asks for a name in the stream of the call")
async def test_streaming_elicitation(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return await test_input_required_result_elicitation(ctx, arguments)


@tool("Needs a client that has a model")
async def test_missing_capability(ctx: Ctx, arguments: Arguments) -> list[Document]:
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and "sampling" not in Asking.of(ctx).capabilities:
        data: Document = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs sampling", data)
    return await test_sampling(ctx, {"prompt": "Are you there?"})


@tool("Greets, once it knows whom")
async def test_input_required_result_elicitation(ctx: Ctx, arguments: Arguments) -> list[Document]:
    answer = await ask_one(ctx, "user_name", elicit("What is your name?", NAME, ["name"]))
    return [text(f"Hello, {(answer.get('content') or {}).get('name')}!")]


@tool("Asks the client's model for a capital")
async def test_input_required_result_sampling(ctx: Ctx, arguments: Arguments) -> list[Document]:
    answer = await ask_one(ctx, "capital_question", sample("What is the capital of France?", 100))
    return [text(answer["content"]["text"])]


@tool("Tells the client's roots")
async def test_input_required_result_list_roots(ctx: Ctx, arguments: Arguments) -> list[Document]:
    answer = await ask_one(ctx, "client_roots", LIST_ROOTS)
    return [text(", ".join(root["uri"] for root in answer["roots"]))]


async def confirm(ctx: Ctx) -> list[Document]:
    asking = Asking.of(ctx)
    await asking.ask({"confirm": elicit("Please confirm", {"ok": {"type": "boolean"}}, ["ok"])})
    return [text("state-ok" if asking.is_continued else "the state is lost")]


@tool("Asks to confirm, and remembers that it asked")
async def test_input_required_result_request_state(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return await confirm(ctx)


@tool("The same; what it remembers cannot be changed by the client")
async def test_input_required_result_tampered_state(ctx: Ctx, arguments: Arguments) -> list[Document]:
    return await confirm(ctx)


@tool("Asks for three things at once")
async def test_input_required_result_multiple_inputs(ctx: Ctx, arguments: Arguments) -> list[Document]:
    requests = {
        "user_name": elicit("What is your name?", NAME, ["name"]),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": LIST_ROOTS,
    }
    answers = await Asking.of(ctx).ask(requests)
    return [text(json.dumps(answers))]


@tool("Asks for a name, then for a colour")
async def test_input_required_result_multi_round(ctx: Ctx, arguments: Arguments) -> list[Document]:
    asking = Asking.of(ctx)
    first = await asking.ask({"step1": elicit("Step 1: What is your name?", NAME, ["name"])})
    colour = {"color": {"type": "string"}}
    second = await asking.ask({"step2": elicit("Step 2: What is your favorite color?", colour, ["color"])})
    return [text(f"{told(first['step1'])}; {told(second['step2'])}")]


@tool("Asks for no more than the client can do")
async def test_input_required_result_capabilities(ctx: Ctx, arguments: Arguments) -> list[Document]:
    asking = Asking.of(ctx)
    possible = {"sampling": sample("Say hello", 50), "elicitation": elicit("What is your name?", NAME, ["name"])}
    requests = {key: request for key, request in possible.items() if key in asking.capabilities}
    return [text(json.dumps(await asking.ask(requests)))]


# --- prompts and resources -------------------------------------------------------------------------


def said(*content: Document) -> Document:
    return {"messages": [{"role": "user", "content": each} for each in content]}


PROMPTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "test_simple_prompt": ("A line", ()),
    "test_prompt_with_arguments": ("Repeats its arguments", ("arg1", "arg2")),
    "test_prompt_with_embedded_resource": ("Holds a resource", ("resourceUri",)),
    "test_prompt_with_image": ("Holds a picture", ()),
    "test_input_required_result_prompt": ("Asks for its context first", ()),
    "test_dynamic_prompt": ("Here for now", ()),
}


async def get_prompt(ctx: Ctx, params: types.GetPromptRequestParams) -> Document:
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt" | "test_dynamic_prompt":
            return said(text("This is a simple prompt for testing."))
        case "test_prompt_with_arguments":
            return said(text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'"))
        case "test_prompt_with_embedded_resource":
            held = resource(given.get("resourceUri", ""), "Embedded resource content for testing.")
            return said(held, text("Please process the embedded resource above."))
        case "test_prompt_with_image":
            return said(IMAGE, text("Please analyze the image above."))
        case "test_input_required_result_prompt":
            return await get_prompt_with_context(ctx)
        case unknown:
            raise MCPError(types.INVALID_PARAMS, f"no prompt {unknown!r}")


async def get_prompt_with_context(ctx: Ctx) -> Document:
    question = elicit("What context should the prompt use?", {"context": {"type": "string"}}, ["context"])
    try:
        answer = await ask_one(ctx, "user_context", question)
    except InputRequired as wanted:
        return wanted.result
    return said(text(f"In this context: {told(answer)}"))


async def read_resource(ctx: Ctx, params: types.ReadResourceRequestParams) -> Document:
    before, _, after = params.uri.partition("test://template/")
    if params.uri == "test://static-text":
        held: Document = {"mimeType": "text/plain", "text": "This is the content of the static text resource."}
    elif params.uri == "test://static-binary":
        held = {"mimeType": "image/png", "blob": PNG}
    elif params.uri == "test://watched-resource":
        held = {"mimeType": "text/plain", "text": "Watched resource content"}
    elif not before and (number := after.removesuffix("/data")) != after:
        data = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        held = {"mimeType": "application/json", "text": json.dumps(data)}
    else:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": params.uri})
    return {"contents": [{"uri": params.uri, **held}]}


# --- the server --------------------------------------------------------------------------------------


class ToolFailed(Exception):
    """A tool says that it failed."""


async def call_tool(ctx: Ctx, params: types.CallToolRequestParams) -> Document:
    if params.name not in TOOLS and params.name not in extras:
        raise MCPError(types.INVALID_PARAMS, f"no tool {params.name!r}")
    run = TOOLS[params.name].run if params.name in TOOLS else test_dynamic_tool
    try:
        return {"content": await run(ctx, params.arguments or {})}
    except ToolFailed as failure:
        return {"content": [text(str(failure))], "isError": True}
    except InputRequired as wanted:
        return wanted.result


async def list_tools(ctx: Ctx, params: types.PaginatedRequestParams) -> Document:
    tools = [each.listed(name) for name, each in TOOLS.items()]
    if "test_dynamic_tool" in extras:
        tools.append({"name": "test_dynamic_tool", "description": "Here for now", "inputSchema": NO_ARGUMENTS})
    return {"tools": tools}


async def list_prompts(ctx: Ctx, params: types.PaginatedRequestParams) -> Document:
    here = {name: each for name, each in PROMPTS.items() if name != "test_dynamic_prompt" or name in extras}
    return {
        "prompts": [
            {"name": name, "description": does, "arguments": [{"name": each, "required": True} for each in wanted]}
            for name, (does, wanted) in here.items()
        ]
    }


async def list_resources(ctx: Ctx, params: types.PaginatedRequestParams) -> Document:
    kinds = {"static-text": "text/plain", "static-binary": "image/png", "watched-resource": "text/plain"}
    return {
        "resources": [
            {"uri": f"test://{name}", "name": name, "description": f"The {name}", "mimeType": mime_type}
            for name, mime_type in kinds.items()
        ]
    }


async def list_templates(ctx: Ctx, params: types.PaginatedRequestParams) -> Document:
    template = {"uriTemplate": "test://template/{id}/data", "name": "template", "description": "Data of an id"}
    return {"resourceTemplates": [template]}


async def complete(ctx: Ctx, params: types.CompleteRequestParams) -> Document:
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


async def accept(ctx: Ctx, params: object) -> Document:
    return {}


def input_schema(name: str) -> Document | None:
    return TOOLS[name].schema if name in TOOLS else None


Handler = Callable[[Ctx, Any], Awaitable[Document]]
HANDLERS: Final[dict[str, tuple[type[types.RequestParams], Handler]]] = {
    "tools/call": (types.CallToolRequestParams, call_tool),
    "tools/list": (types.PaginatedRequestParams, list_tools),
    "prompts/get": (types.GetPromptRequestParams, get_prompt),
    "prompts/list": (types.PaginatedRequestParams, list_prompts),
    "resources/read": (types.ReadResourceRequestParams, read_resource),
    "resources/list": (types.PaginatedRequestParams, list_resources),
    "resources/templates/list": (types.PaginatedRequestParams, list_templates),
    "resources/subscribe": (types.SubscribeRequestParams, accept),
    "resources/unsubscribe": (types.UnsubscribeRequestParams, accept),
    "logging/setLevel": (types.SetLevelRequestParams, accept),
    "completion/complete": (types.CompleteRequestParams, complete),
}


def whole(handle: Handler) -> Handler:
    """The SDK adds `resultType` to its models, and wants to find it in documents."""

    async def answer(ctx: Ctx, params: Any) -> Document:
        result = await handle(ctx, params)
        return {"resultType": "complete", **result} if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS else result

    return answer


def create_server() -> Server[Any]:
    """The server, for any transport."""
    cached = ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read")
    server: Server[Any] = Server(
        "conformance",
        version="1.0.0",
        cache_hints={method: CacheHint() for method in cached},  # type: ignore[misc]  # they are CacheableMethods
        get_tool_input_schema=input_schema,
        on_subscriptions_listen=ListenHandler(bus),
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="conformance"))
    for method, (params, handle) in HANDLERS.items():
        server.add_request_handler(method, params, whole(handle))
    return server


class EventLog(EventStore):
    """What was sent on each stream, so that a client can come back for it."""

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: types.JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        last = int(last_event_id)
        stream_id = self._events[last - 1][0]
        for number, (stream, message) in enumerate(self._events[last:], last + 1):
            if stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


def serve_http() -> None:
    app = create_server().streamable_http_app(event_store=EventLog(), retry_interval=100)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # h11 is what the SDK brings; httptools, which we have besides, leaves blanks at the end of header values.
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        uvicorn.Server(uvicorn.Config(app, http="h11", log_level="warning")).run(sockets=[listener])


async def serve_stdio(*, legacy: bool) -> None:
    server = create_server()
    options = server.create_initialization_options(NotificationOptions(prompts_changed=True, tools_changed=True))
    async with stdio_server() as (read, write):
        if legacy:
            await serve_loop(server, read, write, lifespan_state={}, init_options=options)
        else:
            await server.run(read, write, options)


if __name__ == "__main__":
    if sys.argv[1] == "http":
        serve_http()
    else:
        anyio.run(lambda: serve_stdio(legacy=sys.argv[1] == "legacy"))
