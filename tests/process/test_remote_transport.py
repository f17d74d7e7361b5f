"""Servers over Streamable HTTP and SSE, on the loopback, and everything that can be wrong on the way to one."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
import uvicorn
from mcp import ClientSession
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult, TextContent
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fake_clock import moved_loop_time
from sexton.mcp_servers.remote_transport import RemoteServer
from sexton.mcp_servers.server_config import HttpServer, ServerConfig
from sexton.mcp_servers.server_errors import CallTimedOut, ConnectFailed, ConnectTimedOut, NotWritten, ServerDied
from waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anyio

Kind = Literal["streamable-http", "sse"]
PATHS: dict[Kind, str] = {"streamable-http": "/mcp", "sse": "/sse"}


class RemoteEcho:
    """A server made from the SDK, with what it was told."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.cancelled: list[str] = []
        self.steps_allowed = 2
        self.server = MCPServer("remote")
        self.server.add_tool(self.echo)
        self.server.add_tool(self.hang)
        self.server.add_tool(self.count)

    async def echo(self, text: str) -> str:
        return text

    async def hang(self, name: str) -> str:
        self.began.append(name)
        try:
            await anyio.sleep_forever()
            raise AssertionError
        finally:
            self.cancelled.append(name)

    async def count(self, steps: int, ctx: Context) -> str:
        for step in range(steps):
            await wait_until(lambda step=step: step < self.steps_allowed)  # type: ignore[misc]
            await ctx.report_progress(step + 1, steps)
        return f"{steps} steps"

    def app(self, kind: Kind) -> Starlette:
        return self.server.sse_app() if kind == "sse" else self.server.streamable_http_app()


class Door:
    """Wants the right words in a header, or answers everything with one status."""

    def __init__(self, app: ASGIApp, *, words: str | None = None, status: int | None = None) -> None:
        self.app, self.words, self.status = app, words, status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused: Response | None = None
        if self.status is not None:
            refused = PlainTextResponse("no", self.status)
        elif self.words is not None and dict(scope["headers"]).get(b"authorization") != self.words.encode():
            refused = PlainTextResponse("who are you?", 401)
        await (refused or self.app)(scope, receive, send)


@contextmanager
def listening(app: ASGIApp) -> Iterator[int]:
    """Serve `app` in a thread; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def config_for(port: int, kind: Kind, *, scheme: str = "http", headers: Any = (), **settings: Any) -> ServerConfig:
    url = f"{scheme}://127.0.0.1:{port}{PATHS[kind]}"
    transport = HttpServer(url=url, kind=kind, headers=dict(headers))
    return ServerConfig(name="far", transport=transport, **{"connect_timeout": PATIENCE, **settings})


@asynccontextmanager
async def remote(kind: Kind, **settings: Any) -> AsyncIterator[tuple[RemoteEcho, RemoteServer]]:
    echo = RemoteEcho()
    with listening(echo.app(kind)) as port:
        async with RemoteServer.open(config_for(port, kind, **settings)) as server:
            yield echo, server


async def call(session: ClientSession, tool: str, **arguments: Any) -> str:
    return text_of(await session.call_tool(tool, arguments))


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
@pytest.mark.parametrize("protocol", ["auto", "legacy"])
async def test_every_holder_has_a_session_of_its_own(kind: Kind, protocol: str) -> None:
    async with remote(kind, protocol=protocol) as (_, server):
        assert [tool.name for tool in await server.list_tools()] == ["echo", "hang", "count"]
        assert server.introduction.server_info is not None
        assert server.introduction.server_info.name == "remote"
        async with server.connect("a") as a, server.connect("b") as b:
            assert server.holders == ("a", "b")
            assert await call(a, "echo", text="from a") == "from a"
            assert await call(b, "echo", text="from b") == "from b"
            told: list[float] = []

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                told.append(progress)

            assert text_of(await a.call_tool("count", {"steps": 2}, progress_callback=on_progress)) == "2 steps"
            await wait_until(lambda: told == [1, 2])
        assert list(server.holders) == []
        assert server.calls == 3
        assert server.introduction.is_modern == (protocol == "auto")
    with pytest.raises(NotWritten):
        async with server.connect("late"):
            pytest.fail("it has been left")


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
async def test_a_cancelled_call_is_cancelled_at_the_server_and_delays_nobody(kind: Kind) -> None:
    async with remote(kind) as (echo, server), server.connect("a") as a, server.connect("b") as b:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_hang, a, "mine")
            tasks.start_soon(call_hang, a, "also mine")
            assert await call(b, "echo", text="quick") == "quick"
            assert await call(a, "echo", text="quick") == "quick"
            tasks.cancel_scope.cancel()
        await wait_until(lambda: sorted(echo.cancelled) == ["also mine", "mine"])
        assert await call(a, "echo", text="still here") == "still here"


async def call_hang(session: ClientSession, name: str) -> None:
    await call(session, "hang", name=name)


async def test_a_call_has_a_deadline() -> None:
    async with remote("streamable-http", call_timeout=300) as (echo, server), server.connect("a") as a:

        async def hang() -> None:
            with pytest.raises(CallTimedOut, match="server 'far' did not answer"):
                await call(a, "hang", name="x")

        with moved_loop_time() as move:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang)
                await wait_until(lambda: echo.began == ["x"])
                move(300)
            await wait_until(lambda: echo.cancelled == ["x"])


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
async def test_progress_extends_the_time_of_a_call(kind: Kind) -> None:
    told: list[float] = []
    answers: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    async with remote(kind, call_timeout=300) as (echo, server), server.connect("a") as a:

        async def count() -> None:
            answers.append(text_of(await a.call_tool("count", {"steps": 4}, progress_callback=on_progress)))

        with moved_loop_time() as move:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count)
                for step in (1, 2, 3):  # longer than the limit, and never for so long without progress
                    echo.steps_allowed = step
                    await wait_until(lambda: len(told) == step)  # noqa: B023 - only asked now
                    move(180)
                echo.steps_allowed = 4
        assert answers == ["4 steps"]


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
async def test_nothing_listens(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed, match="server 'far' cannot be reached: nothing listens at its address"):
        await open_and_leave(config_for(port, kind))


async def open_and_leave(config: ServerConfig) -> None:
    with anyio.fail_after(PATIENCE):
        async with RemoteServer.open(config) as server, server.connect("a") as a:
            assert await call(a, "echo", text="x") == "x"


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
async def test_credentials_are_sent_and_missed(kind: Kind) -> None:
    with listening(Door(RemoteEcho().app(kind), words="Bearer right")) as port:
        await open_and_leave(config_for(port, kind, headers={"Authorization": "Bearer right"}))
        with pytest.raises(ConnectFailed, match=r"does not accept our credentials \(HTTP 401\)") as refusal:
            await open_and_leave(config_for(port, kind, headers={"Authorization": "Bearer wrong"}))
    assert refusal.value.hint is not None
    assert "Authorization" in refusal.value.hint


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
@pytest.mark.parametrize(("status", "words"), [(404, "no MCP endpoint"), (405, "this kind of MCP"), (500, "HTTP 500")])
async def test_other_statuses(kind: Kind, status: int, words: str) -> None:
    with listening(Door(RemoteEcho().app(kind), status=status)) as port, pytest.raises(ConnectFailed, match=words):
        await open_and_leave(config_for(port, kind))


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
async def test_tls_that_does_not_work(kind: Kind) -> None:
    with listening(RemoteEcho().app(kind)) as port, pytest.raises(ConnectFailed, match="the TLS connection failed"):
        await open_and_leave(config_for(port, kind, scheme="https"))


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
async def test_a_server_that_accepts_and_never_answers(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = config_for(listener.getsockname()[1], kind, connect_timeout=0.5)
        with pytest.raises(ConnectTimedOut, match=r"did not complete the handshake within 0\.5 s"):
            await open_and_leave(config)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("streamable-http", "cannot be reached: nothing listens"),
        ("sse", "server 'far' (was lost|has ended our session)"),
    ],
)
async def test_a_server_that_goes_away_fails_the_calls_and_cancels_nobody(kind: Kind, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    script = Path(__file__).parent / "stdio_servers" / "sdk_server.py"
    with subprocess.Popen([sys.executable, str(script), kind, str(port)], stderr=subprocess.DEVNULL) as program:
        try:
            await wait_until(lambda: _is_open(port), seconds=PATIENCE)
            with anyio.fail_after(PATIENCE):
                async with RemoteServer.open(config_for(port, kind)) as server, server.connect("a") as a:
                    assert (await a.call_tool("add", {"a": 1, "b": 2})).structured_content == {"total": 3}
                    program.kill()
                    await anyio.to_thread.run_sync(program.wait)
                    with pytest.raises(ServerDied, match=words):
                        await a.call_tool("add", {"a": 1, "b": 2})
                    await server.ended.wait()
        finally:
            program.kill()


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
async def test_a_server_that_forgot_our_session_is_told_apart_and_given_up(protocol: str) -> None:
    door = Door(RemoteEcho().app("streamable-http"))
    with listening(door) as port, anyio.fail_after(PATIENCE):
        config = config_for(port, "streamable-http", protocol=protocol)
        async with RemoteServer.open(config) as server, server.connect("a") as a:
            assert await call(a, "echo", text="x") == "x"
            door.status = 404
            with pytest.raises(ServerDied, match="ended our session"):
                await call(a, "echo", text="x")
            assert not server.ended.is_set()  # that was the session of one holder
            server._tools.forget()
            with pytest.raises(ServerDied, match="ended our session"):
                await server.list_tools()
            await server.ended.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
