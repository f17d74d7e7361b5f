"""A tree lives no longer than its handle, and its end is proven.

Mutants seen to fail here: a keeper that takes no notice of the end of its lifeline (P2), one that does nothing when the
leader has exited and a helper stays (P3), a sweep that ends what is held (P6).
"""

from __future__ import annotations

import errno
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from process.conftest import boundaries_here, left_of
from process.programs import POLITE, PYTHON, STUBBORN, Program, read_line
from sexton.containment import (
    Boundary,
    Containment,
    ContainmentError,
    EndReason,
    Limits,
    ProcessTree,
    SpawnFailed,
    StopTimes,
    TreeEnd,
    TreeState,
)
from waiting import PATIENCE
from zoo.oracles import wait_until

PAIRS = [(boundaries_here()[0], "asyncio"), (boundaries_here()[-1], "trio")]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[Boundary, str]:
    """Each boundary and each backend; what one does is nothing to the other."""
    found: tuple[Boundary, str] = request.param
    return found


@pytest.fixture
def boundary(pair: tuple[Boundary, str]) -> Boundary:
    return pair[0]


@pytest.fixture
def anyio_backend(pair: tuple[Boundary, str]) -> str:
    return pair[1]


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
    """Z31."""
    async with containment.start(program(*argv)) as tree:
        with pytest.raises(SpawnFailed, match=said) as caught:
            await tree.wait_started()
        assert caught.value.hint
        end = await tree.wait_gone()
    assert end.reason is EndReason.SPAWN_FAILED
    assert tree.state is TreeState.SPAWN_FAILED


# What a program gets


@pytest.mark.anyio
async def test_a_program_gets_three_descriptors_and_nothing_of_our_signal_dispositions(
    containment: Containment, program: Program
) -> None:
    listing = (
        *PYTHON,
        "import os; print(sorted(os.listdir('/proc/self/fd'))); print(open('/proc/self/status').read())",
    )
    async with containment.start(program(*listing)) as tree:
        said = await read_all(tree)
    fields = dict(line.split(":\t", 1) for line in said.splitlines()[1:] if ":\t" in line)
    assert said.splitlines()[0] == "['0', '1', '2', '3']"  # 3 is the listing itself
    assert int(fields["SigBlk"], 16) == 0
    assert int(fields["SigIgn"], 16) & ~_KEPT_BY_LIBC == _ignored_by_python()
    assert fields["NoNewPrivs"] == "1"


@pytest.mark.anyio
async def test_a_program_gets_the_environment_that_is_allowed_and_that_of_its_spec(
    containment: Containment, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "x")
    async with containment.start(program("env", env={"MINE": "1", "ODD": "a\udcffb"})) as tree:
        names = {line.partition("=")[0] for line in (await read_all(tree)).splitlines()}
    assert {"PATH", "MINE", "ODD", "SEXTON_TREE"} <= names
    assert not {"SECRET_OF_OURS", "NOTIFY_SOCKET"} & names


@pytest.mark.anyio
async def test_a_program_runs_in_its_folder_with_its_limits_and_goes_first_when_memory_runs_out(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    spec = replace(
        program("sh", "-c", "pwd; ulimit -n; cat /proc/self/oom_score_adj"), cwd=tmp_path, limits=Limits(open_files=99)
    )
    async with containment.start(spec) as tree:
        folder, files, score = (await read_all(tree)).split()
    assert (folder, files) == (str(tmp_path), "99")
    assert int(score) == min(1000, int(Path("/proc/self/oom_score_adj").read_text()) + 300)


@pytest.mark.anyio
async def test_a_very_large_environment_comes_through(containment: Containment, program: Program) -> None:
    """Z34."""
    large = {f"V{number}": "x" * 100_000 for number in range(12)}
    async with containment.start(program("sh", "-c", "echo ${#V11}", env=large)) as tree:
        assert await read_all(tree) == "100000\n"


@pytest.mark.anyio
async def test_an_environment_that_no_kernel_takes_is_an_error_that_says_so(
    containment: Containment, program: Program
) -> None:
    """Z34: 5 MB are more than execve(2) takes; the keeper lives to tell, and its neighbour does not notice."""
    large = {f"V{number}": "x" * 100_000 for number in range(50)}
    async with containment.start(program(*POLITE)) as beside:
        await read_line(beside)
        async with containment.start(program("true", env=large)) as tree:
            with pytest.raises(SpawnFailed, match="too large for the kernel") as caught:
                await tree.wait_started()
            assert (await tree.wait_gone()).reason is EndReason.SPAWN_FAILED
        assert caught.value.errno == errno.E2BIG
        os.write(beside.stdin, b"still here\n")
        assert await read_line(beside) == b"still here\n"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"argv": ()}, "no command"),
        ({"argv": ("a\0b",)}, "NUL"),
        ({"env": {"A=B": "x"}}, "bad name"),
    ],
)
async def test_what_no_kernel_can_execute_is_refused_before_anything_starts(
    containment: Containment, program: Program, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ContainmentError, match=said):
        containment.start(replace(program("cat"), **change))
    assert containment.trees() == ()


@pytest.mark.anyio
async def test_a_folder_that_is_not_there_is_named(containment: Containment, program: Program, tmp_path: Path) -> None:
    """Z33."""
    async with containment.start(replace(program("cat"), cwd=tmp_path / "none")) as tree:
        with pytest.raises(SpawnFailed, match="none") as caught:
            await tree.wait_started()
    assert caught.value.errno == errno.ENOENT


# Its stderr


@pytest.mark.anyio
async def test_stderr_goes_to_a_log_with_times_and_its_last_words_are_kept(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "it.log"
    async with containment.start(program("sh", "-c", "echo one >&2; printf two >&2", stderr=log)) as tree:
        await tree.wait_gone()
    lines = log.read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["one", "two"]
    assert datetime.fromisoformat(lines[0].split(" ", 1)[0]).tzinfo is not None
    assert tree.stderr_tail == "one\ntwo"


@pytest.mark.anyio
async def test_a_program_that_floods_stderr_is_not_held_up_and_only_the_end_is_kept(
    containment: Containment, program: Program
) -> None:
    flood = (*PYTHON, "import sys\nfor n in range(200000): sys.stderr.write(f'line {n}\\n')")
    async with containment.start(program(*flood)) as tree:
        with anyio.fail_after(PATIENCE):
            assert (await tree.wait_gone()).returncode == 0
    assert len(tree.stderr_tail) == 4096
    assert tree.stderr_tail.endswith("line 199998\nline 199999\n")


@pytest.mark.anyio
async def test_stderr_can_be_a_descriptor_of_the_callers(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    with (tmp_path / "mine").open("wb") as mine:
        async with containment.start(program("sh", "-c", "echo hi >&2", stderr=mine.fileno())) as tree:
            await tree.wait_gone()
    assert (tmp_path / "mine").read_text() == "hi\n"


@pytest.mark.anyio
async def test_a_log_that_cannot_be_written_costs_the_log_and_is_said(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    async with containment.start(program(*POLITE, stderr=tmp_path / "file" / "x.log")) as tree:
        assert await read_line(tree) == b"up\n"
        assert "cannot write the log" in tree.stderr_tail


# Its end


@pytest.mark.anyio
async def test_a_handle_that_is_lost_ends_its_tree(containment: Containment, program: Program, tmp_path: Path) -> None:
    tree = containment.start(program(*STUBBORN))
    await read_line(tree)
    pids = containment.trees()[0].pids
    del tree
    gc.collect()
    wait_until(lambda: not set(left_of(tmp_path)) & set(pids), within=PATIENCE)


@pytest.mark.anyio
async def test_a_tree_ends_when_its_time_is_over_unless_that_is_renewed(
    containment: Containment, program: Program
) -> None:
    short = containment.start(program(*POLITE, ttl=2.0))
    async with containment.start(program(*POLITE, ttl=1.5)) as renewed:
        renewed.renew(1000)
        with anyio.fail_after(PATIENCE):
            assert (await short.wait_gone()).reason is EndReason.TTL
        assert renewed.progress.ended is None


@pytest.mark.anyio
async def test_kill_does_not_wait_for_any_grace(containment: Containment, program: Program) -> None:
    patient = StopTimes(stdin_grace=600, term_grace=600, leader_exit_grace=600)
    async with containment.start(program(*STUBBORN, stop=patient)) as tree:
        await read_line(tree)
        tree.release()
        tree.kill()
        with anyio.fail_after(PATIENCE):
            assert (await tree.wait_gone()).signal == signal.SIGKILL


@pytest.mark.anyio
async def test_a_stdin_that_was_closed_leads_nowhere_and_keeps_its_number(
    containment: Containment, program: Program, tmp_path: Path
) -> None:
    async with containment.start(program(*POLITE)) as tree:
        await read_line(tree)
        tree.close_stdin()
        with (tmp_path / "stranger").open("wb") as stranger:
            assert stranger.fileno() != tree.stdin
            with pytest.raises(BrokenPipeError):
                os.write(tree.stdin, b"meant for the server")
        assert (tmp_path / "stranger").read_bytes() == b""


@pytest.mark.anyio
async def test_several_tasks_may_wait_for_one_tree(containment: Containment, program: Program) -> None:
    ends: list[TreeEnd] = []

    async def wait(ended: Callable[[], Awaitable[TreeEnd]]) -> None:
        ends.append(await ended())

    with anyio.fail_after(PATIENCE):
        async with containment.start(program(*POLITE)) as tree, anyio.create_task_group() as tasks:
            for ended in (tree.wait_gone, tree.wait_ended, tree.wait_gone, tree.wait_ended):
                tasks.start_soon(wait, ended)
            await read_line(tree)
            await anyio.wait_all_tasks_blocked()
            tree.release()
    assert [end.reason for end in ends] == [EndReason.RELEASED] * 4


@pytest.mark.anyio
async def test_a_tree_may_be_waited_for_and_released_from_other_threads(
    containment: Containment, program: Program, anyio_backend: str
) -> None:
    tree = containment.start(program(*POLITE))
    await read_line(tree)

    async def wait() -> EndReason:
        with anyio.fail_after(PATIENCE):
            return (await tree.wait_gone()).reason

    def in_a_loop_of_its_own() -> EndReason:
        return anyio.run(wait, backend=anyio_backend)

    reasons: list[EndReason] = []
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:

            async def collect() -> None:
                reasons.append(await anyio.to_thread.run_sync(in_a_loop_of_its_own))

            tasks.start_soon(collect)
            tasks.start_soon(collect)
            await anyio.to_thread.run_sync(tree.release)
            reasons.append(await wait())
    assert reasons == [EndReason.RELEASED] * 3


@pytest.mark.anyio
async def test_no_descriptor_is_left_after_a_thousand_trees(containment: Containment, program: Program) -> None:
    async def cycle(argv: tuple[str, ...]) -> None:
        async with containment.start(program(*argv)) as tree:
            tree.close_stdin()
            await tree.wait_gone()

    await cycle(("true",))
    before = _open_descriptors()
    for _ in range(1_000 // 10):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(cycle, ("true",) if number else ("sexton-no-such-command",))
    wait_until(lambda: _open_descriptors() == before, within=PATIENCE)


@pytest.mark.anyio
async def test_leaving_the_containment_ends_what_is_still_held(
    tmp_path: Path, boundary: Boundary, program: Program, none_left: None
) -> None:
    async with Containment.open(tmp_path / "state", boundary=boundary) as containment:
        tree = containment.start(program(*STUBBORN))
        await read_line(tree)
        containment.start(program(*STUBBORN))  # nobody keeps this handle
    assert tree.state is TreeState.GONE
    with pytest.raises(ContainmentError, match="closed"):
        containment.start(program("cat"))
    instances = list((tmp_path / "state" / "contain").rglob("*.rec"))
    assert instances == []


@pytest.mark.anyio
async def test_a_sweep_disturbs_nothing_that_is_in_use_unless_told_to(
    containment: Containment, program: Program
) -> None:
    tree = containment.start(program(*POLITE))
    await read_line(tree)
    await containment.sweep()
    os.write(tree.stdin, b"in use\n")
    assert await read_line(tree) == b"in use\n"
    report = await containment.sweep(include_active=True)
    assert report.ended == (tree.id,)
    assert tree.state is TreeState.GONE


async def read_all(tree: ProcessTree) -> str:
    content = b""
    with anyio.fail_after(PATIENCE):
        while chunk := await _read_some(tree):
            content += chunk
    return content.decode("utf-8", "surrogateescape")


async def _read_some(tree: ProcessTree) -> bytes:
    await anyio.wait_readable(tree.stdout)
    return os.read(tree.stdout, 65536)


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


_KEPT_BY_LIBC = 0b11 << 31
"""Signals 32 and 33, which a program cannot set (nptl(7)); they may come to us ignored."""


def _ignored_by_python() -> int:
    """A Python ignores these by itself: the program was started with none ignored."""
    return sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))


@pytest.mark.anyio
async def test_many_may_be_started_in_one_go(containment: Containment, program: Program) -> None:
    trees = [containment.start(program("true")) for _ in range(150)]
    with anyio.fail_after(60):
        for tree in trees:
            assert (await tree.wait_gone()).returncode == 0
