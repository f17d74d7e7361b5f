"""A program that uses `sexton.stdio_client`, prints the pid of its server and then waits to be killed."""

from __future__ import annotations

import sys
from typing import Any

import anyio

import sexton


async def main() -> None:
    parameters = sexton.StdioServerParameters(command=sys.executable, args=["-I", "-S", "-c", sys.argv[1]])
    async with sexton.stdio_client(parameters) as (read, _write):
        message: Any = await read.receive()
        print(message.message.params["pid"], flush=True)
        if "leave" not in sys.argv:
            await anyio.sleep_forever()
        sys.exit(0)


anyio.run(main)
