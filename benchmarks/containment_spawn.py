"""What a contained process costs: blocked time of the caller, first byte, end, memory, idle CPU.

    .venv/bin/python benchmarks/containment_spawn.py [trees] [boundary]

Prints medians and 95th percentiles in milliseconds, next to a bare subprocess.Popen on the same machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from sexton.containment import Boundary, Containment, ProcessSpec

ECHO = ("sh", "-c", "echo up; exec cat")
_TICK = 1 / os.sysconf("SC_CLK_TCK")


async def measure(trees: int, boundary: Boundary | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        async with Containment.open(Path(folder), boundary=boundary) as containment:
            print(f"open ({containment.boundary}): {(time.perf_counter() - began) * 1000:.1f} ms")
            await _spawns(containment, trees)
            await _idle(containment, min(trees, 50))
        _bare(trees)


async def _spawns(containment: Containment, trees: int) -> None:
    spec = ProcessSpec(name="echo", argv=ECHO)
    calls, firsts, ends = [], [], []
    for _ in range(trees):
        began = time.perf_counter()
        tree = containment.start(spec)
        calls.append(time.perf_counter() - began)
        async with tree:
            await anyio.wait_readable(tree.stdout)
            os.read(tree.stdout, 10)
            firsts.append(time.perf_counter() - began)
            began = time.perf_counter()
        ends.append(time.perf_counter() - began)
    _print("start() call", calls)
    _print("first byte", firsts)
    _print("polite end, proven empty", ends)


async def _idle(containment: Containment, trees: int) -> None:
    """Memory and CPU of the helpers while nothing happens."""
    held = [containment.start(ProcessSpec(name="echo", argv=ECHO)) for _ in range(trees)]
    for tree in held:
        await tree.wait_started()
    keepers = [status.keeper_pid for status in containment.trees() if status.keeper_pid]
    helpers = [containment.warden_pid or 0, *keepers]
    await anyio.sleep(5)
    before = sum(map(_cpu_seconds, helpers))
    await anyio.sleep(10)
    used = sum(map(_cpu_seconds, helpers)) - before
    pss = [_memory(pid, "Pss") for pid in keepers]
    uss = [_memory(pid, "Private_Dirty") + _memory(pid, "Private_Clean") for pid in keepers]
    print(f"warden PSS {_memory(helpers[0], 'Pss')} KiB, keeper PSS {statistics.median(pss)} KiB", end=", ")
    print(f"keeper USS {statistics.median(uss)} KiB; {len(helpers)} helpers idle: {used / 10 * 100:.2f} % of a CPU")
    for tree in held:
        tree.release()
    for tree in held:
        await tree.wait_gone()


def _bare(trees: int) -> None:
    calls, firsts = [], []
    for _ in range(trees):
        began = time.perf_counter()
        process = subprocess.Popen(ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        calls.append(time.perf_counter() - began)
        assert process.stdout is not None
        process.stdout.readline()
        firsts.append(time.perf_counter() - began)
        process.communicate()
    _print("bare Popen call", calls)
    _print("bare Popen first byte", firsts)


def _print(what: str, seconds: list[float]) -> None:
    rank: Callable[[float], float] = lambda share: sorted(seconds)[int(share * (len(seconds) - 1))] * 1000  # noqa: E731
    print(f"{what}: median {rank(0.5):.2f} ms, p95 {rank(0.95):.2f} ms")


def _memory(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


if __name__ == "__main__":
    anyio.run(
        measure, int(sys.argv[1]) if len(sys.argv) > 1 else 100, Boundary(sys.argv[2]) if len(sys.argv) > 2 else None
    )
