"""mcp-server-time from PyPI (new era) and server-everything from npm (old era), each with several holders."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp_types import (
    CallToolResult,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    TextContent,
)

import sexton
from sexton.containment import Containment
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.default_containment import DEFAULT_CONTAINMENT
from sexton.mcp_servers.server_config import ServerConfig, StdioServer
from sexton.mcp_servers.server_process import ServerProcess

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]  # the first run installs the servers


@asynccontextmanager
async def real(
    program: Path, folder: Path, *args: str, callbacks: Callbacks | None = None
) -> AsyncIterator[ServerProcess]:
    config = ServerConfig(name=program.name, transport=StdioServer(command=str(program), args=args), connect_timeout=60)
    with anyio.fail_after(90):
        async with Containment.open(folder) as containment:
            opening = ServerProcess.open(config, containment, owner="test", callbacks=callbacks or Callbacks())
            async with opening as process:
                pid = process.pid
                yield process
            assert pid is not None
            assert not psutil.pid_exists(pid)


def text_of(result: CallToolResult) -> str:
    content = result.content[0]
    assert isinstance(content, TextContent)
    return content.text


async def test_the_time_server(real_servers: Path, tmp_path: Path) -> None:
    async with real(real_servers / "python" / "bin" / "mcp-server-time", tmp_path) as process:
        assert process.introduction.is_modern
        assert {"get_current_time", "convert_time"} <= {tool.name for tool in await process.list_tools()}
        zones: dict[str, str] = {}

        async def ask(zone: str) -> None:
            async with process.connect(zone) as session:
                result = await session.call_tool("get_current_time", {"timezone": zone})
                zones[zone] = json.loads(text_of(result))["timezone"]

        asked = ["Europe/Amsterdam", "Asia/Tokyo", "America/New_York", "UTC"]
        async with anyio.create_task_group() as tasks:
            for zone in asked:
                tasks.start_soon(ask, zone)
        assert zones == {zone: zone for zone in asked}
        async with process.connect("wrong") as session:
            wrong = await session.call_tool("get_current_time", {"timezone": "Nowhere/Land"})
            assert wrong.is_error


def answering(name: str) -> Callbacks:
    async def sample(context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        content = TextContent(type="text", text=f"sampled by {name}")
        return CreateMessageResult(role="assistant", content=content, model="test")

    async def elicit(context: Any, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="decline")

    return Callbacks(sampling=sample, elicitation=elicit)


async def test_the_everything_server(real_servers: Path, tmp_path: Path) -> None:
    program = real_servers / "node" / "node_modules" / ".bin" / "mcp-server-everything"
    async with (
        real(program, tmp_path, callbacks=answering("nobody")) as process,
        process.connect("a", answering("a")) as a,
        process.connect("b", answering("b")) as b,
    ):
        tools = {tool.name for tool in await process.list_tools()}
        assert {"echo", "get-sum"} <= tools
        await _echo_at_once({"a": a, "b": b})
        told: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            told.append(progress)

        work = {"duration": 1, "steps": 4}
        result = await a.call_tool("trigger-long-running-operation", work, 0.9, on_progress)
        assert "completed" in text_of(result)
        assert told == [1, 2, 3, 4]
        for name, session in (("a", a), ("b", b)):
            sampled = await session.call_tool("trigger-sampling-request", {"prompt": "hi", "maxTokens": 5})
            assert f"sampled by {name}" in text_of(sampled)


async def _echo_at_once(sessions: dict[str, ClientSession]) -> None:
    async def echo(name: str, session: ClientSession, number: int) -> None:
        result = await session.call_tool("echo", {"message": f"{name}{number}"})
        assert text_of(result) == f"Echo: {name}{number}"

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            for name, session in sessions.items():
                tasks.start_soon(echo, name, session, number)


async def test_the_drop_in_with_a_real_server(
    real_servers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    program = real_servers / "node" / "node_modules" / ".bin" / "mcp-server-everything"
    parameters = StdioServerParameters(command=str(program))
    with anyio.fail_after(60):
        async with sexton.stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            assert text_of(await session.call_tool("echo", {"message": "hello"})) == "Echo: hello"
    DEFAULT_CONTAINMENT.close()
