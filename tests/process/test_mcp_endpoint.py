"""The endpoint between real clients and real servers of both eras."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.session import ClientRequestContext
from mcp_types import (
    CallToolResult,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    ListRootsResult,
    LoggingMessageNotificationParams,
    PromptReference,
    ResourceTemplateReference,
    Root,
    TextContent,
    TextResourceContents,
)

from process.endpoint_bench import ERAS, PROGRAMS, EndpointBench, config, endpoint_bench
from process.programs import MARK
from sexton.mcp_servers import HttpServer, ServerConfig
from waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]

FRONT = pytest.mark.parametrize("front", ERAS)
BEHIND = pytest.mark.parametrize("behind", ERAS)


def text_of(result: CallToolResult) -> str:
    assert isinstance(result, CallToolResult)
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def elicited(_: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    assert params.message == "who are you?"
    return ElicitResult(action="accept", content={"name": "ada"})


async def sampled(_: ClientRequestContext, params: CreateMessageRequestParams) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="a thought"), model="m")


async def rooted(_: ClientRequestContext) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri="file:///home")])  # type: ignore[arg-type]


ANSWERS: dict[str, Any] = {
    "elicitation_callback": elicited,
    "sampling_callback": sampled,
    "list_roots_callback": rooted,
}


@FRONT
@BEHIND
async def test_a_client_of_either_era_uses_a_server_of_either_era(tmp_path: Path, front: str, behind: str) -> None:
    """Everything that a client asks for, over one start of the server."""
    whole = config("whole", "whole_server", tmp_path, protocol=behind)
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, whole, raw) as bench:
        said: list[dict[str, Any]] = []
        async with bench.client(front, logging_callback=logged(said), log_level="info") as client:
            await check_tools(client, "whole__")
            await check_the_rest(client, "whole__")
            assert [each["data"] for each in said] == ["a word"]
            assert text_of(await client.call_tool("raw__echo", {"text": "hi"})) == "hi"
            with pytest.raises(MCPError, match="Unknown tool: nobody__add"):
                await client.call_tool("nobody__add", {})
        async with bench.client(front, "/whole") as client:
            assert client.server_info is not None
            assert (client.server_info.name, client.instructions) == ("whole", "Use it wholly.")
            await check_tools(client, "")
            await check_the_rest(client, "")


def logged(said: list[dict[str, Any]]) -> Any:
    async def hear(params: LoggingMessageNotificationParams) -> None:
        said.append(params.model_dump())

    return hear


async def check_tools(client: Client, prefix: str) -> None:
    names = [tool.name for tool in (await client.list_tools()).tools]
    assert {f"{prefix}add", f"{prefix}count"} <= set(names)
    [dotted] = [name for name in names if name.startswith((f"{prefix}a.b", f"{prefix}a_b"))]
    assert text_of(await client.call_tool(dotted, {})) == "dotted"
    result = await client.call_tool(f"{prefix}add", {"a": 1, "b": 2})
    assert (text_of(result), result.structured_content) == ("3", {"result": 3})
    assert (await client.call_tool(f"{prefix}fail", {})).is_error
    assert text_of(await client.call_tool(f"{prefix}near", {"region": "Zürich"})) == "near Zürich"
    steps: list[tuple[float, float | None]] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total))

    assert text_of(await client.call_tool(f"{prefix}count", {"steps": 3}, progress_callback=progress)) == "3 steps"
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert text_of(await client.call_tool(f"{prefix}talk", {})) == "talked"


async def check_the_rest(client: Client, prefix: str) -> None:
    prompt, odd = (await client.list_prompts()).prompts
    assert prompt.name == f"{prefix}poem"
    [message] = (await client.get_prompt(odd.name)).messages
    assert isinstance(message.content, TextContent)
    assert message.content.text == "odd"
    [message] = (await client.get_prompt(f"{prefix}poem", {"about": "rain"})).messages
    assert isinstance(message.content, TextContent)
    assert message.content.text == "a poem about rain"
    assert [str(each.uri) for each in (await client.list_resources()).resources] == ["note://one"]
    templates = (await client.list_resource_templates()).resource_templates
    assert [each.uri_template for each in templates] == ["page://{number}"]
    for uri, text in (("note://one", "first"), ("page://7", "page 7")):
        [content] = (await client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        assert content.text == text
    with pytest.raises(MCPError):
        await client.read_resource("nothing://here")
    completed = await client.complete(
        PromptReference(type="ref/prompt", name=f"{prefix}poem"), {"name": "about", "value": "ra"}
    )
    assert completed.completion.values == ["prompt rax"]
    completed = await client.complete(
        ResourceTemplateReference(type="ref/resource", uri="page://{number}"), {"name": "number", "value": "7"}
    )
    assert completed.completion.values == ["template 7x"]


@FRONT
@BEHIND
async def test_what_a_server_asks_reaches_the_client_that_caused_it(tmp_path: Path, front: str, behind: str) -> None:
    whole = config("whole", "whole_server", tmp_path, protocol=behind)
    tool = "whole__ask_old" if behind == "legacy" else "whole__ask_new"
    async with endpoint_bench(tmp_path, whole) as bench:
        async with bench.client(front, **ANSWERS) as client:
            answer = text_of(await client.call_tool(tool, {}))
            assert json.loads(answer) == ["ada", "a thought", ["file:///home"]]
        assert len(bench.endpoint.core.parked) == 0


@FRONT
@BEHIND
async def test_a_server_that_somebody_else_runs_is_used_in_the_same_way(
    tmp_path: Path, front: str, behind: str
) -> None:
    with far_server(tmp_path) as url:
        far = ServerConfig(name="far", transport=HttpServer(url=url), protocol=behind, call_timeout=PATIENCE)  # type: ignore[arg-type]
        tool = "far__ask_old" if behind == "legacy" else "far__ask_new"
        async with endpoint_bench(tmp_path, far) as bench:
            await wait_until(lambda: listens(url), seconds=PATIENCE)
            async with bench.client(front, **ANSWERS) as client:
                await check_tools(client, "far__")
                await check_the_rest(client, "far__")
                answer = text_of(await client.call_tool(tool, {}))
                assert json.loads(answer) == ["ada", "a thought", ["file:///home"]]


@contextmanager
def far_server(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, str(PROGRAMS / "whole_server.py"), "streamable-http", str(port)]
    program = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, MARK: str(folder)})
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        program.kill()
        program.wait()


def listens(url: str) -> bool:
    port = int(url.split(":")[2].split("/", maxsplit=1)[0])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@FRONT
async def test_a_client_that_cannot_answer_declines(tmp_path: Path, front: str) -> None:
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, raw) as bench, bench.client(front) as client:
        for method, answer in (("elicitation/create", {"action": "decline"}), ("roots/list", {"roots": []})):
            assert json.loads(text_of(await client.call_tool("raw__ask", {"method": method}))) == answer
        refused = json.loads(text_of(await client.call_tool("raw__ask", {"method": "sampling/createMessage"})))
        assert "the caller cannot answer it" in refused["message"]


@FRONT
async def test_a_cancelled_call_is_cancelled_at_the_server_and_no_other(tmp_path: Path, front: str) -> None:
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, raw) as bench, bench.client(front) as client, bench.client(front) as other:
        async with anyio.create_task_group() as tasks:
            results: list[str] = []

            async def stay() -> None:
                results.append(text_of(await other.call_tool("raw__sleep", {"seconds": 1.5, "text": "stayed"})))

            tasks.start_soon(stay)
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel_when_called, bench, scope)
                await client.call_tool("raw__sleep", {})
            await wait_until(lambda: has_cancelled(client, 1), seconds=PATIENCE)
        assert results == ["stayed"]
        assert text_of(await client.call_tool("raw__echo", {"text": "on"})) == "on"


async def cancel_when_called(bench: EndpointBench, scope: anyio.CancelScope) -> None:
    await wait_until(lambda: bench.pool.status()[0].calls >= 2)
    scope.cancel()


async def has_cancelled(client: Client, count: int) -> bool:
    return len(json.loads(text_of(await client.call_tool("raw__cancelled", {})))) == count
