"""Programs as runs: real processes, their output, their ends, and that none is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from fake_clock import wait_until
from process.programs import Program
from sexton.actions import run_command
from sexton.containment import Containment
from sexton.scheduler import Job, Outcome, Run, RunContext, RunFailed, RunState, Trigger
from waiting import PATIENCE

pytestmark = pytest.mark.anyio


class Watcher:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress = 0

    def context(self) -> RunContext:
        run = Run(id="1", job="backup", state=RunState.RUNNING, trigger=Trigger.MANUAL, created_at=datetime.now(UTC))
        return RunContext(run, Job(name="backup"), progress=self._on_progress, log=self.lines.append)

    def _on_progress(self, text: str | None) -> None:
        self.progress += 1


async def run(containment: Containment, *argv: str, watcher: Watcher | None = None, **action: Any) -> Outcome:
    wanted: Mapping[str, Any] = {"kind": "command", "argv": list(argv), **action}
    with anyio.fail_after(PATIENCE):
        return await run_command(containment, wanted, (watcher or Watcher()).context())


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


async def test_what_it_writes_is_the_output(containment: Containment) -> None:
    watcher = Watcher()
    outcome = await run(containment, "sh", "-c", "echo one; echo two; echo aside >&2; printf end >&2", watcher=watcher)
    assert outcome.output == "one\ntwo\n"
    assert watcher.lines == ["aside", "end"]
    assert watcher.progress
    assert outcome.details == {"returncode": 0, "stdout_bytes": 8, "stderr_bytes": 9}


async def test_environment_folder_and_an_empty_stdin(containment: Containment, tmp_path: Path) -> None:
    program = "cat; pwd; echo $GREETING $SECRET; echo $PATH | head -c 1"
    os.environ["SECRET"] = "ours"
    try:
        outcome = await run(containment, "sh", "-c", program, env={"GREETING": "hello"}, cwd=str(tmp_path))
    finally:
        del os.environ["SECRET"]
    assert outcome.output == f"{tmp_path}\nhello\n/"


async def test_a_status_other_than_0_is_a_failure_with_its_last_words(containment: Containment) -> None:
    with pytest.raises(RunFailed) as raised:
        await run(containment, "sh", "-c", "echo partial; echo 'no such repository' >&2; exit 3")
    assert raised.value.what == "The program 'sh' ended with status 3.\n  Its last words: no such repository"
    assert raised.value.output == "partial\n"
    assert raised.value.details["returncode"] == 3


async def test_an_end_by_a_signal(containment: Containment) -> None:
    with pytest.raises(RunFailed, match=r"was ended by signal 9 \(SIGKILL\)"):
        await run(containment, "sh", "-c", "kill -9 $$")


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({"argv": ["no-such-program-here"]}, "was not found"),
        ({"argv": ["/etc/hostname"]}, "/etc/hostname"),
        ({"argv": ["true"], "cwd": "/no/such/folder"}, "/no/such/folder"),
        ({"argv": []}, "names no program"),
        ({"argv": "true"}, "names no program"),
    ],
)
async def test_what_cannot_be_started_says_why(containment: Containment, action: Mapping[str, Any], says: str) -> None:
    with pytest.raises(RunFailed, match=says):
        await run_command(containment, action, Watcher().context())


async def test_a_flood_of_output_is_kept_at_both_ends_and_never_blocks(containment: Containment) -> None:
    flood = "import sys; w = sys.stdout.write; w('first'); [w('x' * 99999) for _ in range(200)]; w('last')"
    outcome = await run(containment, *python(flood + "; sys.stderr.write('y' * 5_000_000 + 'end')"))
    assert outcome.output.startswith("firstx")
    assert outcome.output.endswith("xlast")
    assert len(outcome.output) < 530_000
    assert outcome.details["stdout_bytes"] == 9 + 200 * 99_999
    assert outcome.details["stderr_bytes"] == 5_000_003


async def test_a_helper_that_holds_the_output_open_does_not_hold_up_the_run(containment: Containment) -> None:
    """A daemon that inherited stdout: reading to its end of file would take a thousand seconds."""
    outcome = await run(containment, "sh", "-c", "setsid sleep 1000 & echo started")
    assert outcome.output == "started\n"
    assert containment.trees() == ()


async def test_what_a_helper_writes_after_the_leader_is_kept(containment: Containment) -> None:
    outcome = await run(containment, "sh", "-c", "(sleep 0.05; echo late) & echo early")
    assert outcome.output == "early\nlate\n"


async def test_cancel_ends_the_whole_tree(containment: Containment, program: Program) -> None:
    watcher = Watcher()
    script = "trap '' TERM; sleep 1000 & sleep 1000 & echo half done; echo up >&2; wait"
    async with anyio.create_task_group() as tasks:
        action: Mapping[str, Any] = {"argv": ["sh", "-c", script]}
        context = watcher.context()
        tasks.start_soon(run_command, containment, action, context)
        await wait_until(lambda: watcher.lines == ["up"])
        assert context.output_so_far() == "half done\n"
        (tree,) = containment.trees()
        assert tree.owner == "run:1"
        pids = tree.pids
        assert len(pids) >= 3
        tasks.cancel_scope.cancel()
    assert context.output_so_far() == "half done\n"
    assert containment.trees() == ()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


async def test_bytes_that_are_no_text(containment: Containment) -> None:
    outcome = await run(containment, *python("import sys; sys.stdout.buffer.write(b'\\xff\\x00ok')"))
    assert outcome.output == "\N{REPLACEMENT CHARACTER}\0ok"


async def test_no_descriptor_is_left_open(containment: Containment) -> None:
    await run(containment, "true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await run(containment, "true")
        with pytest.raises(RunFailed):
            await run(containment, "no-such-program-here")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
