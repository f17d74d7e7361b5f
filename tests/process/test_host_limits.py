"""Hosts that lack something: descriptors, pids, system calls, files of /proc, cgroups, the right time.

What can be done without it is done; what cannot is an error that says so.  In each case nobody is left.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from process import other_helpers
from process.programs import POLITE, STUBBORN, Program, read_line
from sexton.containment import (
    Boundary,
    Containment,
    ContainmentError,
    EndReason,
    SpawnFailed,
    list_live,
    list_orphans,
    warden,
)
from small_disk import fill, small_disk
from waiting import PATIENCE
from waiting import wait_until as wait_until_async
from zoo.gateway_process import GatewayProcess
from zoo.oracles import PYTHON, ZOO, Bystanders, children_of, helpers_of, mounted_hierarchies, unified_mount, wait_until
from zoo.trial import Trial, trials, wait_ready

DENIED = (sys.executable, str(Path(__file__).with_name("denied_syscalls.py")))
KINDS = ("stubborn", "daemonises", "scrubs", "parent_clones")
WITHIN = PATIENCE
A_DAY = 86_400.0


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), kind) for kind in ("daemonises", "scrubs")]) as fleet:
        yield fleet
        fleet.assert_untouched()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Trial, ...]]:
    with trials(tmp_path, KINDS) as some:
        yield some


def wait_all_empty(made: tuple[Trial, ...]) -> None:
    for trial in made:
        trial.truth.wait_empty(within=WITHIN)


# Descriptors and processes run out


@dataclass(slots=True)
class Refusal:
    """Stands for a call that fails with `code` once `allowed` calls have been let through."""

    real: Callable[..., Any]
    code: int
    allowed: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.allowed -= 1
        if self.allowed < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args, **kwargs)


@pytest.mark.anyio
@pytest.mark.parametrize("code", [errno.ENFILE, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize(("owner", "call"), [(socket, "socketpair"), (os, "pipe2"), (os, "memfd_create")])
async def test_whatever_the_kernel_refuses_a_start_loses_no_descriptor_and_starts_nothing(
    containment: Containment, program: Program, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str, code: int
) -> None:
    """ENFILE is that of the whole machine, so it is made here and not brought about."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for allowed in range(2 if call == "pipe2" else 1):
        with monkeypatch.context() as patch:
            patch.setattr(owner, call, Refusal(getattr(owner, call), code, allowed))
            with pytest.raises(ContainmentError, match=os.strerror(code)):
                containment.start(program(*POLITE))
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert containment.trees() == ()


@contextmanager
def pids_limited(pid: int, spare: int) -> Iterator[None]:
    """That process and those that it makes are in a pids cgroup of version 1, in which `spare` more may be made."""
    hierarchy = mounted_hierarchies().get("pids")
    if hierarchy is None or not os.access(hierarchy, os.W_OK):
        pytest.skip("no pids cgroup of version 1 that we may use")
    group = hierarchy / f"zoo-pids-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    home = Path(f"{hierarchy}{_path_in(pid, 'pids')}")
    (group / "cgroup.procs").write_text(str(pid))
    (group / "pids.max").write_text(str(spare + 1))
    try:
        yield
    finally:
        (group / "pids.max").write_text("max")
        for one in (group / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(one)
        group.rmdir()


def _path_in(pid: int, controller: str) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(path for _, names, path in (line.split(":", 2) for line in lines) if controller in names.split(","))


@pytest.mark.anyio
@pytest.mark.parametrize("spare", [0, 1])
async def test_where_no_more_processes_may_be_made_it_is_said_and_passes(
    containment: Containment, program: Program, spare: int
) -> None:
    """With none to spare there is no keeper, with one no program."""
    assert containment.warden_pid
    with pids_limited(containment.warden_pid, spare):
        async with containment.start(program(*POLITE)) as tree:
            with (
                anyio.fail_after(WITHIN),
                pytest.raises(SpawnFailed, match=r"process|Resource temporarily unavailable"),
            ):
                await tree.wait_started()
            assert (await tree.wait_gone()).reason is EndReason.SPAWN_FAILED
        await wait_until_async(lambda: children_of(containment.warden_pid or 0) == [])
    async with containment.start(program(*POLITE)) as tree:
        assert await read_line(tree) == b"up\n"


@pytest.mark.anyio
async def test_a_full_disk_costs_the_record_and_no_tree(
    boundary: Boundary, tmp_path: Path, program: Program, none_left: None
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        async with Containment.open(disk, boundary=boundary) as containment:
            ballast = fill(disk)
            async with containment.start(program(*STUBBORN)) as tree:
                await read_line(tree)
            ballast.unlink()
            async with containment.start(program(*STUBBORN)) as tree:
                await read_line(tree)
                assert len(list_live(disk)) == 1


# Hosts that are made otherwise

needs_mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="no mount namespace can be made here",
)


def mounted(script: str, *more: str) -> tuple[str, ...]:
    """Through a mount namespace of its own, in which that script was run before."""
    return ("unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh", *more)


def hosts() -> list[Any]:
    """What is between the gateway and a host that has everything, and the boundary that is left to it."""
    unified = unified_mount()
    hidden = "mount -t proc -o hidepid=2 proc /proc"
    without_ptrace = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    anywhere = pytest.mark.skipif(False, reason="nothing is needed")
    cases = {
        "read-only cgroups": (mounted(f"mount -o remount,bind,ro {unified}"), Boundary.SUBREAPER, needs_mounts),
        "no cgroup v2": (mounted(f"umount --lazy {unified}"), Boundary.SUBREAPER, needs_mounts),
        "hidepid": (mounted(hidden, *without_ptrace), None, needs_mounts),
        "no clone3": ((*DENIED, "clone3"), None, anywhere),
        "no pidfs handles": ((*DENIED, "name_to_handle_at,open_by_handle_at"), None, anywhere),
    }
    return [pytest.param(through, left, marks=mark, id=name) for name, (through, left, mark) in cases.items()]


@pytest.mark.parametrize(("through", "boundary_left"), hosts())
def test_on_a_poorer_host_everything_is_ended_all_the_same(
    through: tuple[str, ...],
    boundary_left: Boundary | None,
    made: tuple[Trial, ...],
    tmp_path: Path,
    bystanders: Bystanders,
) -> None:
    """Closed, the gateway killed, and everything killed at once and recovered; another user's daemon among them."""
    state = tmp_path / "state"
    with trials(tmp_path, ["another_user"]) as others:
        everybody = (*made, *others)
        with GatewayProcess(state, None, through=through) as gateway:
            gateway.start(everybody)
            strongest = Boundary.SUBREAPER if unified_mount() is None else Boundary.CGROUP
            assert {record.boundary for record in list_live(state)} == {boundary_left or strongest}
        assert all(trial.truth.is_empty() for trial in everybody)
        with GatewayProcess(state, None, through=through) as gateway:
            gateway.start(everybody)
            gateway.kill()
            wait_all_empty(everybody)
            gateway.wait_helpers_gone(within=WITHIN)
        with GatewayProcess(state, None, through=through) as gateway:
            gateway.start(made)
            wait_until(lambda: _are_counted(state, made), within=PATIENCE, every=0.1)
            gateway.kill_with_all_helpers()
        with GatewayProcess(state, None, through=through):
            wait_all_empty(made)
    assert bystanders


def _are_counted(state: Path, made: tuple[Trial, ...]) -> bool:
    """Whether the census holds everybody who lives."""
    counted = {one.pid for record in list_live(state) for one in record.census}
    return all(set(trial.truth.survivors()) <= counted for trial in made)


def test_without_pidfds_it_is_refused_and_said_why(tmp_path: Path) -> None:
    """A kernel before 5.3, or a seccomp profile that does not know pidfd_open(2).  The doctor says so too."""
    program = (
        "import anyio, sys; from pathlib import Path; from sexton.containment import *\n"
        "async def main():\n"
        "  print((await examine(sys.argv[1])).guarantees[0])\n"
        "  async with Containment.open(Path(sys.argv[1])): print('opened')\n"
        "try: anyio.run(main)\n"
        "except ContainmentError as error: print(error)"
    )
    done = subprocess.run(
        [*DENIED, "pidfd_open", sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    found, refusal = done.stdout.split("\n", 1)
    assert "not_in_force" in found
    assert "pidfd_open" in found
    assert "pidfd_open" in refusal
    assert "Next:" in refusal


@pytest.mark.anyio
async def test_without_the_children_files_of_proc_everybody_is_found(
    boundary: Boundary, made: tuple[Trial, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bystanders: Bystanders
) -> None:
    """As on a kernel without CONFIG_PROC_CHILDREN."""
    monkeypatch.setattr(warden, "_MAIN", other_helpers.without_children_files(tmp_path))

    async def one(trial: Trial) -> None:
        async with containment.start(trial.spec()) as tree:
            await wait_ready(tree)
        assert trial.truth.is_empty()

    async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
        async with anyio.create_task_group() as tasks:
            for trial in made:
                tasks.start_soon(one, trial)
        tree = containment.start(made[0].spec())
        await wait_ready(tree)
        [keeper] = [status.keeper_pid for status in containment.trees()]
        os.kill(keeper or 0, 9)
        with anyio.fail_after(WITHIN):
            assert (await tree.wait_gone()).reason is EndReason.KEEPER_DIED
        assert made[0].truth.is_empty()
    assert bystanders


# The clock on the wall


@pytest.mark.anyio
@pytest.mark.parametrize("step", [A_DAY, -A_DAY], ids=["a day forward", "a day back"])
async def test_a_step_of_the_clock_ends_nothing_too_early_and_nothing_too_late(
    containment: Containment, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Warden and keepers live a day before, or after, the gateway: what a step between an order and its start comes to.

    A suspended machine is less than that: the clock that all graces and times to live are counted on stands still.
    """
    os.kill(containment.warden_pid or 0, 9)
    await wait_until_async(lambda: containment.warden_pid is None)
    monkeypatch.setattr(warden, "_MAIN", other_helpers.with_stepped_clock(tmp_path, step))
    short = containment.start(program(*STUBBORN, ttl=0.5))
    async with containment.start(program(*POLITE, ttl=1_000.0)) as long:
        await read_line(long)
        with anyio.fail_after(WITHIN):
            assert (await short.wait_gone()).reason is EndReason.TTL
        monkeypatch.setattr(time, "time", lambda real=time.time: real() - step)  # and now the gateway's too
        long.renew(1_000.0)
        await containment.sweep()
        os.write(long.stdin, b"in use\n")
        assert await read_line(long) == b"in use\n"
    assert long.progress.gone is not None
    assert long.progress.gone.reason is EndReason.RELEASED


def test_what_a_crash_left_is_recovered_after_a_step_of_the_clock(tmp_path: Path, bystanders: Bystanders) -> None:
    """Who a process is, is told by clocks that nobody sets: the record's times are for people."""
    state = tmp_path / "state"
    with trials(tmp_path, ["daemonises", "scrubs"]) as made:
        with GatewayProcess(state, Boundary.SUBREAPER) as gateway:
            gateway.start(made)
            wait_until(lambda: _are_counted(state, made), within=PATIENCE, every=0.1)
            gateway.kill_with_all_helpers()
            helpers = helpers_of(gateway.pid)
        assert helpers == {}
        for path in state.rglob("*.rec"):
            written = path.read_text()
            stamp = str(next(one.started_at for one in list_orphans(state) if one.tree == path.stem))
            path.write_text(written.replace(stamp, str(float(stamp) + A_DAY)))
        with GatewayProcess(state, Boundary.SUBREAPER):
            wait_all_empty(made)
    assert bystanders
