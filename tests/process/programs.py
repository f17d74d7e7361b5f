"""Small programs that tests contain, and what a test does with their trees."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from sexton.containment import ProcessSpec, ProcessTree, StopTimes
from waiting import PATIENCE

MARK = "SEXTON_TEST_FOLDER"
"""Every program that a test starts carries its test's folder in this variable."""

QUICK = StopTimes(stdin_grace=0.1, term_grace=0.1, leader_exit_grace=0.05)
PYTHON = (sys.executable, "-I", "-S", "-E", "-c")

POLITE = ("sh", "-c", "echo up; exec cat")
STUBBORN = (
    *PYTHON,
    """
import os, signal, time
for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
os.fork() or os.setsid()
os.write(1, b'up\\n')
while True: time.sleep(9)
""",
)
"""Ignores every request, and has a child in a session of its own."""


class Program:
    """Makes specs whose processes this test can recognise."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self,
        *argv: str,
        stop: StopTimes = QUICK,
        ttl: float | None = None,
        stderr: Path | int | None = None,
        env: dict[str, str] | None = None,
    ) -> ProcessSpec:
        return ProcessSpec(
            name=argv[0],
            argv=argv,
            env={MARK: str(self._folder), **(env or {})},
            stop=stop,
            ttl=ttl,
            stderr=stderr,
        )


async def read_line(tree: ProcessTree) -> bytes:
    with anyio.fail_after(PATIENCE):
        await anyio.wait_readable(tree.stdout)
        return os.read(tree.stdout, 65536)
