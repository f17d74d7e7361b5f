"""What one small tool call costs the host: the SDK's stdio client, ours in its place, and a shared process.

    .venv/bin/python -m benchmarks.stdio_calls [CALLS] [ROUNDS]

Prints medians over the rounds: one call at a time, 32 at a time, and the
host's cpu time per call.  The server is the least that speaks MCP, so that
what is measured is the client.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client import stdio as sdk

import sexton
from sexton.containment import Containment
from sexton.mcp_servers import ServerConfig, StdioServer
from sexton.mcp_servers.server_process import ServerProcess

SERVER = """
import json, sys
INIT = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "echo", "version": "1"}}
TOOLS = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
for line in sys.stdin.buffer:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "tools/call":
        answer["result"] = {"content": [{"type": "text", "text": message["params"]["arguments"]["text"]}]}
    elif message["method"] in ("initialize", "tools/list"):
        answer["result"] = INIT if message["method"] == "initialize" else TOOLS
    else:
        answer["error"] = {"code": -32601, "message": "unknown method"}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\\n")
    sys.stdout.buffer.flush()
"""
PARAMETERS = StdioServerParameters(command=sys.executable, args=["-I", "-S", "-c", SERVER])
AT_ONCE = 32

Sessions = AbstractAsyncContextManager[Sequence[ClientSession]]


@asynccontextmanager
async def one_client(
    client: Callable[..., AbstractAsyncContextManager[tuple[Any, Any]]],
) -> AsyncIterator[list[ClientSession]]:
    async with client(PARAMETERS) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield [session]


@asynccontextmanager
async def holders(count: int) -> AsyncIterator[list[ClientSession]]:
    transport = StdioServer(command=PARAMETERS.command, args=tuple(PARAMETERS.args))
    config = ServerConfig(name="echo", transport=transport)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Containment.open(Path(folder)) as containment,
            ServerProcess.open(config, containment, owner="benchmark") as process,
            AsyncExitStack() as stack,
        ):
            yield [await stack.enter_async_context(process.connect(f"holder-{n}")) for n in range(count)]


async def measure(opening: Sessions, calls: int) -> tuple[float, float, float]:
    """Return p50 of one call in ms, calls per second at 32 at once, and the host's cpu time per call in µs."""
    async with opening as sessions:
        alone = [await timed_call(sessions[0]) for _ in range(calls // 2)]
        left = iter(range(calls))

        async def work(session: ClientSession) -> None:
            for _ in left:
                await session.call_tool("echo", {"text": "hello"})

        wall, cpu = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as tasks:
            for number in range(AT_ONCE):
                tasks.start_soon(work, sessions[number % len(sessions)])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return statistics.median(alone) * 1e3, calls / wall, cpu / calls * 1e6


async def timed_call(session: ClientSession) -> float:
    begin = time.perf_counter()
    await session.call_tool("echo", {"text": "hello"})
    return time.perf_counter() - begin


async def main() -> None:
    calls, rounds = (int(word) for word in [*sys.argv[1:], "2000", "3"][:2])
    ways: dict[str, Callable[[], Sessions]] = {
        "mcp.stdio_client": lambda: one_client(sdk.stdio_client),
        "sexton.stdio_client": lambda: one_client(sexton.stdio_client),
        "shared process, 1 holder": lambda: holders(1),
        f"shared process, {AT_ONCE} holders": lambda: holders(AT_ONCE),
    }
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):  # interleaved, so that a busy moment of the machine hits all alike
        for name, way in ways.items():
            results[name].append(await measure(way(), calls))
    print(f"{'':30}{'p50 ms':>10}{'calls/s at 32':>16}{'host cpu µs/call':>20}")
    for name, rows in results.items():
        alone, rate, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:30}{alone:10.3f}{rate:16.0f}{cpu:20.0f}")


if __name__ == "__main__":
    anyio.run(main)
