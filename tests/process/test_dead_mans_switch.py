"""A gateway that is stopped cannot end what it runs: its warden does, when it was told until when that may go on.

Mutants seen to fail here: a keeper that does not watch the switch, a warden that never looks at the time, one that does
not forget an old word, a gateway that tells a new warden nothing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from process.conftest import left_of
from process.programs import POLITE, STUBBORN, Program, read_line
from process.test_warden import gateway, state_of
from sexton.containment import Boundary, Containment, EndReason, ProcessTree
from sexton.containment.dead_mans_switch import DeadMansSwitch, boot_time
from waiting import PATIENCE
from zoo.oracles import wait_until


async def end_of(tree: ProcessTree) -> EndReason:
    with anyio.fail_after(PATIENCE):
        return (await tree.wait_gone()).reason


@pytest.mark.anyio
async def test_all_trees_end_at_the_moment_that_was_told_and_later_ones_at_once(
    containment: Containment, program: Program
) -> None:
    containment.keep_until(boot_time() + 3600)
    trees = [containment.start(program(*argv)) for argv in (STUBBORN, POLITE)]
    for tree in trees:
        await read_line(tree)
    containment.keep_until(boot_time())
    assert [await end_of(tree) for tree in trees] == [EndReason.NOT_KEPT] * 2
    assert await end_of(containment.start(program(*STUBBORN))) is EndReason.NOT_KEPT


@pytest.mark.anyio
@pytest.mark.parametrize("until", [None, 3600.0])
async def test_after_a_new_word_trees_live_again(
    containment: Containment, program: Program, until: float | None
) -> None:
    containment.keep_until(boot_time())
    assert await end_of(containment.start(program(*POLITE))) is EndReason.NOT_KEPT
    containment.keep_until(None if until is None else boot_time() + until)
    tree = containment.start(program(*POLITE))
    await read_line(tree)
    tree.close_stdin()
    assert await end_of(tree) is EndReason.LEADER_EXIT


@pytest.mark.anyio
async def test_a_new_warden_knows_what_the_one_before_was_told(containment: Containment, program: Program) -> None:
    containment.keep_until(boot_time())
    assert containment.warden_pid
    os.kill(containment.warden_pid, signal.SIGKILL)
    wait_until(lambda: containment.warden_pid is None, within=PATIENCE)
    assert await end_of(containment.start(program(*POLITE))) is EndReason.NOT_KEPT


def test_what_a_stopped_gateway_runs_is_ended_for_it(tmp_path: Path, boundary: Boundary, none_left: None) -> None:
    trees = [list(STUBBORN), list(POLITE)]
    with gateway(tmp_path, boundary, trees=trees, keep_for=1.0) as (process, found):
        os.kill(process.pid, signal.SIGSTOP)
        others = {process.pid, found["warden"]}
        wait_until(lambda: set(left_of(tmp_path)) <= others, within=PATIENCE)
        assert state_of(process.pid) == "T"
        assert Path(f"/proc/{found['warden']}").exists()


def test_time_is_looked_at_often_enough_for_a_machine_that_was_suspended() -> None:
    switch = DeadMansSwitch()
    try:
        assert switch.look_in() is None
        switch.keep_until(boot_time() + 3600)
        assert switch.look_in() == 1.0
        switch.keep_until(boot_time())
        assert switch.look_in() is None
        assert os.eventfd_read(switch.thrown) == 1
    finally:
        os.close(switch.thrown)
