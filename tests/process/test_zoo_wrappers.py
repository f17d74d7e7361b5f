"""Real servers behind real launchers: npx, uvx, npm run, shells, node's detached children.

A launcher is a small tree before its server has begun; killing the process that was asked for leaves the others.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from process.conftest import BOUNDARIES, needs_cgroup
from sexton.containment import Boundary, Containment
from waiting import promised
from zoo.gateway_process import GatewayProcess
from zoo.oracles import PYTHON, ZOO, Bystanders, wait_until
from zoo.trial import Trial, program, wait_ready

pytestmark = pytest.mark.anyio

SERVER = " ".join((*PYTHON, str(ZOO), "daemonises"))
DETACHED = """
const { spawn } = require('child_process');
spawn('sleep', ['86400'], { detached: true, stdio: 'ignore' }).unref();
spawn(process.execPath, ['-e', 'setInterval(() => 0, 1000)'], { detached: true, stdio: 'ignore' }).unref();
console.log(JSON.stringify({ jsonrpc: '2.0', method: 'notifications/message', params: { data: { "ready": 1 } } }));
process.stdin.resume();
"""
PROMISED = promised(4.0)
"""Seconds within which nothing is left when one of us is killed: two, on a machine that has time for us (P7)."""
NPX = ("npx", "-y", "@modelcontextprotocol/server-memory@2026.8.31")
UVX = (str(Path(sys.executable).with_name("uvx")), "mcp-server-time@2026.10.19")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")


@pytest.fixture
def bystanders(tmp_path: Path) -> Iterator[Bystanders]:
    with Bystanders(tmp_path, [(*PYTHON, str(ZOO), "daemonises")]) as fleet:
        yield fleet
        fleet.assert_untouched()


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[tuple[Trial, ...]]:
    """Z37, Z38, Z39, Z40, Z46: what needs no network."""
    (tmp_path / "package.json").write_text(json.dumps({"name": "zoo", "scripts": {"serve": SERVER}}))
    (tmp_path / "detached.js").write_text(DETACHED)
    installed = tmp_path / "installed-server"
    installed.write_text(f"#!{sys.executable}\nimport os\nos.spawnvp(os.P_WAIT, {PYTHON[0]!r}, {SERVER.split()!r})\n")
    installed.chmod(0o755)
    commands: dict[str, tuple[str, ...]] = {
        "sh": ("sh", "-c", f"{SERVER}; true"),
        "bash": ("bash", "-lc", f"{SERVER} | cat; true"),
        "installed": (str(installed),),
    }
    if shutil.which("tmux"):
        session = f"tmux -S {tmp_path}/tmux -f /dev/null new-session -d 'exec sleep 86400'"
        commands["tmux"] = ("sh", "-c", f"{session}; exec {SERVER}")
    if shutil.which("node"):
        commands |= {
            "npm run": ("npm", "run", "--silent", "--prefix", str(tmp_path), "serve"),
            "detached": ("node", str(tmp_path / "detached.js")),
        }
    with ExitStack() as cleanup:
        yield tuple(
            cleanup.enter_context(program(tmp_path, name, *command, greets=True)) for name, command in commands.items()
        )


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_nothing_of_a_launcher_is_left_when_it_is_closed(
    boundary: Boundary, launched: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    await close_all(launched, boundary, tmp_path)
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("whom", ["gateway", "warden", "keepers"])
def test_nothing_of_a_launcher_is_left_when_one_of_us_is_killed(
    whom: str, boundary: Boundary, launched: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    kill_over(launched, boundary, tmp_path, whom=whom)
    assert bystanders


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_nothing_of_a_launcher_is_left_when_it_is_cancelled_while_it_starts(
    boundary: Boundary, launched: tuple[Trial, ...], tmp_path: Path, bystanders: Bystanders
) -> None:
    for trial in launched:
        await cancel_while_starting(trial, boundary, tmp_path)
    assert bystanders


async def close_all(made: tuple[Trial, ...], boundary: Boundary, tmp_path: Path) -> None:
    async def one(trial: Trial) -> None:
        async with containment.start(trial.spec()) as tree:
            await wait_ready(tree)
            assert len(trial.truth.survivors()) >= 2, "this launcher starts nobody, so it would prove nothing"
        assert trial.truth.is_empty(), trial.kind

    async with (
        Containment.open(tmp_path / "state", boundary=boundary) as containment,
        anyio.create_task_group() as tasks,
    ):
        for trial in made:
            tasks.start_soon(one, trial)


def kill_over(made: tuple[Trial, ...], boundary: Boundary, tmp_path: Path, *, whom: str = "gateway") -> None:
    with GatewayProcess(tmp_path / "state", boundary) as gateway:
        gateway.start(made)
        victims = {"gateway": [gateway.pid], "warden": [gateway.warden], "keepers": gateway.keepers()}
        for pid in victims[whom]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(trial.truth.is_empty() for trial in made), within=PROMISED)


async def cancel_while_starting(trial: Trial, boundary: Boundary, tmp_path: Path) -> None:
    """The launcher runs, and is still busy with finding its server."""
    async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
        with anyio.CancelScope() as scope:
            async with containment.start(trial.spec()) as tree:
                await tree.wait_started()
                scope.cancel()
                await anyio.sleep_forever()
        assert trial.truth.is_empty()


@pytest.fixture
def npx(tmp_path: Path) -> Iterator[Trial]:
    """Z35: npm exec, then a shell, then node."""
    with program(tmp_path, "npx", *NPX) as trial:
        yield trial


@pytest.fixture
def uvx(tmp_path: Path) -> Iterator[Trial]:
    """Z36: uv, then python."""
    with program(tmp_path, "uvx", *UVX) as trial:
        yield trial


@pytest.mark.npm
@needs_node
async def test_an_npx_chain_closes(npx: Trial, tmp_path: Path, bystanders: Bystanders) -> None:
    await close_all((npx,), Boundary.SUBREAPER, tmp_path)
    assert bystanders


@pytest.mark.npm
@needs_node
@needs_cgroup
def test_an_npx_chain_ends_with_its_gateway(npx: Trial, tmp_path: Path, bystanders: Bystanders) -> None:
    kill_over((npx,), Boundary.CGROUP, tmp_path)
    assert bystanders


@pytest.mark.npm
@needs_node
async def test_an_npx_chain_is_cancelled_while_it_starts(npx: Trial, tmp_path: Path) -> None:
    await cancel_while_starting(npx, Boundary.SUBREAPER, tmp_path)


@pytest.mark.uv
@needs_cgroup
async def test_a_uvx_chain_closes(uvx: Trial, tmp_path: Path, bystanders: Bystanders) -> None:
    await close_all((uvx,), Boundary.CGROUP, tmp_path)
    assert bystanders


@pytest.mark.uv
def test_a_uvx_chain_ends_with_its_gateway(uvx: Trial, tmp_path: Path, bystanders: Bystanders) -> None:
    kill_over((uvx,), Boundary.SUBREAPER, tmp_path)
    assert bystanders


@pytest.mark.uv
async def test_a_uvx_chain_is_cancelled_while_it_starts(uvx: Trial, tmp_path: Path) -> None:
    await cancel_while_starting(uvx, Boundary.SUBREAPER, tmp_path)
