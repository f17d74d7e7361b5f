"""A scheduler as one writes it first: a new `stdio_client` of the MCP SDK for every run, a few runs at a time.

Argument: a file of JSON {"servers": {name: {command, args, env}}, "runs": [job …], "at_once": number, "midway":
seconds}. For each run that has ended it prints `JOB SECONDS HOW`. It stays when all have, as a gateway would, until it
is killed.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import mcp

HANG_SECONDS = 60.0
STAY = 600.0


async def main() -> None:
    """A few workers take the runs in order."""
    with open(sys.argv[1]) as file:  # noqa: ASYNC230, PTH123
        plan = json.load(file)
    runs = iter(plan["runs"])
    await asyncio.gather(*(worker(plan, runs) for _ in range(plan["at_once"])))
    say("all done")
    await asyncio.sleep(STAY)


async def worker(plan: dict[str, Any], runs: Iterator[dict[str, Any]]) -> None:
    """One run after the other."""
    for job in runs:
        began = time.monotonic()
        how = await one_run(plan, job)
        say(f"{job['name']} {time.monotonic() - began:.3f} {how}")


async def one_run(plan: dict[str, Any], job: dict[str, Any]) -> str:
    """How it ended; a run whose task does not end is left behind, as `asyncio.wait` lets one do."""
    calling = asyncio.Event()
    work = asyncio.create_task(call(plan["servers"][job["server"]], job, calling))
    if job["ending"] in ("times out", "cancelled"):
        await asyncio.wait([work, asyncio.create_task(calling.wait())], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(plan["midway"])
        work.cancel()
    done, _ = await asyncio.wait([work], timeout=HANG_SECONDS)
    if not done:
        return "hung"
    if work.cancelled():
        return "cancelled"
    return "failed" if work.exception() else work.result()


async def call(server: dict[str, Any], job: dict[str, Any], calling: asyncio.Event) -> str:
    """A fresh server for one call."""
    async with (
        mcp.stdio_client(mcp.StdioServerParameters(**server)) as (read, write),
        mcp.ClientSession(read, write) as session,
    ):
        await session.initialize()
        calling.set()
        result = await session.call_tool(job["tool"], job["arguments"])
        return "failed" if result.is_error else "ran"


def say(line: str) -> None:
    """Told at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
