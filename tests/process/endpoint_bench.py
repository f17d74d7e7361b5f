"""An endpoint on a real socket, in front of a pool of real servers, and clients of both eras."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.types import Receive, Scope, Send

from process.programs import MARK
from sexton.clock import Clock, SystemClock
from sexton.containment import Containment, StopTimes
from sexton.gateway.mcp_endpoint import Endpoint, EndpointSettings
from sexton.journal import Journal
from sexton.mcp_servers import BreakerPolicy, ServerConfig, ServerPool, StdioServer
from waiting import PATIENCE, wait_until

PROGRAMS: Final = Path(__file__).parent / "stdio_servers"
ERAS: Final = ("legacy", "2026-07-28")


def config(name: str, program: str, folder: Path, **settings: Any) -> ServerConfig:
    """The definition of one of the servers beside this file, which bears the folder's mark."""
    isolated = ("-I", "-S") if program == "raw_server" else ("-I",)
    transport = StdioServer(
        command=sys.executable, args=(*isolated, str(PROGRAMS / f"{program}.py")), env={MARK: str(folder)}
    )
    usual = {"connect_timeout": 60.0, "call_timeout": 30.0, "stop": StopTimes(stdin_grace=0.3, term_grace=0.3)}
    return ServerConfig(name=name, transport=transport, **{**usual, **settings})


@dataclass(frozen=True, kw_only=True)
class Caller:
    name: str = "tester"
    profiles: frozenset[str] | None = None


@dataclass
class EndpointBench:
    """`url` is that of all servers; `caller` is who every request comes from."""

    pool: ServerPool
    endpoint: Endpoint
    url: str
    journal: Journal
    caller: Caller = field(default_factory=Caller)

    @asynccontextmanager
    async def client(self, era: str, path: str = "", **options: Any) -> AsyncIterator[Client]:
        """A client of the SDK.  One of 2026-07-28 finds the era out by itself."""
        mode = "legacy" if era == "legacy" else "auto"
        async with httpx2.AsyncClient(timeout=60) as http:
            transport = streamable_http_client(self.url + path, http_client=http)
            async with Client(transport, mode=mode, **options) as client:
                yield client

    def http(self, **options: Any) -> httpx2.AsyncClient:
        """A bare client."""
        headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
        return httpx2.AsyncClient(headers=headers, timeout=PATIENCE, **options)

    def holders(self, server: str) -> tuple[str, ...]:
        [status] = [status for status in self.pool.status() if status.name == server]
        return status.holders

    def pids(self, server: str) -> list[int]:
        [status] = [status for status in self.pool.status() if status.name == server]
        return [process.pid for process in status.processes if process.pid is not None]


@asynccontextmanager
async def endpoint_bench(
    folder: Path, *configs: ServerConfig, settings: EndpointSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[EndpointBench]:
    """Serve until the block ends; then every process is proven gone."""
    journal = Journal.open(None)
    with anyio.fail_after(300):
        async with Containment.open(folder / "state") as containment:
            pool = ServerPool(
                {each.name: each for each in configs},
                containment,
                clock=SystemClock(),
                journal=journal,
                data_dir=folder / "data",
                policy=BreakerPolicy(first_wait=0.2, longest_wait=0.2, open_wait=0.5),
            )
            endpoint = Endpoint(pool, settings or EndpointSettings(), clock=clock or SystemClock(), journal=journal)
            async with anyio.create_task_group() as tasks:
                await tasks.start(pool.run)
                async with anyio.create_task_group() as served:
                    await served.start(endpoint.run)
                    bench = EndpointBench(pool, endpoint, "", journal)
                    async with _served(bench, served):
                        yield bench
                    served.cancel_scope.cancel()
                tasks.cancel_scope.cancel()
            assert containment.trees() == ()


@asynccontextmanager
async def _served(bench: EndpointBench, tasks: anyio.abc.TaskGroup) -> AsyncIterator[None]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"caller": bench.caller}
        scope["root_path"] = "/mcp"
        await bench.endpoint(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    bench.url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    options = {"lifespan": "off", "ws": "none", "log_config": None, "timeout_graceful_shutdown": 2}
    server = uvicorn.Server(uvicorn.Config(app, **options))  # type: ignore[arg-type]
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    ended = anyio.Event()

    async def serve() -> None:
        try:
            await server.serve([listener])
        finally:
            ended.set()

    tasks.start_soon(serve)
    await wait_until(lambda: server.started)
    try:
        yield
    finally:
        bench.endpoint.core.closing.set()
        bench.endpoint.core.cutting_off.set()
        server.should_exit = True
        with anyio.move_on_after(10, shield=True):
            await ended.wait()
        listener.close()


def _no_signals() -> Any:
    from contextlib import nullcontext

    return nullcontext()
