"""A gateway that only schedules: `python scheduler_program.py DATABASE EFFECTS`.

Each run adds one line to the file of effects, in one write, before it does anything else; runs of jobs named `long…`
then go on for ever.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from sexton.clock import SystemClock
from sexton.database import Database
from sexton.journal import Journal
from sexton.scheduler import Outcome, RunContext, RunStore, Scheduler


async def main(path: Path, effects: Path) -> None:
    fd = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def perform(context: RunContext) -> Outcome:
        run = context.run
        slot = run.slot.isoformat() if run.slot else "by-hand"
        os.write(fd, f"{run.job} {slot} {run.attempt} {os.getpid()}\n".encode())
        if run.job.startswith("long"):
            context.output_so_far = lambda: "half done"
            context.log("it goes on for ever")
            await anyio.sleep_forever()
        return Outcome()

    async with Database.open(path) as database:
        await Scheduler(RunStore(database), perform, clock=SystemClock(), journal=Journal.open()).run()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
