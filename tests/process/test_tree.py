"""A tree lives no longer than its handle, and its end is proven."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from process.conftest import MARK
from sexton.containment import (
    Containment,
    EndReason,
    ProcessSpec,
    ProcessTree,
    SpawnFailed,
    StopTimes,
    TreeState,
)

QUICK = StopTimes(stdin_grace=0.1, term_grace=0.1, leader_exit_grace=0.05)
PYTHON = (sys.executable, "-I", "-S", "-E", "-c")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


class Program:
    """Makes specs whose processes this test can recognise."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self, *argv: str, stop: StopTimes = QUICK, ttl: float | None = None, stderr: Path | None = None
    ) -> ProcessSpec:
        return ProcessSpec(name=argv[0], argv=argv, env={MARK: str(self._folder)}, stop=stop, ttl=ttl, stderr=stderr)


async def read_line(tree: ProcessTree) -> bytes:
    with anyio.fail_after(20):
        await anyio.wait_readable(tree.stdout)
        return os.read(tree.stdout, 4096)


@pytest.mark.anyio
async def test_a_polite_program_talks_and_ends_by_end_of_file(containment: Containment, program: Program) -> None:
    async with containment.start(program("cat")) as tree:
        await tree.wait_started()
        os.write(tree.stdin, b"hello\n")
        assert await read_line(tree) == b"hello\n"
        tree.close_stdin()
        end = await tree.wait_gone()
    assert (end.reason, end.returncode, end.signal) == (EndReason.LEADER_EXIT, 0, None)


@pytest.mark.anyio
async def test_leaving_the_context_ends_a_program_that_ignores_everything(
    containment: Containment, program: Program
) -> None:
    stubborn = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile True: time.sleep(9)"
    )
    async with containment.start(program(*PYTHON, stubborn)) as tree:
        assert await read_line(tree) == b"up\n"
    end = await tree.wait_gone()
    assert (end.reason, end.signal) == (EndReason.RELEASED, signal.SIGKILL)
    assert containment.trees() == ()


@pytest.mark.anyio
async def test_a_helper_that_outlives_its_leader_is_ended(containment: Containment, program: Program) -> None:
    async with containment.start(program("sh", "-c", "setsid sleep 1000 & exit 3")) as tree:
        end = await tree.wait_ended()
        assert (end.reason, end.returncode) == (EndReason.LEADER_EXIT, 3)
        assert await tree.wait_gone() == end


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("sexton-no-such-command",), "was not found"),
        (("/no/such/file",), "no program"),
        (("/etc/passwd",), "not executable"),
    ],
)
async def test_a_program_that_cannot_run_is_an_error_that_says_why(
    containment: Containment, program: Program, argv: tuple[str, ...], said: str
) -> None:
    async with containment.start(program(*argv)) as tree:
        with pytest.raises(SpawnFailed, match=said) as caught:
            await tree.wait_started()
        assert caught.value.hint
        end = await tree.wait_gone()
    assert end.reason is EndReason.SPAWN_FAILED
    assert tree.state is TreeState.SPAWN_FAILED
