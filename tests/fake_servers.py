"""Servers without processes, whose starts, stops and answers a test can hold up; and a pool on top of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import anyio
from mcp import MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CallToolResult, Implementation, TextContent, Tool

from fake_clock import FakeClock, settle
from sexton.containment import Containment
from sexton.errors import SextonError
from sexton.journal import Event, Journal
from sexton.mcp_servers import ServerConfig, ServerPool, Sharing, StdioServer
from sexton.mcp_servers.breaker import BreakerPolicy
from sexton.mcp_servers.callbacks import Callbacks
from sexton.mcp_servers.holder_session import HolderSession
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.list_news import ListNews
from sexton.mcp_servers.server_errors import ConnectionEnd
from waiting import PATIENCE

POLICY = BreakerPolicy(attempts=3, first_wait=10.0, longest_wait=60.0, open_wait=300.0)


def server(name: str, **settings: Any) -> ServerConfig:
    """A shared server that is retired after a minute."""
    command = settings.pop("command", name)
    given: dict[str, Any] = {"idle_timeout": 60.0, **settings}
    return ServerConfig(name=name, transport=StdioServer(command=command), **given)


def exclusive(name: str, **settings: Any) -> ServerConfig:
    return server(name, sharing=Sharing.EXCLUSIVE, **settings)


def tool(name: str) -> Tool:
    return Tool(name=name, input_schema={"type": "object"})


class Gate:
    """Open until a test closes it; whoever comes while it is closed waits."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self._open = anyio.Event()
        self._open.set()

    def close(self) -> None:
        self.reached = anyio.Event()
        if self._open.is_set():  # else somebody waits for this one
            self._open = anyio.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()


class FakeServer:
    """One "process".  Tools: echo, hang, fail (an answer with is_error), refuse (a JSON-RPC error), progress."""

    def __init__(self, name: str, tools: tuple[Tool, ...], answering: Gate, connecting: Gate) -> None:
        self.name = name
        self.tools = tools
        self.answering = answering
        self.connecting = connecting
        self.pid = None
        self.probe_unwelcome = False
        self.calls = 0
        self.received: list[str] = []
        self.introduction = Introduction(
            protocol_version="2025-11-25", server_info=Implementation(name=name, version="1")
        )
        self.news = ListNews()
        self.ended = anyio.Event()
        self.end: ConnectionEnd | None = None
        self.connected: list[str] = []
        self.visitors: list[str] = []
        self.turns_away: SextonError | None = None
        self._tools_changed = anyio.Event()

    @asynccontextmanager
    async def connect(self, holder: str, callbacks: Callbacks = Callbacks()) -> AsyncIterator[HolderSession]:  # noqa: B008
        await self.connecting.pass_through()
        if self.end is not None:
            raise self.end.failure(written=False)
        if self.turns_away is not None:
            raise self.turns_away
        self.connected.append(holder)
        self.visitors.append(holder)
        try:
            yield cast("HolderSession", FakeSession(self))
        finally:
            self.connected.remove(holder)

    async def list_tools(self) -> tuple[Tool, ...]:
        return self.tools

    async def wait_tools_changed(self) -> None:
        await self._tools_changed.wait()

    def change_tools(self, *names: str) -> None:
        self.tools = tuple(map(tool, names))
        self._tools_changed.set()
        self._tools_changed = anyio.Event()

    def die(self, last_words: str = "", *, returncode: int = 1, noticed: bool = True) -> None:
        self.end = ConnectionEnd(
            server=self.name.split("#")[0],
            what=f"ended with status {returncode}",
            returncode=returncode,
            last_words=last_words,
        )
        if noticed:
            self.ended.set()


class FakeSession:
    """What a holder calls."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], timeout: float, progress: ProgressFnT | None
    ) -> CallToolResult:
        if self.server.end is not None:
            raise self.server.end.failure(written=False)
        self.server.calls += 1
        self.server.received.append(name)
        await self.server.answering.pass_through()
        if self.server.end is not None:
            raise self.server.end.failure(written=True)
        if name == "refuse":
            raise MCPError(-32602, "Invalid params: no such argument")
        if name == "hang":
            await self.server.ended.wait()
            assert self.server.end is not None
            raise self.server.end.failure(written=True)
        if name == "progress" and progress is not None:
            await progress(1, 2, "half")
            await progress(3, None, None)
        text = [TextContent(type="text", text=self.server.name)]
        return CallToolResult(content=list(text), is_error=name == "fail")


@dataclass
class FakeServers:
    """Starts `FakeServer`s, and knows which of them are still there."""

    tools: dict[str, tuple[Tool, ...]] = field(default_factory=dict)
    failure: SextonError | None = None
    stop_failure: SextonError | None = None
    all: dict[str, FakeServer] = field(default_factory=dict)
    alive: list[str] = field(default_factory=list)
    most_alive: dict[str, int] = field(default_factory=dict)
    starting: Gate = field(default_factory=Gate)
    stopping: Gate = field(default_factory=Gate)
    answering: Gate = field(default_factory=Gate)
    connecting: Gate = field(default_factory=Gate)

    @asynccontextmanager
    async def open(self, config: ServerConfig) -> AsyncIterator[FakeServer]:
        serial = sum(name.startswith(f"{config.name}#") for name in self.all) + 1
        tools = self.tools.get(config.name, tuple(map(tool, ("echo", "hang", "fail", "refuse"))))
        made = FakeServer(f"{config.name}#{serial}", tools, self.answering, self.connecting)
        self.all[made.name] = made
        self.alive.append(made.name)
        count = sum(name.startswith(f"{config.name}#") for name in self.alive)
        self.most_alive[config.name] = max(count, self.most_alive.get(config.name, 0))
        try:
            await self.starting.pass_through()
            if self.failure is not None:
                raise self.failure
            yield made
        finally:
            with anyio.CancelScope(shield=True):
                await self.stopping.pass_through()
            self.alive.remove(made.name)
        if self.stop_failure is not None:
            raise self.stop_failure

    @property
    def started(self) -> list[str]:
        """Every process there ever was, in the order in which they were started."""
        return list(self.all)


class NoTrees:
    """A containment in which nothing runs."""

    def trees(self) -> tuple[()]:
        return ()


@dataclass
class Bench:
    """A running pool on fake servers and a fake clock."""

    pool: ServerPool
    servers: FakeServers
    clock: FakeClock
    journal: Journal
    tasks: anyio.abc.TaskGroup
    calls: list[tuple[str, str, float]] = field(default_factory=list)
    """What the pool told of calls that ended: server, how, seconds."""

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.journal.since(0) if event.kind == f"server.{kind}"]

    def holders(self, name: str) -> tuple[str, ...]:
        [status] = [status for status in self.pool.status() if status.name == name]
        return status.holders

    def hold(self, name: str, holder: str, **options: Any) -> Holder:
        """Take a lease in a task of its own."""
        made = Holder(self, name, holder, options)
        self.tasks.start_soon(made.run)
        return made


class Holder:
    """Somebody who takes a lease, and keeps it until told to leave or cancelled."""

    def __init__(self, bench: Bench, name: str, holder: str, options: Mapping[str, Any]) -> None:
        self._bench, self._name, self._holder, self._options = bench, name, holder, options
        self.scope = anyio.CancelScope()
        self.got: str | None = None
        self.error: SextonError | None = None
        self.told_to_leave = anyio.Event()
        self.left = anyio.Event()

    async def run(self) -> None:
        try:
            with self.scope:
                async with self._bench.pool.lease(self._name, holder=self._holder, **self._options) as lease:
                    self.got = lease.process
                    await self.told_to_leave.wait()
        except SextonError as error:
            self.error = error
        finally:
            self.left.set()

    async def leave(self) -> None:
        self.told_to_leave.set()
        await self.left.wait()
        await settle()

    async def cancel(self) -> None:
        self.scope.cancel()
        await self.left.wait()
        await settle()


async def at_once(work: Callable[..., object], *args: object, limiter: object, abandon_on_cancel: bool) -> object:
    """In place of a thread, which a fake clock cannot wait for."""
    return work(*args)


@asynccontextmanager
async def bench(tmp_path: Path, *configs: ServerConfig, servers: FakeServers | None = None) -> AsyncIterator[Bench]:
    """Run a pool; at the end stop it and check that no server is left."""
    fakes, clock = servers or FakeServers(), FakeClock()
    calls: list[tuple[str, str, float]] = []
    journal = Journal.open(None, clock=clock)
    pool = ServerPool(
        {config.name: config for config in configs},
        cast("Containment", NoTrees()),
        clock=clock,
        journal=journal,
        data_dir=tmp_path,
        open_server=fakes.open,
        policy=POLICY,
        chance=lambda: 0.0,
        on_call=lambda *call: calls.append(call),
    )
    with anyio.fail_after(PATIENCE), patch("anyio.to_thread.run_sync", at_once):
        async with anyio.create_task_group() as tasks:
            pool_scope = anyio.CancelScope()

            async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                with pool_scope:
                    await pool.run(task_status=task_status)

            await tasks.start(run)
            try:
                yield Bench(pool, fakes, clock, journal, tasks, calls)
            finally:
                for gate in (fakes.starting, fakes.stopping, fakes.answering, fakes.connecting):
                    gate.open()
            pool_scope.cancel()
            await settle()
            tasks.cancel_scope.cancel()
    assert fakes.alive == []
    assert all(not made.connected for made in fakes.all.values())
