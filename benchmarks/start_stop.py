"""What a contained tree costs: to start, to keep, and to end with proof.

Start: how long the caller is blocked and when the first byte arrives, next to a bare `subprocess.Popen`,
`asyncio.create_subprocess_exec` and `anyio.open_process` (what the MCP SDK uses), in turn.
Keep: private memory (USS) and processor time of warden and keepers with --trees running, idle trees.
End: from giving up the lifeline to the report that the tree is proven empty, for kinds of the zoo (tests/zoo), with all
graces at 0 but for those that exit by themselves. The benchmark runs in a leaf of its own and counts, each time, who is
alive when the report comes: nobody may be.

    python -m benchmarks.start_stop [--starts 100] [--trees 20] [--stops 20]
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from benchmarks.machine import describe_machine
from benchmarks.peers import ROOT
from benchmarks.report import markdown_table, quantile, say, spread, times
from benchmarks.truth import Leaf, command_line, cpu_seconds, is_sexton_helper, private_bytes
from sexton.containment import Boundary, Containment, ProcessSpec, ProcessTree, StopTimes

ECHO = ("/bin/sh", "-c", "echo ready; exec cat")
ZOO = ROOT / "tests/zoo/zoo.py"
POLITE = {"polite", "slow_flush"}
KINDS = (
    "polite",
    "ignores_eof",
    "stubborn",
    "daemonises",
    "daemonises_and_exits",
    "scrubs",
    "wipes_environ",
    "holds_stdout",
    "stopped",
    "inner_subreaper",
    "terminal",
    "slow_hoppers",
    "wide",
    "deep",
    "orphans",
)
READY_SECONDS = 10.0
GONE_SECONDS = 30.0
IDLE_SECONDS = 5.0

Start = Callable[[], Awaitable[tuple[float, float]]]


async def bare_popen() -> tuple[float, float]:
    """Milliseconds that the caller was blocked, and until the first byte."""
    began = time.perf_counter()
    process = subprocess.Popen(ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: ASYNC220 - that it blocks is what we measure
    blocked = time.perf_counter() - began
    assert process.stdin is not None
    assert process.stdout is not None
    await anyio.wait_readable(process.stdout)
    first = time.perf_counter() - began
    process.communicate()
    return blocked * 1000, first * 1000


async def asyncio_exec() -> tuple[float, float]:
    """The same by asyncio; blocked is the time on the loop, which does not yield before the child is there."""
    began = time.perf_counter()
    coroutine = asyncio.create_subprocess_exec(*ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = await coroutine
    blocked = time.perf_counter() - began
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    first = time.perf_counter() - began
    process.stdin.close()
    await process.wait()
    return blocked * 1000, first * 1000


async def anyio_process() -> tuple[float, float]:
    """The same by anyio."""
    began = time.perf_counter()
    process = await anyio.open_process(ECHO, start_new_session=True)
    blocked = time.perf_counter() - began
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.receive()
    first = time.perf_counter() - began
    await process.stdin.aclose()
    await process.wait()
    await process.aclose()
    return blocked * 1000, first * 1000


def contained(containment: Containment) -> Start:
    """The same by a containment."""

    async def start() -> tuple[float, float]:
        began = time.perf_counter()
        tree = containment.start(ProcessSpec(name="echo", argv=ECHO))
        blocked = time.perf_counter() - began
        async with tree:
            await anyio.wait_readable(tree.stdout)
            first = time.perf_counter() - began
            os.read(tree.stdout, 100)
        return blocked * 1000, first * 1000

    return start


async def report_starts(containments: dict[str, Containment], count: int) -> None:
    """All ways in turn, so that what else the machine does falls on each alike."""
    ways: dict[str, Start] = {
        "subprocess.Popen": bare_popen,
        "asyncio.create_subprocess_exec": asyncio_exec,
        "anyio.open_process (MCP SDK)": anyio_process,
        **{f"sexton, {name}": contained(containment) for name, containment in containments.items()},
    }
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(count):
        for name, start in ways.items():
            with anyio.fail_after(READY_SECONDS):
                measured[name].append(await start())
    base = [statistics.median(column) for column in zip(*measured["subprocess.Popen"], strict=True)]
    rows = []
    for name, pairs in measured.items():
        blocked, first = ([pair[column] for pair in pairs] for column in (0, 1))
        rows.append(
            (
                name,
                spread(blocked),
                times(statistics.median(blocked), base[0]),
                spread(first),
                times(statistics.median(first), base[1]),
            )
        )
    say(markdown_table(("start", "caller blocked, ms", "", "first byte, ms", ""), rows) + "\n")


async def report_memory(containments: dict[str, Containment], leaf: Leaf, count: int) -> None:
    """Private memory of our helpers, with and without trees."""
    rows = []
    for name, containment in containments.items():
        idle = helper_bytes(leaf)
        async with AsyncExitStack() as stack:
            trees = [containment.start(ProcessSpec(name="cat", argv=("/bin/cat",))) for _ in range(count)]
            for tree in trees:
                await stack.enter_async_context(tree)
                await tree.wait_started()
            busy, used = helper_bytes(leaf), helper_cpu(leaf)
            await anyio.sleep(IDLE_SECONDS)
            used = helper_cpu(leaf) - used
        rows.append(
            (
                f"sexton, {name}",
                f"{idle / len(containments) / 2**20:.1f}",
                f"{(busy - idle) / count / 2**20:.2f}",
                f"{used:.2f}",
            )
        )
    say(markdown_table(("keep", "warden, MiB private", "each tree, MiB private", "cpu of all in 5 s, s"), rows) + "\n")


def helper_cpu(leaf: Leaf) -> float:
    """Seconds of processor time that all wardens and keepers have used."""
    return sum(cpu_seconds(pid) for pid in leaf.pids() if is_sexton_helper(pid))


def helper_bytes(leaf: Leaf) -> int:
    """Private memory of all wardens and keepers: what is in the leaf, is not us and runs the warden's program."""
    return sum(private_bytes(pid) for pid in leaf.pids() - {os.getpid()} if is_sexton_helper(pid))


async def report_stops(containments: dict[str, Containment], leaf: Leaf, count: int) -> int:
    """One row a kind; gives how many processes were alive when their tree was reported empty."""
    rows, alive = [], 0
    for kind in KINDS:
        row: list[str] = [kind]
        for containment in containments.values():
            measured = [await one_stop(containment, leaf, kind) for _ in range(count)]
            alive += sum(left for _, left in measured)
            gone = [seconds * 1000 for seconds, _ in measured]
            row += [spread(gone, digits=1), f"{quantile(gone, 0.99):.1f}"]
        rows.append(row)
    headers = [text for name in containments for text in (f"{name}, ms", "p99")]
    say(markdown_table(("lifeline given up to proven empty", *headers), rows))
    say(f"alive when reported empty: {alive}")
    return alive


async def one_stop(containment: Containment, leaf: Leaf, kind: str) -> tuple[float, int]:
    """Seconds to the report, and who of the tree was alive then."""
    others = leaf.pids()
    stop = StopTimes() if kind in POLITE else StopTimes(stdin_grace=0.0, term_grace=0.0, leader_exit_grace=0.0)
    spec = ProcessSpec(name=kind, argv=(sys.executable, "-I", "-S", "-E", str(ZOO), kind), stop=stop)
    async with containment.start(spec) as tree:
        await wait_ready(tree)
        helpers = {pid for pid in leaf.pids() if is_sexton_helper(pid)}
        began = time.perf_counter()
        tree.release()
        with anyio.fail_after(GONE_SECONDS):
            await tree.wait_gone()
        seconds = time.perf_counter() - began
        left = leaf.pids() - others - helpers
    if left:
        say(f"  {kind}: alive when reported empty: {[(pid, command_line(pid)) for pid in left]}")
    return seconds, len(left)


async def wait_ready(tree: ProcessTree) -> None:
    """Until the first byte, or the end of output for a kind that exits."""
    with anyio.fail_after(READY_SECONDS):
        await anyio.wait_readable(tree.stdout)


async def measure(leaf: Leaf, options: argparse.Namespace) -> int:
    """All three tables, on every boundary that this host has."""
    async with AsyncExitStack() as stack:
        containments = {
            str(boundary): await stack.enter_async_context(
                Containment.open(Path(stack.enter_context(tempfile.TemporaryDirectory())), boundary=boundary)
            )
            for boundary in (Boundary.CGROUP, Boundary.SUBREAPER)
        }
        await report_starts(containments, options.starts)
        await report_memory(containments, leaf, options.trees)
        return await report_stops(containments, leaf, options.stops)


def main() -> None:
    """Measure and print; exit 1 if anybody was alive when a tree was reported empty, or is when all is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--stops", type=int, default=20)
    options = parser.parse_args()
    say(f"on {describe_machine()}\n")
    with Leaf.made() as leaf, leaf.joined():
        alive = anyio.run(measure, leaf, options)
        left = leaf.pids() - {os.getpid()}
    say(f"left at the end: {len(left)}")
    sys.exit(1 if alive or left else 0)


if __name__ == "__main__":
    main()
