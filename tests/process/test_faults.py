"""What the host does to us: no descriptors, no disk, programs that do not start, processes that do not die."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from process.programs import POLITE, STUBBORN, Program, read_line
from sexton.containment import (
    Boundary,
    Containment,
    ContainmentError,
    EndReason,
    ProcessTree,
    SpawnFailed,
    StopTimes,
    TreeState,
    TreeStuck,
)
from waiting import PATIENCE
from zoo.oracles import TruthGroup, truth_hierarchy, wait_until

STUCK_SOON = StopTimes(stdin_grace=0.05, term_grace=0.05, leader_exit_grace=0.05, stuck_after=0.2)
pytestmark = pytest.mark.anyio


@contextmanager
def open_files_limited(pid: int, spare: int) -> Iterator[None]:
    """That process has `spare` descriptors left."""
    highest = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("spare", range(8))
async def test_a_gateway_without_descriptors_starts_nothing_and_loses_none(
    containment: Containment, program: Program, spare: int
) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with open_files_limited(os.getpid(), spare):
        tree = _start_or_none(containment, program)
    if tree is not None:
        async with tree:
            tree.kill()
        del tree
    wait_until(lambda: set(os.listdir("/proc/self/fd")) == before, within=PATIENCE)  # noqa: PTH208
    assert containment.trees() == ()


def _start_or_none(containment: Containment, program: Program) -> ProcessTree | None:
    try:
        return containment.start(program(*POLITE))
    except ContainmentError as error:
        return pytest.fail(str(error)) if "Too many open files" not in str(error) else None


async def test_a_tree_can_be_ended_when_the_limit_was_lowered_below_its_descriptors(
    containment: Containment, program: Program
) -> None:
    """`prlimit --nofile` on a running gateway; dup2(2) takes no number that is not below the limit."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with containment.start(program(*POLITE)) as tree:
        assert await read_line(tree) == b"up\n"
        resource.setrlimit(resource.RLIMIT_NOFILE, (tree.stdin, limits[1]))
        try:
            tree.release()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(tree.stdin, b"nobody reads this")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (await tree.wait_gone()).reason is EndReason.RELEASED
    del tree
    wait_until(lambda: set(os.listdir("/proc/self/fd")) == before, within=PATIENCE)  # noqa: PTH208


@pytest.mark.parametrize("spare", [0, 1, 3, 6])
async def test_a_warden_without_descriptors_says_so_and_recovers(
    containment: Containment, program: Program, spare: int
) -> None:
    warden = containment.warden_pid
    assert warden
    with open_files_limited(warden, spare):
        async with containment.start(program(*POLITE)) as tree:
            with anyio.fail_after(PATIENCE):
                try:
                    await tree.wait_started()
                except SpawnFailed:
                    assert (await tree.wait_gone()).reason in {EndReason.SPAWN_FAILED, EndReason.KEEPER_DIED}
    async with containment.start(program(*POLITE)) as tree:
        assert await read_line(tree) == b"up\n"
    assert containment.warden_pid == warden


async def test_a_ledger_that_cannot_be_written_costs_no_tree(containment: Containment, program: Program) -> None:
    shutil.rmtree(containment._instance.ledger_folder)
    async with containment.start(program(*STUBBORN)) as tree:
        await read_line(tree)
    assert tree.state is TreeState.GONE


@contextmanager
def hanging_execution(folder: Path) -> Iterator[Path]:
    """A script that nobody can execute for now: a write lease holds up whoever tries (fcntl(2), F_SETLEASE)."""
    script = folder / "slow"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    with script.open("r+b") as leased:
        fcntl.fcntl(leased, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield script
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)


async def test_a_program_whose_execution_hangs_can_be_given_up(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    """Z32."""
    with hanging_execution(tmp_path) as script:
        tree = containment.start(program(str(script)))
        wait_until(lambda: tree.progress.keeper is not None, within=PATIENCE)
        assert tree.pid is None
        with anyio.fail_after(PATIENCE):
            async with tree:
                pass
            # A process that dies loses its descriptors before it has exited: whether it ran is then anybody's guess.
            with suppress(SpawnFailed):
                await tree.wait_started()
            assert (await tree.wait_gone()).returncode is None


@pytest.mark.parametrize("whom", ["keeper", "warden"])
async def test_a_program_whose_execution_hangs_ends_with_what_holds_it(
    containment: Containment, program: Program, tmp_path: Path, whom: str
) -> None:
    """Z32.  (For the gateway see the crash point `before_exec`.)"""
    with hanging_execution(tmp_path) as script:
        tree = containment.start(program(str(script)))
        wait_until(lambda: tree.progress.keeper is not None, within=PATIENCE)
        keeper = tree.progress.keeper
        assert keeper
        os.kill(keeper.pid if whom == "keeper" else containment.warden_pid or 0, signal.SIGKILL)
        with anyio.fail_after(PATIENCE):
            assert (await tree.wait_gone()).reason in {EndReason.KEEPER_DIED, EndReason.WARDEN_DIED}


async def test_what_cannot_be_killed_is_reported_and_ended_when_it_can_be(
    containment: Containment, program: Program
) -> None:
    """A process in a frozen cgroup of version 1 does not take a SIGKILL, like one in state D."""
    hierarchy = truth_hierarchy()
    group = TruthGroup(hierarchy / f"stuck-{os.getpid()}") if hierarchy else None
    if group is None or not group.can_freeze:
        pytest.skip("no freezer of cgroup version 1 here")
    try:
        async with containment.start(program(*POLITE, stop=STUCK_SOON)) as tree:
            await tree.wait_started()
            assert tree.pid
            group.procs.write_text(str(tree.pid))
            with group.frozen():
                await _expect_stuck(containment, tree)
            wait_until(lambda: tree.state is TreeState.GONE, within=PATIENCE)
    finally:
        group.close()


async def _expect_stuck(containment: Containment, tree: ProcessTree) -> None:
    tree.release()
    with pytest.raises(TreeStuck) as caught, anyio.fail_after(PATIENCE):
        await tree.wait_gone()
    assert [one.pid for one in caught.value.stuck] == [tree.pid]
    [status] = containment.trees()
    assert status.state is TreeState.STUCK
    assert status.pids == (tree.pid,)


async def test_a_forked_process_can_neither_start_nor_end_anything(containment: Containment, program: Program) -> None:
    async with containment.start(program(*POLITE)) as tree:
        await read_line(tree)
        child = os.fork()
        if child == 0:
            try:
                containment.start(program(*POLITE))
            except ContainmentError:
                del tree
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 -- it ends at once
        os.write(tree.stdin, b"alive\n")
        assert await read_line(tree) == b"alive\n"


async def test_another_system_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ContainmentError) as caught:
        async with Containment.open(tmp_path):
            pass
    assert "WSL2" in str(caught.value)


async def test_a_boundary_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContainmentError, match="no boundary on Linux"):
        async with Containment.open(tmp_path, boundary=Boundary.PROCESS_GROUP):
            pass


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ContainmentError, match="file"):
        async with Containment.open(tmp_path / "file"):
            pass
