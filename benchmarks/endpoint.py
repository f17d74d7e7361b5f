"""Calls through Sexton's MCP endpoint and through its peers, the same server behind each, in one run.

The peers are mcp-proxy, the fastmcp proxy, supergateway (stateful), and mcpo, which offers tools as plain HTTP and no
MCP. The server is the least that speaks MCP over stdio. Each is called by a raw HTTP client, which costs next to
nothing, and by the SDK's client; one call at a time, and 32 clients at a time, each with a session of its own. The
last table is the way of our own jobs and chats: a lease of the pool, beside the SDK's own stdio client.

    python -m benchmarks.endpoint [--calls 1000] [--rounds 3]
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client import stdio
from mcp.client.streamable_http import streamable_http_client

from benchmarks import stdio_calls
from benchmarks.first_result import pool_task
from benchmarks.gateway import Gateway, toml_servers
from benchmarks.machine import describe_machine
from benchmarks.peers import ROOT, Peers, ensure_peers
from benchmarks.raw_http import RawClient, body_message, initialize, modern_tool_call, tool_call
from benchmarks.report import markdown_table, quantile, say, write_csv
from benchmarks.truth import Leaf
from benchmarks.waiting import free_port, wait_until
from sexton.clock import SystemClock
from sexton.containment import Containment
from sexton.journal import Journal
from sexton.mcp_servers import ServerConfig, ServerPool, StdioServer

AT_ONCE = 32
START_SECONDS = 60.0
SEXTON = "sexton"
GOAL = 2.0
SERVER = [sys.executable, "-I", "-S", str(ROOT / "benchmarks/servers/echo.py")]
TEXT = "hello"

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where a program that stands before the server takes calls."""

    name: str
    port: int
    pid: int = 0
    path: str = "/mcp"
    headers: dict[str, str] = field(default_factory=dict)
    speaks_mcp: bool = True
    is_modern: bool = False
    """Called in the way of 2026-07-28, which has no sessions; else in that of 2025-11-25, which all of them know."""

    @property
    def url(self) -> str:
        """For a client of MCP."""
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(slots=True)
class Times:
    """What was measured of one door by one client.

    Seconds of each call alone, and of each at 32 at a time; then, for each round, calls per second, and seconds of
    the door's own cpu time for a call (its server's not counted).
    """

    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


# --- clients ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def raw_callers(door: Door, count: int) -> AsyncIterator[list[Call]]:
    """`count` raw clients, each with a connection and a session of its own."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(RawClient.to("127.0.0.1", door.port, door.headers)) for _ in range(count)
        ]
        yield await asyncio.gather(*(_raw_caller(door, client) for client in clients))


async def _raw_caller(door: Door, client: RawClient) -> Call:
    if not door.speaks_mcp:
        request = client.request(f"{door.path}/echo", {"text": TEXT})
        assert TEXT.encode() in (await client.send(request))[1]
        return lambda: client.send(request)
    if door.is_modern:
        request = client.request(door.path, modern_tool_call(client, "echo", {"text": TEXT}))
    else:
        await initialize(client, door.path)
        request = client.request(door.path, tool_call("echo", {"text": TEXT}))
    answer = body_message((await client.send(request))[1])
    assert answer["result"]["content"][0]["text"] == TEXT, answer
    return lambda: client.send(request)


@contextlib.asynccontextmanager
async def sdk_callers(door: Door, count: int) -> AsyncIterator[list[Call]]:
    """`count` clients of the SDK; none where no MCP is spoken."""
    async with contextlib.AsyncExitStack() as stack:
        callers = []
        for _ in range(count if door.speaks_mcp else 0):
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=door.headers, timeout=60))
            transport = streamable_http_client(door.url, http_client=http)
            mode = "2026-07-28" if door.is_modern else "legacy"
            client = await stack.enter_async_context(Client(transport, mode=mode))
            callers.append(_sdk_caller(client))
        yield callers


def _sdk_caller(client: Client) -> Call:
    return lambda: client.call_tool("echo", {"text": TEXT})


CLIENTS = {"raw": raw_callers, "SDK": sdk_callers}


async def measure(door: Door, client: str, calls: int, times: Times) -> None:
    """One round: `calls` alone, and as many by 32 clients; the first of each caller is not counted."""
    async with CLIENTS[client](door, 1) as callers:
        for caller in callers:
            await caller()
            times.alone.extend([await timed(caller) for _ in range(calls)])
    async with CLIENTS[client](door, AT_ONCE) as callers:
        await asyncio.gather(*(caller() for caller in callers))
        if callers:
            began, cost = time.perf_counter(), cpu_seconds(door.pid)
            times.together.extend(await share(callers, calls))
            times.rates.append(calls / (time.perf_counter() - began))
            times.costs.append((cpu_seconds(door.pid) - cost) / calls)


async def share(callers: Sequence[Call], calls: int) -> list[float]:
    """Seconds of each of `calls`, made by all callers at a time."""
    left = iter(range(calls))

    async def work(caller: Call) -> list[float]:
        return [await timed(caller) for _ in left]

    return [seconds for each in await asyncio.gather(*map(work, callers)) for seconds in each]


def cpu_seconds(pid: int) -> float:
    """Seconds of cpu time that a process has used; see proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def timed(caller: Call) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    await caller()
    return time.perf_counter() - began


# --- doors -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sexton_doors(leaf: Leaf, folder: Path) -> Iterator[list[Door]]:
    """`sexton up` with one server; a door for each era."""
    (folder / "sexton.toml").write_text(
        'listen = "127.0.0.1:0"\n' + toml_servers({"echo": {"command": SERVER[0], "args": SERVER[1:]}})
    )
    gateway = Gateway(leaf, folder)
    gateway.start()
    try:
        address = gateway.address()
        url = httpx2.URL(address["base_url"])
        assert url.port is not None
        assert gateway.process is not None
        door = Door(name=SEXTON, port=url.port, pid=gateway.process.pid, path="/mcp/echo", headers=address["headers"])
        yield [door, dataclasses.replace(door, name=f"{SEXTON}, 2026-07-28", is_modern=True)]
    finally:
        gateway.stop()


def peer_doors(peers: Peers, folder: Path) -> dict[str, tuple[Door, list[str]]]:
    """Each peer's door, with the command that opens it."""
    config = folder / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"echo": {"command": SERVER[0], "args": SERVER[1:]}}}))
    ports = {name: free_port() for name in ("mcp-proxy", "fastmcp proxy", "supergateway", "mcpo")}
    supergateway = str(peers.npm / "node_modules/supergateway/dist/index.js")
    commands = {
        "mcp-proxy": [str(peers.mcp_proxy), "--port", "{port}", "--", *SERVER],
        "fastmcp proxy": [
            *(peers.program("fastmcp"), "run", str(config), "--transport", "http", "--port", "{port}"),
            *("--no-banner", "--log-level", "ERROR"),
        ],
        "supergateway": [
            *("node", supergateway, "--stdio", shlex.join(SERVER), "--outputTransport", "streamableHttp"),
            *("--stateful", "--port", "{port}", "--logLevel", "none"),
        ],
        "mcpo": [str(peers.mcpo), "--port", "{port}", "--host", "127.0.0.1", "--", *SERVER],
    }
    return {
        name: (
            Door(name=name, port=ports[name], path="" if name == "mcpo" else "/mcp", speaks_mcp=name != "mcpo"),
            [word.format(port=ports[name]) if word == "{port}" else word for word in command],
        )
        for name, command in commands.items()
    }


@contextlib.contextmanager
def peer_door(leaf: Leaf, folder: Path, door: Door, command: list[str]) -> Iterator[Door]:
    """One peer, until left.  Raises TimeoutError if it does not answer."""
    output = folder / f"{door.name}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(leaf.entering(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        if not wait_until(lambda: _listens(door.port), START_SECONDS, every=0.1):
            raise TimeoutError(f"{door.name} does not answer: {output.read_text(errors='replace')[-2000:]}")
        yield dataclasses.replace(door, pid=process.pid)
    finally:
        process.kill()  # some do not end while clients are connected; what it started ends with the leaf
        process.wait()


def _listens(port: int) -> bool:
    try:
        httpx2.get(f"http://127.0.0.1:{port}/", timeout=2)
    except httpx2.TransportError:
        return False
    return True


@contextlib.contextmanager
def doors(peers: Peers, folder: Path) -> Iterator[list[Door]]:
    """All of them, at once; measured in turn, so that a busy moment of the machine hits all alike."""
    with Leaf.made() as leaf, contextlib.ExitStack() as stack:
        opened = list(stack.enter_context(sexton_doors(leaf, folder)))
        for door, command in peer_doors(peers, folder).values():
            opened.append(stack.enter_context(peer_door(leaf, folder, door, command)))
        yield opened


# --- in process ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def leased(count: int) -> AsyncIterator[list[Any]]:
    """`count` leases of one server, as jobs and chats hold them."""
    config = ServerConfig(name="echo", transport=StdioServer(command=SERVER[0], args=tuple(SERVER[1:])))
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            Containment.open(folder) as containment,
            anyio.create_task_group() as tasks,
            contextlib.AsyncExitStack() as stack,
        ):
            journal = Journal.open(clock=clock)
            pool = ServerPool({"echo": config}, containment, clock=clock, journal=journal, data_dir=folder)
            await tasks.start(pool_task, pool)
            yield [await stack.enter_async_context(pool.lease("echo", holder=f"run:{n}")) for n in range(count)]
            await stack.aclose()
            tasks.cancel_scope.cancel()


async def in_process(calls: int, rounds: int) -> str:
    """The table of the calls that no HTTP stands between."""
    ways: dict[str, Callable[[], Any]] = {
        "mcp.stdio_client": lambda: stdio_calls.one_client(stdio.stdio_client),
        "a lease": lambda: leased(1),
        f"{AT_ONCE} leases": lambda: leased(AT_ONCE),
    }
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            measured[name].append(await stdio_calls.measure(way(), calls))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in measured.items()
    }
    sdk = medians["mcp.stdio_client"]
    return markdown_table(
        ("in process", "p50, ms", "to the SDK", f"calls/s at {AT_ONCE}", "to the SDK", "host cpu, µs a call"),
        [
            (name, f"{alone:.3f}", f"{alone / sdk[0]:.2f}", f"{rate:.0f}", f"{rate / sdk[1]:.2f}", f"{cpu:.0f}")
            for name, (alone, rate, cpu) in medians.items()
        ],
    )


# --- tables --------------------------------------------------------------------------------------------


def rows_of(client: str, measured: dict[tuple[str, str], Times]) -> list[list[str]]:
    """A row for each door that this client could call."""
    here = {name: times for (name, by), times in measured.items() if by == client and times.rates}
    ours = here[SEXTON]
    return [
        [
            name,
            f"{quantile(times.alone, 0.5) * 1000:.2f}",
            f"{quantile(times.alone, 0.5) / quantile(ours.alone, 0.5):.2f}",
            f"{quantile(times.alone, 0.99) * 1000:.2f}",
            f"{statistics.median(times.rates):.0f}",
            f"{statistics.median(times.rates) / statistics.median(ours.rates):.2f}",
            f"{quantile(times.together, 0.5) * 1000:.1f}",
            f"{quantile(times.together, 0.99) * 1000:.1f}",
            f"{statistics.median(times.costs) * 1000:.2f}",
        ]
        for name, times in here.items()
    ]


def verdict(client: str, measured: dict[tuple[str, str], Times]) -> str:
    """How far the goals are met with this client."""
    here = {name: times for (name, by), times in measured.items() if by == client and times.rates}
    rate = {name: statistics.median(times.rates) for name, times in here.items()}
    p50 = {name: quantile(times.alone, 0.5) for name, times in here.items()}
    best = max((name for name in rate if not name.startswith(SEXTON)), key=rate.__getitem__)
    quickest = min((name for name in p50 if not name.startswith(SEXTON)), key=p50.__getitem__)
    return (
        f"{client} client: {rate[SEXTON] / rate[best]:.1f} times the calls per second of {best} at {AT_ONCE} at a time "
        f"(goal: {GOAL:g}); p50 {p50[SEXTON] / p50[quickest]:.2f} of that of {quickest} (goal: below 1)"
    )


HEADERS = (
    "door",
    "p50, ms",
    "to ours",
    "p99, ms",
    f"calls/s at {AT_ONCE}",
    "to ours",
    "p50, ms",
    "p99, ms",
    "door cpu, ms a call",
)


async def run(opened: Sequence[Door], calls: int, rounds: int) -> dict[tuple[str, str], Times]:
    """Every client at every door, round after round."""
    measured = {(door.name, client): Times() for client in CLIENTS for door in opened}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds} …")
        for (name, client), times in measured.items():
            door = next(door for door in opened if door.name == name)
            await measure(door, client, calls, times)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="calls of each kind in each round")
    parser.add_argument("--rounds", type=int, default=3, help="each measures every door with every client")
    options = parser.parse_args()
    peers = ensure_peers()
    say(f"on {describe_machine()}\n")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, doors(peers, Path(folder)) as opened:
        measured = asyncio.run(run(opened, options.calls, options.rounds))
    for client in CLIENTS:
        rows = rows_of(client, measured)
        say(f"\n{client} client\n\n{markdown_table(HEADERS, rows)}\n\n{verdict(client, measured)}")
        write_csv(f"endpoint-{client.lower()}", HEADERS, rows)
    say(f"\n{anyio.run(in_process, 2 * options.calls, options.rounds)}")


if __name__ == "__main__":
    main()
