"""Processes that nobody may touch: the same program as the misbehaving servers, in sessions of their own."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import ROOT

PROGRAM = ROOT / "benchmarks/servers/misbehaving.py"


@dataclass(frozen=True, slots=True)
class Bystanders:
    """A few processes that write down each signal that they get."""

    processes: "tuple[subprocess.Popen[bytes], ...]"
    log: Path

    @classmethod
    @contextlib.contextmanager
    def watching(cls, count: int = 4) -> Iterator["Bystanders"]:
        """They watch when this is entered and are gone when it is left."""
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            log = Path(folder) / "signals"
            log.touch()
            yield cls(tuple(_start(log, stack) for _ in range(count)), log)

    def harm(self) -> list[str]:
        """The signals that they got, and `killed` for each that is dead."""
        return [*self.log.read_text().split(), *("killed" for one in self.processes if one.poll() is not None)]


def _start(log: Path, stack: contextlib.ExitStack) -> "subprocess.Popen[bytes]":
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM), "bystander"],
            stdout=subprocess.PIPE,
            env={"BENCH_LOG": str(log)},
            start_new_session=True,
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    process.stdout.readline()
    return process
