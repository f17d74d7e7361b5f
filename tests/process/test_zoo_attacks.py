"""Adversaries that turn on what holds them, flood it, or cannot be ended; and crowds that grow while they die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from process.conftest import BOUNDARIES, needs_cgroup
from sexton.containment import (
    Boundary,
    Containment,
    EndReason,
    ProcessSpec,
    ProcessTree,
    SpawnFailed,
    StopTimes,
    TreeState,
    TreeStuck,
    last_recovery,
)
from waiting import PATIENCE, promised
from zoo.another_daemon import AnotherDaemon
from zoo.engine import FakeEngine
from zoo.gateway_process import GatewayProcess
from zoo.oracles import PYTHON, ZOO, Bystanders, helpers_of, mounted_hierarchies, unified_mount, wait_until
from zoo.trial import COSTLY, QUICK, ask, trials, wait_ready

pytestmark = pytest.mark.anyio

needs_namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False).returncode
    != 0,
    reason="no PID namespace can be made here",
)
CROWD_BOUND = promised(10.0)
"""Seconds in which a crowd is gone, on two cores that others use too; the study measured 0.1 to 2.0 on quiet ones."""


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), kind) for kind in ("bomb", "scrubs")]) as fleet:
        yield fleet
        fleet.assert_untouched()


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kind", COSTLY)
async def test_a_crowd_is_ended_and_its_neighbour_is_not(
    kind: str, boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    """Z16, Z18, Z19, Z20, Z49: flat-out hoppers, a bomb that replaces its dead, wide, deep, many orphans, vfork storms.

    Mutant seen to fail here: a keeper that kills the cgroup of its gateway instead of the leaf (`wide`).
    """
    with trials(tmp_path, [kind, "daemonises"]) as (crowd, neighbour):
        async with (
            Containment.open(tmp_path / "state", boundary=boundary) as containment,
            containment.start(neighbour.spec()) as beside,
        ):
            await wait_ready(beside)
            async with containment.start(crowd.spec()) as tree:
                await wait_ready(tree)
                with anyio.fail_after(CROWD_BOUND):
                    tree.kill()
                    await tree.wait_gone()
            assert crowd.truth.is_empty(), "proven empty, and alive"
            assert len(neighbour.truth.survivors()) == 2
        assert neighbour.truth.is_empty()
    assert bystanders


@pytest.mark.parametrize(
    ("kind", "fault", "boundary"),
    [
        ("bomb", "gateway", Boundary.SUBREAPER),
        ("hoppers", "gateway", Boundary.SUBREAPER),
        ("bomb", "keeper", Boundary.SUBREAPER),
        ("hoppers", "keeper", Boundary.CGROUP),
        ("bomb", "warden", Boundary.CGROUP),
        ("hoppers", "warden", Boundary.SUBREAPER),
    ],
)
def test_a_crowd_does_not_outlive_the_death_of_what_holds_it(
    kind: str, fault: str, boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    if boundary is Boundary.CGROUP and unified_mount() is None:
        pytest.skip("no cgroup v2 here")
    with trials(tmp_path, [kind]) as [crowd], GatewayProcess(tmp_path / "state", boundary) as gateway:
        gateway.start([crowd])
        victim = {"gateway": gateway.pid, "warden": gateway.warden, "keeper": gateway.keepers()[0]}[fault]
        os.kill(victim, signal.SIGKILL)
        crowd.truth.wait_empty(within=CROWD_BOUND)
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("kills_keeper", EndReason.KEEPER_DIED), ("kills_warden", EndReason.WARDEN_DIED)],
)
async def test_who_kills_what_holds_it_goes_with_it(
    kind: str, reason: EndReason, boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    """Z24, Z26.  With its keeper, only its own tree ends; with the warden all end, and there is a new one."""
    with trials(tmp_path, [kind, "daemonises", "polite"]) as (attacker, neighbour, later):
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            beside, tree = containment.start(neighbour.spec()), containment.start(attacker.spec())
            async with beside, tree:
                await wait_ready(beside)
                await wait_ready(tree)
                ask(tree)
                with anyio.fail_after(PATIENCE):
                    assert (await tree.wait_gone()).reason is reason
                assert attacker.truth.is_empty()
                if reason is EndReason.KEEPER_DIED:
                    assert len(neighbour.truth.survivors()) == 2
                else:
                    with anyio.fail_after(PATIENCE):
                        await beside.wait_gone()
                    assert neighbour.truth.is_empty()
                async with containment.start(later.spec()) as fresh:
                    await wait_ready(fresh)
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_who_stops_its_keeper_is_ended_all_the_same(boundary: Boundary, tmp_path: Path) -> None:
    """Z25.  The warden wakes a stopped keeper at once."""
    with trials(tmp_path, ["stops_keeper"]) as [attacker]:
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            with anyio.fail_after(PATIENCE):
                async with containment.start(attacker.spec()) as tree:
                    await wait_ready(tree)
                    ask(tree)
                    await anyio.wait_readable(tree.stdout)  # the answer: it has struck
            assert attacker.truth.is_empty()


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_a_flood_on_stdout_and_stderr_does_not_hold_up_anybody(boundary: Boundary, tmp_path: Path) -> None:
    """Z28.  A neighbour is asked, answers, starts and ends while the flood goes on: no clock has a say in this.

    The flood is endless, so whoever waited for its end would wait for ever.
    """
    with trials(tmp_path, ["chatty", "polite", "daemonises"]) as (flood, neighbour, later):
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            async with containment.start(flood.spec()) as tree, containment.start(neighbour.spec()) as beside:
                await wait_ready(tree)
                await wait_ready(beside)
                for _ in range(20):
                    await anyio.wait_readable(tree.stdout)
                    os.read(tree.stdout, 1 << 16)  # it goes on: what is taken out comes after
                    ask(beside)
                    await anyio.wait_readable(beside.stdout)
                    assert b"struck" in os.read(beside.stdout, 65536)
                async with containment.start(later.spec()) as other:
                    await wait_ready(other)
                assert later.truth.is_empty()
                await anyio.wait_readable(tree.stdout)
                assert len(flood.truth.survivors()) == 3
                assert 0 < len(tree.stderr_tail) <= 4096
            assert flood.truth.is_empty()
            assert (await tree.wait_gone()).reason is EndReason.RELEASED  # its own keeper heard of it, no other did


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_what_cannot_be_killed_is_stuck_until_it_can(
    boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    """Z47: a process in a frozen cgroup does not die of SIGKILL before it is thawed.

    Mutant seen to fail here: a keeper that takes its kill for the proof.
    """
    stop = StopTimes(stdin_grace=0.05, term_grace=0.05, leader_exit_grace=0.05, stuck_after=0.3)
    with trials(tmp_path, ["scrubs", "polite"]) as (frozen, other):
        if frozen.truth.group is None or not frozen.truth.group.can_freeze:
            pytest.skip("no freezer here")
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            tree = containment.start(frozen.spec(stop))
            await wait_ready(tree)
            with frozen.truth.group.frozen():
                tree.release()
                with anyio.fail_after(PATIENCE), pytest.raises(TreeStuck):
                    await tree.wait_gone()
                [status] = containment.trees()
                assert status.state is TreeState.STUCK
                assert status.stuck
                async with containment.start(other.spec()) as beside:
                    await wait_ready(beside)
                assert other.truth.is_empty()
            await wait_thawed_gone(tree)
            assert frozen.truth.is_empty()
            assert containment.trees() == ()
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_when_its_keeper_is_dead_too_it_is_stuck_until_it_can_be_killed(
    boundary: Boundary, tmp_path: Path
) -> None:
    """Z47 under the warden.  Mutant seen to fail here: a warden that takes its kill pass for the proof."""
    stop = StopTimes(stuck_after=0.3)
    with trials(tmp_path, ["scrubs"]) as [frozen]:
        if frozen.truth.group is None or not frozen.truth.group.can_freeze:
            pytest.skip("no freezer here")
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            tree = containment.start(frozen.spec(stop))
            await wait_ready(tree)
            with frozen.truth.group.frozen():
                [keeper] = [status.keeper_pid for status in containment.trees()]
                os.kill(keeper or 0, signal.SIGKILL)
                with anyio.fail_after(PATIENCE), pytest.raises(TreeStuck):
                    await tree.wait_gone()
            await wait_thawed_gone(tree)
            assert frozen.truth.is_empty()


async def wait_thawed_gone(tree: ProcessTree) -> None:
    """Its keeper tries again four times a second; until then it is stuck, whenever we ask."""
    with anyio.fail_after(PATIENCE):
        while True:
            with contextlib.suppress(TreeStuck):
                await tree.wait_gone()
                return
            await anyio.sleep(0.02)


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_output_that_is_written_after_the_end_of_stdin_arrives_whole(boundary: Boundary, tmp_path: Path) -> None:
    """Z04: 8 MB, while the server takes its time to leave; nobody kills it early."""
    with trials(tmp_path, ["slow_flush"]) as [slow]:
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            async with containment.start(slow.spec(StopTimes(stdin_grace=20.0))) as tree:
                await wait_ready(tree)
                tree.close_stdin()
                received = 0
                with anyio.fail_after(PATIENCE):
                    while True:
                        await anyio.wait_readable(tree.stdout)
                        if not (chunk := os.read(tree.stdout, 1 << 20)):
                            break
                        received += len(chunk)
                end = await tree.wait_ended()
            assert received >= 128 * 65536
            assert (end.reason, end.returncode) == (EndReason.LEADER_EXIT, 0)


async def test_end_of_file_on_stdout_comes_when_the_last_holder_is_gone_and_not_before(tmp_path: Path) -> None:
    """Z09: the leader is gone at once; a daemon holds the pipe until the tree is ended."""
    patient = StopTimes(leader_exit_grace=0.5)
    with trials(tmp_path, ["holds_stdout"]) as [holder]:
        async with (
            Containment.open(tmp_path / "state") as containment,
            containment.start(holder.spec(patient)) as tree,
        ):
            await wait_ready(tree)
            await tree.wait_ended()
            with pytest.raises(BlockingIOError):
                os.read(tree.stdout, 1)
            await tree.wait_gone()
            assert os.read(tree.stdout, 1) == b""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_ten_thousand_processes_are_ended(boundary: Boundary, tmp_path: Path, bystanders: Bystanders) -> None:
    """Z19, and Z21 with SEXTON_FULL; by default a tenth of that."""
    count, bound = (10_000, 300.0) if "SEXTON_FULL" in os.environ else (1_000, promised(20.0))
    with trials(tmp_path, ["wide"], "--count", str(count)) as [crowd]:
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            async with containment.start(crowd.spec()) as tree:
                await wait_ready(tree, within=600.0)
                tree.kill()
                with anyio.fail_after(bound):
                    await tree.wait_gone()
            assert crowd.truth.is_empty(), "proven empty, and alive"
    assert bystanders


@needs_namespaces
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_when_somebody_kills_everybody_the_next_start_finds_who_is_left(
    boundary: Boundary, tmp_path: Path, bystanders: Bystanders
) -> None:
    """Z27 in a PID namespace: gateway, warden and keepers die at once; the attacker is exempt from its own signal.

    Mutant seen to fail here: no recovery at the next start.
    """
    program = Path(__file__).parents[1] / "zoo" / "own_pid_namespace.py"
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, str(program)]
    (tmp_path / "inside").mkdir()
    path = os.pathsep.join(str(ZOO.parents[2] / part) for part in ("src", "tests"))
    done = subprocess.run(
        [*command, str(tmp_path / "inside"), boundary],
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"after attack": 1, "after start": 0, "recovered": ["daemonises", "kills_everybody"]}
    assert bystanders


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_who_kills_everybody_of_its_own_user_disturbs_nobody_else(boundary: Boundary, tmp_path: Path) -> None:
    """Z27 as a user that nobody else is: its neighbour lives, its own tree is ended whole."""
    user = str(0x70000000 + os.getpid())
    with (
        trials(tmp_path, ["kills_everybody"], "--user", user) as [attacker],
        trials(tmp_path, ["daemonises"]) as [neighbour],
    ):
        async with (
            Containment.open(tmp_path / "state", boundary=boundary) as containment,
            containment.start(neighbour.spec()) as beside,
        ):
            await wait_ready(beside)
            async with containment.start(attacker.spec()) as tree:
                await wait_ready(tree)
                ask(tree)
                await anyio.wait_readable(tree.stdout)  # the answer: it has struck
                assert len(neighbour.truth.survivors()) == 2
            assert attacker.truth.is_empty()
            assert len(neighbour.truth.survivors()) == 2


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_who_takes_too_much_memory_is_killed_by_the_kernel_and_its_tree_ends(
    boundary: Boundary, tmp_path: Path
) -> None:
    """Z48: the kernel's own kill, in a memory cgroup of version 1; the leader goes, its daemon is ended, we live."""
    with memory_cgroup(megabytes=48) as group:
        arguments = ("--memory", str(group / "cgroup.procs"))
        with trials(tmp_path, ["eats_memory"], *arguments) as [hungry], trials(tmp_path, ["polite"]) as [neighbour]:
            async with (
                Containment.open(tmp_path / "state", boundary=boundary) as containment,
                containment.start(neighbour.spec()) as beside,
            ):
                await wait_ready(beside)
                async with containment.start(hungry.spec()) as tree:
                    await wait_ready(tree)
                    ask(tree)
                    with anyio.fail_after(PATIENCE):
                        end = await tree.wait_gone()
                    assert hungry.truth.is_empty()
                assert (end.reason, end.signal) == (EndReason.LEADER_EXIT, signal.SIGKILL)
                ask(beside)
                await anyio.wait_readable(beside.stdout)
            assert neighbour.truth.is_empty()


@contextlib.contextmanager
def memory_cgroup(*, megabytes: int) -> Iterator[Path]:
    hierarchy = mounted_hierarchies().get("memory")
    if hierarchy is None or not os.access(hierarchy, os.W_OK):
        pytest.skip("no memory cgroup of version 1 that we may use")
    group = hierarchy / f"zoo-memory-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(megabytes << 20))
    yield group
    wait_until(lambda: (group / "cgroup.procs").read_text() == "", within=PATIENCE)
    group.rmdir()


# Processes of other daemons: none of ours, so nobody signals them


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_what_another_daemon_started_on_request_is_not_signalled(boundary: Boundary, tmp_path: Path) -> None:
    """Z44, Z45: a stand-in for systemd-run and at, which starts it with the environment of who asked, as `at` does."""
    with AnotherDaemon(tmp_path) as daemon, trials(tmp_path, ["delegates"], "--service", daemon.socket) as [server]:
        async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
            async with containment.start(server.spec()) as tree:
                await wait_ready(tree)
            assert server.truth.is_empty()
            await containment.sweep()
        daemon.assert_untouched(count=1)


@needs_cgroup
def test_what_another_daemon_started_is_reported_and_not_signalled_by_a_recovery(tmp_path: Path) -> None:
    """Z44: it carries the cookie of a tree, in the cgroup of the daemon: escaped by delegation."""
    state = tmp_path / "state"
    with cgroup_of_a_service() as home, AnotherDaemon(tmp_path, in_own_cgroup=True) as daemon:
        with trials(tmp_path, ["delegates"], "--service", daemon.socket) as made:
            with GatewayProcess(state, Boundary.SUBREAPER) as gateway:
                for pid in (gateway.pid, *helpers_of(gateway.pid)):
                    (home / "cgroup.procs").write_text(str(pid))
                gateway.start(made)
                gateway.kill_with_all_helpers()
            with GatewayProcess(state, Boundary.SUBREAPER):
                assert made[0].truth.is_empty()
        report = last_recovery(state)
        assert report
        assert report["trees"][0]["escaped"] == daemon.started
        daemon.assert_untouched(count=1)


@contextlib.contextmanager
def cgroup_of_a_service() -> Iterator[Path]:
    """Where a service manager would have put the gateway."""
    mount = unified_mount()
    assert mount
    group = mount / f"zoo-gateway-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    yield group
    wait_until(lambda: (group / "cgroup.procs").read_text() == "", within=PATIENCE)
    group.rmdir()


async def test_a_container_that_a_server_starts_by_itself_is_the_engines_business(tmp_path: Path) -> None:
    """Z43, `docker run -d` from inside a server: its label is not ours, so nobody removes it, and nobody signals it."""
    with FakeEngine(tmp_path) as engine:
        inner = " ".join(engine.argv("run", "-d", "--cidfile", str(tmp_path / "cid"), "stubborn"))
        spec = ProcessSpec(name="sh", argv=("sh", "-c", f"{inner}; exec cat"), env=engine.env, stop=QUICK)
        async with Containment.open(tmp_path / "state") as containment:
            async with containment.start(spec):
                await wait_for(lambda: len(engine.asked("start")) == 1)
            assert containment.trees() == ()
        assert len(engine.containers()) == 1


async def test_a_detached_container_that_we_are_asked_for_goes_with_its_tree(tmp_path: Path) -> None:
    """Z43 as the command of a server: the client exits at once, which ends the tree, and with that its container."""
    with FakeEngine(tmp_path) as engine:
        async with Containment.open(tmp_path / "state") as containment:
            async with containment.start(engine.spec("run", "-d", "stubborn", stop=QUICK)):
                await wait_for(lambda: len(engine.asked("start")) == 1)
            await wait_for(lambda: containment.trees() == ())
            assert engine.containers() == []


# Containers


@pytest.mark.parametrize("client", ["docker", "podman"])
async def test_the_containers_of_a_tree_are_removed_when_its_processes_are_gone(client: str, tmp_path: Path) -> None:
    """Z41, Z42: the client is killed, the container would run on."""
    with FakeEngine(tmp_path) as engine:
        async with Containment.open(tmp_path / "state") as containment:
            async with containment.start(engine.spec("run", "-i", "--rm", "stubborn", stop=QUICK, client=client)):
                await wait_for(lambda: len(engine.asked("start")) == 1)
                assert len(engine.containers()) == 1
            await wait_for(lambda: containment.trees() == ())
            assert engine.containers() == []


async def test_a_container_that_cannot_be_removed_is_pending_until_a_sweep_can(tmp_path: Path) -> None:
    with FakeEngine(tmp_path) as engine:
        async with Containment.open(tmp_path / "state") as containment:
            async with containment.start(engine.spec("run", "-i", "--rm", "stubborn", stop=QUICK)):
                await wait_for(lambda: len(engine.asked("start")) == 1)
                [keeper] = [status.keeper_pid for status in containment.trees()]
                engine.go_away()
            await wait_for(lambda: not Path(f"/proc/{keeper}").exists())  # it has tried, and given up
            [status] = containment.trees()
            assert status.state is TreeState.EXTERNAL_PENDING
            assert status.pids == ()
            engine.come_back()

            await containment.sweep()

            assert containment.trees() == ()
            assert engine.containers() == []


async def test_containers_are_removed_when_the_gateway_is_killed(tmp_path: Path) -> None:
    with FakeEngine(tmp_path) as engine:
        program = (
            "import anyio, os, sys; from pathlib import Path; from sexton.containment import *\n"
            "async def main():\n"
            "  async with Containment.open(Path(sys.argv[1])) as c:\n"
            "    tree = c.start(ProcessSpec(name='d', argv=tuple(sys.argv[2:]), inherit_env=('PATH',)))\n"
            "    await anyio.sleep_forever()\n"
            "anyio.run(main)"
        )
        command = [
            sys.executable,
            "-c",
            program,
            str(tmp_path / "state"),
            *engine.argv("run", "-i", "--rm", "stubborn"),
        ]
        with subprocess.Popen(command, env={**os.environ, **engine.env}) as gateway:
            await wait_for(lambda: len(engine.asked("start")) == 1)
            gateway.kill()
        await wait_for(lambda: engine.containers() == [])


async def test_a_client_that_is_not_there_leaves_nothing_pending(tmp_path: Path) -> None:
    async with Containment.open(tmp_path / "state") as containment:
        spec = ProcessSpec(name="gone", argv=("/nowhere/docker", "run", "x"))
        async with containment.start(spec) as tree:
            with pytest.raises(SpawnFailed):
                await tree.wait_started()
        assert containment.trees() == ()


async def wait_for(condition: Callable[[], bool]) -> None:
    await anyio.to_thread.run_sync(lambda: wait_until(condition, within=PATIENCE))
