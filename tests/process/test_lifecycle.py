"""However a gateway, a thread or a loop of it ends or is misused, its trees end with their handles, and nobody else.

`mutants.py` names the mutants that are seen to fail here (P2, P5).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pty
import random
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from process.conftest import BOUNDARIES, left_of
from process.programs import POLITE, STUBBORN, Program, read_line
from sexton.containment import Boundary, Containment, EndReason, ProcessTree
from waiting import PATIENCE
from waiting import wait_until as wait_until_async
from zoo.gateway_process import GatewayProcess
from zoo.oracles import PYTHON, ZOO, Bystanders, helpers_of, stat_fields, wait_until
from zoo.trial import Trial, trials, wait_ready

KINDS = ("stubborn", "daemonises", "scrubs", "holds_stdin", "parent_clones")
STORMS = 200 if "SEXTON_FULL" in os.environ else 4
WITHIN = PATIENCE


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), "daemonises")]) as fleet:
        yield fleet
        fleet.assert_untouched()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Trial, ...]]:
    with trials(tmp_path, KINDS) as some:
        yield some


def wait_all_empty(made: tuple[Trial, ...]) -> None:
    for trial in made:
        trial.truth.wait_empty(within=WITHIN)


# The gateway ends, in other ways than by SIGKILL


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("how", ["os._exit", "segfault", "abort"])
def test_a_gateway_that_ends_without_leaving_its_containment_leaves_nobody(
    how: str, boundary: Boundary, made: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    with GatewayProcess(tmp_path / "state", boundary) as gateway:
        gateway.start(made)
        gateway.end(how)
        gateway.wait_dead()
        wait_all_empty(made)
        gateway.wait_helpers_gone(within=WITHIN)
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_gateway_that_becomes_another_program_leaves_nobody(
    boundary: Boundary, made: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    """Its pid lives on, and so does its pidfd: only the lifelines tell, which are closed by execve(2)."""
    with GatewayProcess(tmp_path / "state", boundary) as gateway:
        gateway.start(made)
        gateway.end("exec")
        wait_all_empty(made)
        gateway.wait_helpers_gone(within=WITHIN)
        assert Path(f"/proc/{gateway.pid}/comm").read_text() == "sleep\n"
        gateway.kill()
    assert bystanders


def test_ctrl_c_at_the_terminal_reaches_the_gateway_alone_which_ends_its_trees(
    made: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    """The terminal signals its foreground group: none of warden, keepers and servers is in it, nor in its session."""
    ours, theirs = pty.openpty()
    try:
        with GatewayProcess(tmp_path / "state", None, terminal=theirs) as gateway:
            gateway.start(made)
            session = stat_fields(gateway.pid)[3]
            others = [*helpers_of(gateway.pid), *(pid for trial in made for pid in trial.truth.survivors())]
            assert session not in {stat_fields(pid)[3] for pid in others}
            os.write(ours, b"\x03")
            gateway.wait_dead()
            wait_all_empty(made)
    finally:
        os.close(ours)
        os.close(theirs)
    assert bystanders


@pytest.mark.timeout(600 + 10 * STORMS)
def test_a_gateway_that_is_killed_while_it_starts_many_leaves_nobody(tmp_path: Path, bystanders: Bystanders) -> None:
    """The moment of death is what is tried: some of the trees are asked for, some run, some are being stopped."""
    chance = random.Random(7)
    for number in range(STORMS):
        boundary = BOUNDARIES[number % 2].values[0]
        assert isinstance(boundary, Boundary)
        with trials(tmp_path, ["daemonises"]) as [storm], GatewayProcess(tmp_path / "state", boundary) as gateway:
            gateway.begin_storm(storm, [chance.uniform(0, 0.5) for _ in range(20)])
            with contextlib.suppress(subprocess.TimeoutExpired):
                gateway.wait_exit(chance.uniform(0, 0.4))
            gateway.kill()
            storm.truth.wait_empty(within=WITHIN)
            gateway.wait_helpers_gone(within=WITHIN)
    assert bystanders


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_of_multiprocessing_does_not_keep_the_trees_of_a_dead_gateway(
    method: str, made: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    """One that was forked holds copies of every lifeline, so that end of file never comes."""
    with GatewayProcess(tmp_path / "state", Boundary.SUBREAPER) as gateway:
        gateway.start(made)
        worker = gateway.tell(start_worker=method)["worker"]
        try:
            gateway.kill()
            wait_all_empty(made)
            gateway.wait_helpers_gone(within=WITHIN)
            assert stat_fields(worker)[0] not in "ZX"
        finally:
            os.kill(worker, signal.SIGKILL)
    assert bystanders


# Threads, interrupts and loops


@pytest.mark.anyio
async def test_eight_threads_may_end_one_tree_at_once_in_every_way(containment: Containment, program: Program) -> None:
    async with containment.start(program(*POLITE)) as beside:
        await read_line(beside)
        for _ in range(10):
            tree = containment.start(program(*STUBBORN))
            await read_line(tree)
            ready = threading.Barrier(8)
            ways = (tree.release, tree.kill, tree.close_stdin, lambda tree=tree: tree.renew(9.0))
            threads = [threading.Thread(target=_at_once, args=(ready, ways[number % 4])) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            with anyio.fail_after(PATIENCE):
                assert (await tree.wait_gone()).reason in {EndReason.RELEASED, EndReason.KILLED, EndReason.LEADER_EXIT}
            del tree, ways, threads
        os.write(beside.stdin, b"still here\n")
        assert await read_line(beside) == b"still here\n"


def _at_once(ready: threading.Barrier, do: Any) -> None:
    ready.wait(PATIENCE)
    do()


@contextlib.contextmanager
def interrupt_at(number: int) -> Iterator[list[str]]:
    """KeyboardInterrupt when our containment has come to that line, counted from here; where that was."""
    lines, places = 0, list[str]()

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if "/sexton/containment/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        if lines == number and event == "line":
            places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield places
    finally:
        sys.settrace(before)


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_interrupt_at_any_line_of_a_start_leaves_no_process(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    """Also a thread that is killed in the middle of a start: Python ends one by an exception too.

    What an interrupt left open is closed when it is collected, with a ResourceWarning.
    """
    line, tree = 0, None
    for line in range(1, 10_000):
        tree = None
        with contextlib.suppress(KeyboardInterrupt), interrupt_at(line) as places:
            tree = containment.start(program(*STUBBORN))
        if not places:
            break
    del tree
    assert 100 < line < 5_000
    gc.collect()
    helpers = helpers_of(os.getpid())
    await wait_until_async(lambda: set(left_of(tmp_path)) <= set(helpers), seconds=PATIENCE)
    await wait_until_async(lambda: containment.trees() == ())
    async with containment.start(program(*POLITE)) as tree:
        assert await read_line(tree) == b"up\n"


def test_a_loop_that_is_closed_over_a_tree_does_not_end_it_and_another_can(
    tmp_path: Path, program: Program, none_left: None
) -> None:
    opened = Containment.open(tmp_path / "state")
    loop = asyncio.new_event_loop()
    containment = loop.run_until_complete(opened.__aenter__())
    kept, lost = containment.start(program(*POLITE)), containment.start(program(*STUBBORN))
    for tree in (kept, lost):
        loop.run_until_complete(read_line(tree))
    lost_id = lost.id
    loop.close()
    del lost, tree
    gc.collect()
    wait_until(lambda: [status.id for status in containment.trees()] == [kept.id], within=WITHIN)

    async def go_on() -> EndReason:
        os.write(kept.stdin, b"still here\n")
        assert await read_line(kept) == b"still here\n"
        await opened.__aexit__(None, None, None)
        return (await kept.wait_gone()).reason

    assert anyio.run(go_on) is EndReason.RELEASED
    assert lost_id != kept.id


def test_the_loop_may_be_uvloop(tmp_path: Path, bystanders: Bystanders) -> None:
    """Ended, cancelled, and dropped, on another event loop than asyncio's own."""
    with trials(tmp_path, KINDS) as made:
        anyio.run(_live_on_uvloop, tmp_path / "state", made, backend_options={"use_uvloop": True})
        wait_all_empty(made)
    assert bystanders


async def _live_on_uvloop(state: Path, made: tuple[Trial, ...]) -> None:
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"
    async with Containment.open(state) as containment:
        for trial in made:
            async with containment.start(trial.spec()) as tree:
                await wait_ready(tree)
            assert trial.truth.is_empty()
            with anyio.CancelScope() as scope:
                async with containment.start(trial.spec()) as tree:
                    await wait_ready(tree)
                    scope.cancel()
                    await anyio.sleep_forever()
            assert trial.truth.is_empty()
            dropped: ProcessTree | None = containment.start(trial.spec())
            assert dropped
            await wait_ready(dropped)
            dropped = None
            gc.collect()
            await wait_until_async(trial.truth.is_empty)
