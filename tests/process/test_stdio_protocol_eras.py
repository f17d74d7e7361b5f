"""Servers of both protocol eras, made from the SDK, each with several holders."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import ClientSession, MCPError
from mcp_types import (
    CallToolResult,
    ElicitRequestParams,
    ElicitResult,
    InputRequiredResult,
    InputResponses,
    TextContent,
)

from sexton.containment import Containment
from sexton.mcp_servers import handshake
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.server_config import ServerConfig, StdioServer
from sexton.mcp_servers.server_errors import ConnectFailed
from sexton.mcp_servers.server_process import ServerProcess
from waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anyio

SERVERS = Path(__file__).parent / "stdio_servers"


@asynccontextmanager
async def sdk_process(
    folder: Path, protocol: Literal["auto", "legacy", "2026-07-28"], script: str = "sdk_server.py", **settings: Any
) -> AsyncIterator[ServerProcess]:
    transport = StdioServer(command=sys.executable, args=(str(SERVERS / script),))
    config = ServerConfig(name="sdk", transport=transport, protocol=protocol, connect_timeout=PATIENCE)
    with anyio.fail_after(60):
        async with (
            Containment.open(folder) as containment,
            ServerProcess.open(config, containment, owner="test", **settings) as process,
        ):
            yield process


def answering(name: str) -> Callbacks:
    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        assert params.message == "who are you?"
        return ElicitResult(action="accept", content={"name": name})

    return Callbacks(elicitation=answer)


async def call(session: ClientSession, tool: str, **arguments: Any) -> str:
    return text_of(await session.call_tool(tool, arguments))


def text_of(result: CallToolResult | InputRequiredResult) -> str:
    assert isinstance(result, CallToolResult)
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def test_a_server_of_the_new_era_serves_every_holder(tmp_path: Path) -> None:
    async with (
        sdk_process(tmp_path, "auto") as process,
        process.connect("a", answering("Ann")) as a,
        process.connect("b", answering("Bob")) as b,
        process.connect("c") as c,
    ):
        assert process.introduction.is_modern
        assert process.introduction.protocol_version == a.protocol_version == "2026-07-28"
        assert a.discover_result is not None
        assert (await a.call_tool("add", {"a": 1, "b": 2})).structured_content == {"total": 3}
        told: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            told.append(progress)

        assert text_of(await b.call_tool("count", {"steps": 3}, progress_callback=on_progress)) == "3 steps"
        await wait_until(lambda: told == [1, 2, 3])

        greetings: dict[str, str] = {}

        async def greet(holder: str, session: ClientSession) -> None:
            greetings[holder] = await call(session, "greet")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(greet, "a", a)
            tasks.start_soon(greet, "b", b)
        assert greetings == {"a": "hello Ann (asked)", "b": "hello Bob (asked)"}
        with pytest.raises(MCPError, match="not supported"):
            await call(c, "greet")
        await _forward_the_input_request(process)


async def _forward_the_input_request(process: ServerProcess) -> None:
    forwarding = Callbacks(elicitation=answering("x").elicitation, answer_input_requests=False)
    async with process.connect("forwards", forwarding) as session:
        asked = await session.call_tool("greet", allow_input_required=True)
        assert isinstance(asked, InputRequiredResult)
        answers: InputResponses = {"name": ElicitResult(action="accept", content={"name": "Eve"})}
        result = await session.call_tool(
            "greet", input_responses=answers, request_state=asked.request_state, allow_input_required=True
        )
        assert text_of(result) == "hello Eve (asked)"


async def test_the_same_server_in_the_old_way_serves_every_holder(tmp_path: Path) -> None:
    async with (
        sdk_process(tmp_path, "legacy", callbacks=answering("declared")) as process,
        process.connect("a", answering("Ann")) as a,
        process.connect("b", answering("Bob")) as b,
    ):
        assert not process.introduction.is_modern
        assert a.initialize_result is not None
        assert (await a.call_tool("add", {"a": 1, "b": 2})).structured_content == {"total": 3}
        assert await call(a, "ask") == "hello Ann"
        assert await call(b, "ask") == "hello Bob"


async def test_a_new_server_that_starts_slowly_is_still_spoken_to_in_the_new_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PROBE_PATIENCE", 0.2)  # no server made from the SDK is up by then
    async with sdk_process(tmp_path, "auto") as process, process.connect("a") as a:
        monkeypatch.undo()
        assert process.introduction.is_modern
        assert (await a.call_tool("add", {"a": 1, "b": 2})).structured_content == {"total": 3}


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
async def test_a_changed_list_of_tools_is_noticed_in_both_eras(
    tmp_path: Path, protocol: Literal["auto", "legacy"]
) -> None:
    async with sdk_process(tmp_path, protocol) as process, process.connect("a") as a:
        before = await process.list_tools()
        assert await call(a, "grow") == "grown"

        async def is_listed() -> bool:
            return "add_again" in {tool.name for tool in await process.list_tools()}

        await wait_until(is_listed)
        assert len(await process.list_tools()) == len(before) + 1


async def test_a_server_that_cannot_speak_the_version_asked_for_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConnectFailed, match="refused the handshake: unknown method server/discover"):
        async with sdk_process(tmp_path, "2026-07-28", "raw_server.py"):
            pytest.fail("it cannot have connected")
