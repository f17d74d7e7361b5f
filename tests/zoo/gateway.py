"""A gateway for tests: a process of its own that holds trees, does what it is told, and can be killed.

    python -m zoo.gateway STATE_DIR BOUNDARY       one JSON command a line on stdin, one JSON answer a line on stdout

{"start": [SPEC, ...]} answers when all of them are ready; {"strike": TREE}, {"release": TREE}, {"kill": TREE},
{"drop": TREE} (lose the handle) and {"trees": true} at once; {"storm": [SPEC, [SECONDS, ...]]} when all those trees are
cancelled and gone; {"fork_worker": true} with the pid of a copy of this process, {"start_worker": METHOD} with that of
one which multiprocessing made.  {"end": "os._exit"|"exec"|"segfault"|"abort"} has no answer.  BOUNDARY may be
"strongest".
At end of file it leaves its containment, and with that ends all its trees; with ZOO_ORDERLY in its environment at
SIGTERM too.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from sexton.containment import Boundary, Containment, ProcessSpec, ProcessTree, StopTimes
from waiting import PATIENCE
from zoo.trial import ask, wait_ready


class Gateway:
    """What this process holds."""

    def __init__(self, containment: Containment) -> None:
        self._containment = containment
        self._trees: dict[str, ProcessTree] = {}

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        [(verb, what)] = command.items()
        if verb == "start":
            return {"started": await self._start(what)}
        if verb == "strike":
            ask(self._trees[what])
        elif verb == "release":
            self._trees[what].release()
        elif verb == "kill":
            self._trees[what].kill()
        elif verb == "drop":
            del self._trees[what]
        elif verb == "gone":
            with anyio.fail_after(PATIENCE):
                return {"gone": (await self._trees[what].wait_gone()).reason}
        elif verb == "sweep":
            await self._containment.sweep()
        elif verb == "storm":
            return {"cancelled": await self._storm(*what)}
        elif verb == "fork_worker":
            return {"worker": _fork_worker()}
        elif verb == "start_worker":
            return {"worker": _start_worker(what)}
        elif verb == "end":
            _END[what]()
        return {"trees": {tree.id: [tree.state, tree.keeper_pid] for tree in self._containment.trees()}}

    async def _start(self, specs: list[dict[str, Any]]) -> dict[str, str]:
        trees = [self._containment.start(_spec(one)) for one in specs]
        async with anyio.create_task_group() as tasks:
            for tree in trees:
                tasks.start_soon(wait_ready, tree)
        self._trees |= {tree.id: tree for tree in trees}
        return {tree.spec.name: tree.id for tree in trees}

    async def _storm(self, raw: dict[str, Any], delays: list[float]) -> int:
        """One tree for each delay, cancelled after so many seconds: while it starts, runs, or is ready."""

        async def one(delay: float) -> None:
            with anyio.move_on_after(delay):
                async with self._containment.start(_spec(raw)) as tree:
                    await wait_ready(tree)
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            for delay in delays:
                tasks.start_soon(one, delay)
        return len(delays)


def _fork_worker() -> int:
    """As multiprocessing does it: a copy of this process that keeps every descriptor open."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


def _start_worker(method: str) -> int:
    """By multiprocessing, "fork" or "forkserver"."""
    worker = multiprocessing.get_context(method).Process(target=time.sleep, args=(1_000,))  # type: ignore[attr-defined]
    worker.start()
    return int(worker.pid)


def _crash() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


_END: dict[str, Callable[[], object]] = {
    "os._exit": lambda: os._exit(3),
    "exec": lambda: os.execv("/bin/sleep", ["sleep", "1000"]),
    "segfault": _crash,
    "abort": os.abort,
}


def _spec(raw: dict[str, Any]) -> ProcessSpec:
    return ProcessSpec(**raw | {"argv": tuple(raw["argv"]), "stop": StopTimes(**raw["stop"]), "env": dict(os.environ)})


def say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


async def main() -> None:
    boundary = None if sys.argv[2] == "strongest" else Boundary(sys.argv[2])
    async with (
        Containment.open(Path(sys.argv[1]), boundary=boundary) as containment,
        anyio.create_task_group() as tasks,
    ):
        if "ZOO_ORDERLY" in os.environ:
            tasks.start_soon(leave_when_told, tasks.cancel_scope)
        await obey_all(Gateway(containment))
        tasks.cancel_scope.cancel()


async def obey_all(gateway: Gateway) -> None:
    say({"pid": os.getpid()})
    pending = b""
    while True:
        await anyio.wait_readable(0)
        if not (chunk := os.read(0, 65536)):
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            say(await gateway.obey(json.loads(line)))


async def leave_when_told(everything: anyio.CancelScope) -> None:
    """At SIGTERM, as a real gateway does; without this the signal ends the process on the spot."""
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            everything.cancel()


if __name__ == "__main__":
    anyio.run(main)
