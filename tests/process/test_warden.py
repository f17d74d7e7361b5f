"""Any one of our processes may be killed or stopped at any time, and nothing is left behind.

Each test ends with the `none_left` fixture: no program of the test and no helper of ours is left.

Mutant seen to fail here: a keeper that does not watch the gateway's pidfd (P2, with a forked worker).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from process.conftest import left_of
from process.programs import POLITE, PYTHON, STUBBORN, Program, read_line
from sexton.containment import Boundary, Containment, EndReason, ProcessTree, SpawnFailed, StopTimes, progress, rescue
from waiting import PATIENCE, promised
from zoo.oracles import wait_until

GATEWAY = Path(__file__).with_name("gateway_program.py")


def keeper_of(tree: ProcessTree) -> int:
    keeper = tree.progress.keeper
    assert keeper is not None
    return keeper.pid


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_stopped(pid: int) -> bool:
    return state_of(pid) == "T"


class LaterClock:
    """The monotonic clock, so many seconds later."""

    def __init__(self, later: float) -> None:
        self._later = later

    def monotonic(self) -> float:
        return time.monotonic() + self._later


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", within=PATIENCE)
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


@contextmanager
def gateway(folder: Path, boundary: Boundary, **wanted: Any) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A gateway of its own, with what it says when its trees run."""
    asked = json.dumps({"mark": str(folder), **wanted})
    process = subprocess.Popen(
        [sys.executable, str(GATEWAY), str(folder / "state"), boundary, asked],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


# The warden dies


@pytest.mark.anyio
async def test_when_the_warden_is_killed_the_keepers_end_their_trees(
    containment: Containment, program: Program
) -> None:
    trees = [containment.start(program(*argv)) for argv in (STUBBORN, POLITE, STUBBORN)]
    for tree in trees:
        await read_line(tree)
    assert containment.warden_pid
    os.kill(containment.warden_pid, signal.SIGKILL)
    with anyio.fail_after(PATIENCE):
        assert [(await tree.wait_gone()).reason for tree in trees] == [EndReason.WARDEN_DIED] * 3


@pytest.mark.anyio
async def test_the_next_start_gets_a_new_warden(containment: Containment, program: Program) -> None:
    first = containment.warden_pid
    assert first
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: containment.warden_pid is None, within=PATIENCE)
    async with containment.start(program(*POLITE)) as tree:
        assert await read_line(tree) == b"up\n"
        assert containment.warden_pid not in {None, first}


@pytest.mark.anyio
async def test_an_order_that_a_dying_warden_took_is_reported_as_not_started(
    containment: Containment, program: Program
) -> None:
    warden = containment.warden_pid
    assert warden
    with stopped(warden):
        async with containment.start(program(*POLITE)) as tree:
            os.kill(warden, signal.SIGKILL)
            with pytest.raises(SpawnFailed, match="nothing of it ran"), anyio.fail_after(PATIENCE):
                await tree.wait_started()


@pytest.mark.anyio
async def test_a_stopped_warden_is_woken(
    containment: Containment, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_FIRST_ANSWER_WITHIN", 0.1)
    assert containment.warden_pid
    with stopped(containment.warden_pid):
        async with containment.start(program(*POLITE)) as tree:
            with anyio.fail_after(PATIENCE):
                await tree.wait_started()


# Keepers die


@pytest.mark.anyio
async def test_when_keepers_are_killed_together_the_warden_ends_their_trees_and_no_other(
    containment: Containment, program: Program
) -> None:
    doomed = [containment.start(program(*STUBBORN)) for _ in range(3)]
    async with containment.start(program(*POLITE)) as other:
        for tree in (*doomed, other):
            await read_line(tree)
        assert containment.warden_pid
        with stopped(containment.warden_pid):  # so that it finds all of them dead at once
            for tree in doomed:
                os.kill(keeper_of(tree), signal.SIGKILL)
        with anyio.fail_after(PATIENCE):
            assert [(await tree.wait_gone()).reason for tree in doomed] == [EndReason.KEEPER_DIED] * 3
        os.write(other.stdin, b"still here\n")
        assert await read_line(other) == b"still here\n"


@pytest.mark.anyio
async def test_a_stopped_keeper_is_woken_and_its_tree_not_disturbed(containment: Containment, program: Program) -> None:
    async with containment.start(program(*POLITE)) as tree:
        await read_line(tree)
        os.kill(keeper_of(tree), signal.SIGSTOP)
        wait_until(lambda: state_of(keeper_of(tree)) != "T", within=PATIENCE)
        os.write(tree.stdin, b"still here\n")
        assert await read_line(tree) == b"still here\n"
    assert (await tree.wait_gone()).reason is EndReason.RELEASED


@pytest.mark.anyio
async def test_a_keeper_that_does_not_answer_is_replaced_when_its_tree_is_released(
    containment: Containment, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warden is stopped before its keeper, so that it cannot wake it; both are overdue."""
    monkeypatch.setattr(progress, "_ANSWER_WITHIN", 0.2)
    assert containment.warden_pid
    async with containment.start(program(*STUBBORN)) as tree:
        await read_line(tree)
        os.kill(containment.warden_pid, signal.SIGSTOP)
        wait_until(lambda: state_of(containment.warden_pid or 0) == "T", within=PATIENCE)
        os.kill(keeper_of(tree), signal.SIGSTOP)
    assert (await tree.wait_gone()).reason is EndReason.KEEPER_DIED


@pytest.mark.anyio
async def test_a_sweep_replaces_a_frozen_keeper_whose_tree_nobody_holds_and_no_other(
    containment: Containment, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warden is stopped first, so that it cannot wake the keepers; then the handle is dropped: nobody waits."""
    monkeypatch.setattr(rescue, "_OVERDUE_AFTER", 600.0)
    times = StopTimes(stdin_grace=0.0, term_grace=0.0, leader_exit_grace=0.0, stuck_after=0.5)
    dropped = containment.start(program(*STUBBORN, stop=times))
    async with containment.start(program(*POLITE, stop=times)) as held:
        for tree in (dropped, held):
            await read_line(tree)
        lost, keepers = dropped.id, [keeper_of(dropped), keeper_of(held)]
        assert containment.warden_pid
        for pid in (containment.warden_pid, *keepers):
            os.kill(pid, signal.SIGSTOP)
            wait_until(partial(is_stopped, pid), within=PATIENCE)
        del dropped, tree
        gc.collect()
        assert (await containment.sweep()).replaced == ()  # not before its time
        monkeypatch.setattr(rescue, "time", LaterClock(700.0))
        assert (await containment.sweep()).replaced == (lost,)
        wait_until(lambda: all(status.id != lost for status in containment.trees()), within=PATIENCE)
        assert (await containment.sweep()).replaced == ()
        os.write(held.stdin, b"still here\n")
        assert await read_line(held) == b"still here\n"
    assert (await held.wait_gone()).reason is EndReason.RELEASED


@pytest.mark.anyio
async def test_a_server_that_kills_its_keeper_ends_with_it(containment: Containment, program: Program) -> None:
    killer = (
        *PYTHON,
        """
import os, signal, sys, time
signal.signal(15, signal.SIG_IGN)
keeper = os.getppid()
os.fork() or os.setsid()
os.write(1, b'up\\n')
sys.stdin.read(1)
os.kill(keeper, 9)
time.sleep(99)
""",
    )
    async with containment.start(program(*killer)) as tree:
        await read_line(tree)
        os.write(tree.stdin, b"x")
        with anyio.fail_after(PATIENCE):
            assert (await tree.wait_gone()).reason in {EndReason.KEEPER_DIED, EndReason.LEADER_EXIT}


@pytest.mark.anyio
async def test_when_keeper_and_warden_are_killed_the_gateway_finishes_the_tree(
    containment: Containment, program: Program
) -> None:
    tree = containment.start(program(*STUBBORN))
    await read_line(tree)
    wait_until(lambda: _census_has(containment, 2), within=PATIENCE)
    warden, keeper = containment.warden_pid, keeper_of(tree)
    assert warden
    with stopped(warden), stopped(keeper):  # in this order: a warden wakes its keepers
        os.kill(warden, signal.SIGKILL)
        os.kill(keeper, signal.SIGKILL)
    with anyio.fail_after(PATIENCE):
        assert (await tree.wait_gone()).reason is EndReason.WARDEN_DIED


def _census_has(containment: Containment, members: int) -> bool:
    [record] = containment._instance.records()
    return len(record.census) == members


# The gateway dies


@pytest.mark.parametrize("fork_worker", [False, True], ids=["alone", "with a forked worker"])
def test_when_the_gateway_is_killed_nothing_is_left_after_two_seconds(
    tmp_path: Path, boundary: Boundary, none_left: None, *, fork_worker: bool
) -> None:
    """The worker holds copies of every lifeline, so end of file never comes."""
    with gateway(tmp_path, boundary, trees=[STUBBORN, POLITE, STUBBORN], fork_worker=fork_worker) as (process, found):
        process.kill()
        process.wait(PATIENCE)
        try:
            wait_until(lambda: not set(left_of(tmp_path)) - {found["worker"]}, within=promised(2))
        finally:
            if found["worker"]:
                os.kill(found["worker"], signal.SIGKILL)


@pytest.mark.parametrize("frozen", ["warden", "keepers"])
def test_when_the_gateway_is_killed_a_stopped_helper_does_not_keep_its_trees(
    tmp_path: Path, boundary: Boundary, none_left: None, frozen: str
) -> None:
    with gateway(tmp_path, boundary, trees=[STUBBORN, POLITE]) as (process, found):
        for pid in [found["warden"]] if frozen == "warden" else found["keepers"]:
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait(PATIENCE)


def test_when_the_gateway_is_terminated_while_it_waits_nothing_is_left(
    tmp_path: Path, boundary: Boundary, none_left: None
) -> None:
    with gateway(tmp_path, boundary, trees=[STUBBORN]) as (process, _):
        process.terminate()
        process.wait(PATIENCE)
        wait_until(lambda: not left_of(tmp_path), within=PATIENCE)


def test_a_frozen_gateway_does_not_keep_a_tree_beyond_its_time(
    tmp_path: Path, boundary: Boundary, none_left: None
) -> None:
    flood = (*PYTHON, "import os\nos.write(1, b'up\\n')\nwhile True: os.write(2, b'x' * 4096)")
    with gateway(tmp_path, boundary, trees=[flood], ttl=1.0) as (process, found), stopped(process.pid):
        wait_until(lambda: not Path(f"/proc/{found['keepers'][0]}").exists(), within=PATIENCE)


@pytest.mark.parametrize("victims", ["gateway", "warden", "keepers", "gateway+warden", "gateway+keepers"])
def test_whoever_of_us_is_killed_nothing_is_left(
    tmp_path: Path, boundary: Boundary, none_left: None, victims: str
) -> None:
    with gateway(tmp_path, boundary, trees=[STUBBORN] * 3) as (process, found):
        pids = {"gateway": [process.pid], "warden": [found["warden"]], "keepers": found["keepers"]}
        for victim in victims.split("+"):
            for pid in pids[victim]:
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not set(left_of(tmp_path)) & set(found["leaders"] + found["keepers"]), within=PATIENCE)
