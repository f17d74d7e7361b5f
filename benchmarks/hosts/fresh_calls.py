"""A fresh server for every call: opens a session, makes one call, closes, as often as asked.

Arguments: the same JSON as `session.py` takes, and how often. Prints, as JSON, the seconds to the first result and the
seconds until the session was left, for each.
"""

import asyncio
import importlib
import json
import sys
import time


async def main() -> None:
    """One after the other."""
    session = importlib.import_module("session")
    plan, often = json.loads(sys.argv[1]), int(sys.argv[2])
    session.preload(plan["client"])
    measured = []
    for _ in range(often):
        began = time.perf_counter()
        async with session.opened(plan) as call:
            await call(*plan["probe"])
            first = time.perf_counter() - began
        measured.append((first, time.perf_counter() - began))
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    asyncio.run(main())
