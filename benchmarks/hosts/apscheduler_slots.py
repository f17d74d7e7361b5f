"""APScheduler with some jobs every second: prints, as JSON, how many milliseconds after its slot each run began.

Arguments: `memory` or `sqlite` (jobs.db in the current folder), seconds to run, number of jobs.
"""

import asyncio
import importlib
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

LATE: list[float] = []


async def note() -> None:
    """A run: slots are whole seconds, so what the clock shows beyond one is how late we are."""
    LATE.append(datetime.now(UTC).microsecond / 1000)


async def main() -> None:
    """Run for the time that was asked for."""
    store, seconds, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    scheduler: Any = importlib.import_module("apscheduler.schedulers.asyncio").AsyncIOScheduler(timezone=UTC)
    if store == "sqlite":
        scheduler.add_jobstore("sqlalchemy", url="sqlite:///jobs.db")
    first = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    for number in range(count):
        scheduler.add_job("__main__:note", "interval", seconds=1, start_date=first, id=str(number), coalesce=False)
    scheduler.start()
    await asyncio.sleep(seconds)
    scheduler.shutdown(wait=False)
    sys.stdout.write(json.dumps(LATE))


if __name__ == "__main__":
    asyncio.run(main())
