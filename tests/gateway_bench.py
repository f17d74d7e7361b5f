"""A gateway for tests of the ways in: real scheduler, database and journal; servers and processes that are made up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import anyio
import httpx2

from fake_clock import FakeClock
from scheduling import Bench, Work, running
from sexton.agent import Agent, AgentConfig, Approvals, Chats, DatabaseApprovals
from sexton.errors import SextonError
from sexton.gateway.deliveries import Deliveries, Outbox
from sexton.gateway.http import Gate, Gateway, Logins, Tokens, create_app
from sexton.mcp_servers import ServerPool
from sexton.redaction import Redactor
from sexton.scheduler import Perform

TOKEN = "a-token-for-tests"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True, kw_only=True)
class FakeBlock:
    document: Mapping[str, Any]

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return dict(self.document)


@dataclass(frozen=True, kw_only=True)
class FakeResult:
    content: tuple[FakeBlock, ...] = ()
    structured_content: Any = None
    is_error: bool = False


def text_result(text: str, *, is_error: bool = False) -> FakeResult:
    return FakeResult(content=(FakeBlock(document={"type": "text", "text": text}),), is_error=is_error)


@dataclass(frozen=True, kw_only=True)
class FakeTool:
    name: str = "get_current_time"
    title: str | None = None
    description: str | None = "Get the current time in a time zone. It is fast."
    input_schema: Mapping[str, Any] = field(
        default_factory=lambda: {"properties": {"timezone": {}, "style": {}}, "required": ["timezone"]}
    )


@dataclass(frozen=True, kw_only=True)
class FakeProcess:
    pid: int | None
    holders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FakeServer:
    name: str
    state: str = "running"
    sharing: str = "shared"
    transport: str = "stdio"
    holders: tuple[str, ...] = ("run:0194",)
    waiting: tuple[str, ...] = ()
    pids: tuple[int, ...] = (41, 42)
    memory: int | None = 81_000_000
    age: float | None = 125.0
    calls: int = 14
    tools: int | None = 2
    breaker: str = "closed"
    last_error: str | None = None
    warnings: tuple[str, ...] = ()
    processes: tuple[FakeProcess, ...] = (FakeProcess(pid=41, holders=("run:0194",)),)


@dataclass(frozen=True, kw_only=True)
class FakeReport:
    server: str
    ok: bool = True
    seconds: float = 0.8
    was_running: bool = False
    protocol_version: str | None = "2025-11-25"
    server_info: str | None = "mcp-time 1.2"
    tools: tuple[FakeTool, ...] = (FakeTool(),)
    warnings: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None


class FakePool:
    """Calls named `wait` go on until they are cancelled; `fail` raises, `sad` answers with isError."""

    def __init__(self) -> None:
        self.servers = [
            FakeServer(name="time"),
            FakeServer(
                name="notes",
                state="broken",
                holders=(),
                pids=(),
                memory=None,
                age=None,
                calls=0,
                processes=(),
                last_error="server 'notes' ended with status 1.\n  Its last words: no such folder",
            ),
        ]
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.holders: list[str] = []
        self.call_began = anyio.Event()
        self.call_cancelled = anyio.Event()
        self.restarted: list[str] = []
        self.catalogue: dict[str, tuple[FakeTool, ...]] = {}

    def status(self) -> list[FakeServer]:
        return self.servers

    @asynccontextmanager
    async def lease(self, server: str, *, holder: str, returns: bool = True) -> AsyncIterator[FakeLease]:
        self.holders.append(holder)
        try:
            yield FakeLease(self, server)
        finally:
            self.holders.remove(holder)

    async def tools(self, server: str) -> tuple[FakeTool, ...]:
        return (FakeTool(), FakeTool(name="convert_time", description=None))

    def known_tools(self, server: str) -> tuple[FakeTool, ...] | None:
        return self.catalogue.get(server)

    async def check(self, server: str) -> FakeReport:
        if server == "time":
            return FakeReport(server=server)
        return FakeReport(server=server, ok=False, tools=(), error="server 'notes' ended with status 1.", hint="look")

    async def restart(self, server: str, *, drain: float = 10.0) -> None:
        self.restarted.append(server if drain else f"{server} at once")


@dataclass
class FakeLease:
    pool: FakePool
    server: str

    async def list_tools(self) -> tuple[FakeTool, ...]:
        return tuple(FakeTool(name=name) for name in ("now", "wait", "fail", "bug", "sad"))

    def admits(self, tool: str) -> bool:
        return tool != "denied"

    async def call_tool(self, name: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> FakeResult:
        self.pool.calls.append((self.server, name, dict(arguments)))
        self.pool.call_began.set()
        if name == "wait":
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                self.pool.call_cancelled.set()
                raise
        if name == "fail":
            raise SextonError("server 'time' died.", hint="look at its log")
        if name == "bug":
            raise ZeroDivisionError("a secret of ours")
        return text_result(f"called {name}", is_error=name == "sad")


@dataclass(frozen=True, kw_only=True)
class FakeTree:
    id: str = "t-1"
    name: str = "time"
    owner: str = "server:time"
    state: str = "running"
    boundary: str = "cgroup"
    leader_pid: int | None = 41
    keeper_pid: int | None = 40
    pids: tuple[int, ...] = (41, 42)
    memory_bytes: int | None = 81_000_000
    started_at: Any = None
    reason: str | None = None
    stuck: tuple[Any, ...] = ()
    external: Any = None


@dataclass(frozen=True, kw_only=True)
class FakeRecovery:
    trees: tuple[object, ...] = ()
    unfollowed: tuple[object, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FakeSweep:
    recovery: FakeRecovery = FakeRecovery()
    ended: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()


class FakeContainment:
    boundary = "cgroup"

    def __init__(self, clock: FakeClock) -> None:
        self._trees = [FakeTree(started_at=clock.now() - timedelta(seconds=125))]
        self.sweeps: list[bool] = []

    def trees(self) -> list[FakeTree]:
        return self._trees

    async def sweep(self, *, include_active: bool = False) -> FakeSweep:
        self.sweeps.append(include_active)
        return FakeSweep(ended=("t-1",) if include_active else ())


@dataclass(frozen=True, kw_only=True)
class FakeIdentity:
    pid: int


@dataclass(frozen=True, kw_only=True)
class FakeRecord:
    tree: str = "t-0"
    name: str = "old"
    owner: str = "run:1"
    boundary: str = "subreaper"
    state: str = "orphaned"
    reason: str | None = "gateway_died"
    started_at: float = 1_793_000_000.0
    keeper: FakeIdentity | None = None
    leader: FakeIdentity | None = FakeIdentity(pid=77)
    census: tuple[FakeIdentity, ...] = (FakeIdentity(pid=77), FakeIdentity(pid=78))
    stuck: tuple[Any, ...] = ()
    externals: tuple[Any, ...] = ()


@dataclass
class GatewayBench:
    gateway: Gateway
    pool: FakePool
    containment: FakeContainment
    scheduling: Bench
    clock: FakeClock


@asynccontextmanager
async def gateway_bench(
    folder: Path, *, work: Work | None = None, perform: Perform | None = None, redactor: Redactor | None = None
) -> AsyncIterator[GatewayBench]:
    async def examine() -> object:
        return {"boundary": "cgroup", "guarantees": [], "problems": []}

    async with (
        running(folder, work=work, perform=perform, redactor=redactor) as scheduling,
        AsyncExitStack() as chatting,
    ):
        clock, pool = scheduling.clock, FakePool()
        logins = Logins(clock)
        tokens = Tokens(scheduling.database, clock=clock, logins=logins)
        containment = FakeContainment(clock)
        deliveries = Deliveries(Outbox(scheduling.database), clock=clock, journal=scheduling.journal, owner="here")
        chats = await chatting.enter_async_context(_running_chats(pool, scheduling, folder))
        gateway = Gateway(
            pool=pool,
            scheduler=scheduling.scheduler,
            deliveries=deliveries,
            chats=chats,
            containment=containment,
            journal=scheduling.journal,
            clock=clock,
            examine=examine,
            orphans=lambda: [FakeRecord()],
            started_at=clock.now(),
            node="here",
            data_dir=folder,
            config_path=folder / "sexton.toml",
            logins=logins,
            keyring=tokens,
            tokens=tokens,
            redactor=redactor or Redactor(),
        )
        yield GatewayBench(gateway, pool, containment, scheduling, clock)


@asynccontextmanager
async def _running_chats(pool: FakePool, scheduling: Bench, folder: Path) -> AsyncIterator[Chats]:
    """Chats without a model, on servers that are no processes."""
    clock, journal, database = scheduling.clock, scheduling.journal, scheduling.database
    approvals = Approvals(DatabaseApprovals(database), clock=clock, journal=journal, timeout=lambda: 60.0)
    servers = cast("ServerPool", pool)
    agent = Agent(servers, config=AgentConfig(), approvals=approvals, database=database, clock=clock)
    chats = Chats(database, agent, clock=clock, journal=journal)
    async with anyio.create_task_group() as tasks:
        await tasks.start(chats.run)
        chats.begin()
        yield chats
        tasks.cancel_scope.cancel()


def client_of(gateway: Gateway, *, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """A client of the application in this process, with the token unless other headers are given."""
    app = create_app(gateway, gate=Gate(token=TOKEN))
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app, raise_app_exceptions=False),
        base_url="http://127.0.0.1:7390/api/v1",
        headers=HEADERS if headers is None else headers,
    )
