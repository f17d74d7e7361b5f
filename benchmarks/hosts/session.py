"""One client session to one server, ended in the way that the first argument says.

Its only argument is JSON: {"client": "sexton" | "sdk" | "fastmcp" | "http" | "gateway",
"ending": "clean" | "cancelled" | "cancelled twice" | "hold", "server": what the client takes,
"probe": [tool, arguments], "stuck": [tool, arguments]}. It prints `calling` when the stuck call is under way, `ended`
when the session has been left, `hung` if leaving takes longer than HANG_SECONDS. Then it stays, as a long-running host
would, until it is killed.
"""

import asyncio
import contextlib
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

HANG_SECONDS = 20.0
CALL_IS_THERE = 0.5  # seconds from writing the stuck call to saying so
SECOND_CANCEL = 0.3  # seconds between the two cancellations: the first one's teardown is under way
STAY = 600.0

Call = Callable[[str, dict[str, Any]], Awaitable[Any]]


async def main() -> None:
    """Run the scenario, then stay."""
    plan = json.loads(sys.argv[1])
    await ENDINGS[plan["ending"]](plan)
    await asyncio.sleep(STAY)


async def clean(plan: dict[str, Any]) -> None:
    """One answered call, then a normal close."""
    work = asyncio.create_task(_one_call(plan))
    await _left(work)


async def cancelled(plan: dict[str, Any]) -> None:
    """The task that waits for the stuck call is cancelled once."""
    work = await _calling(plan)
    work.cancel()
    await _left(work)


async def cancelled_twice(plan: dict[str, Any]) -> None:
    """A second cancellation arrives while the first one's teardown runs."""
    work = await _calling(plan)
    work.cancel()
    await asyncio.sleep(SECOND_CANCEL)
    work.cancel()
    await _left(work)


async def hold(plan: dict[str, Any]) -> None:
    """Stay in the stuck call: somebody kills us."""
    await asyncio.shield(await _calling(plan))


ENDINGS = {"clean": clean, "cancelled": cancelled, "cancelled twice": cancelled_twice, "hold": hold}


async def _one_call(plan: dict[str, Any]) -> None:
    async with opened(plan) as call:
        await call(*plan["probe"])


async def _calling(plan: dict[str, Any]) -> "asyncio.Task[None]":
    started = asyncio.Event()

    async def stuck() -> None:
        async with opened(plan) as call:
            await call(*plan["probe"])
            started.set()
            await call(*plan["stuck"])

    work = asyncio.create_task(stuck())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    await asyncio.sleep(CALL_IS_THERE)
    _say("calling")
    return work


async def _left(work: "asyncio.Task[None]") -> None:
    done, _ = await asyncio.wait([work], timeout=HANG_SECONDS)
    if done and not work.cancelled() and (error := work.exception()):
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    _say("ended" if done else "hung")


@contextlib.asynccontextmanager
async def opened(plan: dict[str, Any]) -> AsyncIterator[Call]:
    """A session by the client that the plan names; yields its `call_tool`."""
    async with CLIENTS[plan["client"]](plan["server"]) as call:
        yield call


@contextlib.asynccontextmanager
async def _sdk(server: dict[str, Any]) -> AsyncIterator[Call]:
    mcp = importlib.import_module("mcp")
    async with (
        mcp.stdio_client(mcp.StdioServerParameters(**server)) as (read, write),
        mcp.ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session.call_tool


@contextlib.asynccontextmanager
async def _sexton(server: dict[str, Any]) -> AsyncIterator[Call]:
    mcp, sexton = importlib.import_module("mcp"), importlib.import_module("sexton")
    async with (
        sexton.stdio_client(sexton.StdioServerParameters(**server)) as (read, write),
        mcp.ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session.call_tool


@contextlib.asynccontextmanager
async def _fastmcp(server: dict[str, Any]) -> AsyncIterator[Call]:
    transports = importlib.import_module("fastmcp.client.transports")
    fastmcp = importlib.import_module("fastmcp")
    async with fastmcp.Client(transports.StdioTransport(**server)) as client:
        yield client.call_tool


@contextlib.asynccontextmanager
async def _http(server: dict[str, Any]) -> AsyncIterator[Call]:
    mcp = importlib.import_module("mcp")
    async with mcp.Client(server["url"]) as client:
        yield client.call_tool


@contextlib.asynccontextmanager
async def _gateway(server: dict[str, Any]) -> AsyncIterator[Call]:
    """Sexton's HTTP API; `server` holds the arguments of an httpx2 client, and the one configured server is `it`."""
    httpx2 = importlib.import_module("httpx2")
    async with httpx2.AsyncClient(**server, timeout=None) as client:

        async def call(tool: str, arguments: dict[str, Any]) -> Any:
            answer = await client.post("/calls", json={"server": "it", "tool": tool, "arguments": arguments})
            return answer.raise_for_status()

        yield call


def preload(client: str) -> None:
    """Import what that client needs, so that a measurement does not pay for it."""
    for module in {"sexton": ("mcp", "sexton"), "fastmcp": ("fastmcp", "fastmcp.client.transports")}.get(
        client, ("mcp",)
    ):
        importlib.import_module(module)


CLIENTS = {"sdk": _sdk, "sexton": _sexton, "fastmcp": _fastmcp, "http": _http, "gateway": _gateway}


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
