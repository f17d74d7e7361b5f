"""A run that is one program."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, final

import anyio

from sexton.actions.captured import Captured
from sexton.containment import (
    Containment,
    ContainmentError,
    EndReason,
    ProcessSpec,
    ProcessTree,
    StopTimes,
    TreeEnd,
    TreeStuck,
)
from sexton.journal import JSON
from sexton.scheduler import Outcome, RunContext, RunFailed

# Kept of each of the two streams, in bytes: half a MiB, so that a run keeps at most one.
MOST_KEPT = 524_288
MOST_LINE = 4_000
CHUNK = 65_536


async def run_command(containment: Containment, action: Mapping[str, JSON], ctx: RunContext) -> Outcome:
    """Run a program until it exits by itself; what it wrote to stdout is the run's output.

    `action` holds `argv` (program and arguments, no shell), and optionally `env` (added to the inherited ones) and
    `cwd`.  Its stdin is empty.  Lines on stderr go to the run's log.  Whatever it writes counts as progress.  Helpers
    that it leaves behind are ended with it, and so is all of it when this task is cancelled, by leaving the tree.

    Raises:
        RunFailed: it could not be started, exited with another status than 0, or was ended from outside.
    """
    with _open_pipe(ctx) as stderr:
        try:
            tree = containment.start(_spec(action, ctx, stderr=stderr.theirs))
            stderr.close_theirs()  # The tree has its own by now; ours would keep the pipe from ever ending.
            async with tree:
                return await _watch(tree, stderr.ours, ctx)
        except ContainmentError as error:
            raise RunFailed(error.what, hint=error.hint) from error


def _spec(action: Mapping[str, JSON], ctx: RunContext, *, stderr: int) -> ProcessSpec:
    argv, env, cwd = action.get("argv"), action.get("env") or {}, action.get("cwd")
    if not isinstance(argv, list | tuple) or not argv or not isinstance(env, Mapping):
        raise RunFailed(f"Job '{ctx.job.name}' names no program.", hint='write command = ["program", "argument"]')
    return ProcessSpec(
        name=ctx.job.name,
        argv=tuple(str(word) for word in argv),
        owner=f"run:{ctx.run.id}",
        env={**_facts(ctx), **{str(name): str(value) for name, value in env.items()}},
        cwd=Path(str(cwd)).expanduser() if cwd else None,
        stderr=stderr,
        stop=StopTimes(stdin_grace=0.0, orphaned_stdin_grace=0.0),  # Its stdin has ended long since.
    )


def _facts(ctx: RunContext) -> dict[str, str]:
    """Which run it is, for programs that make use of it: the same slot may be run again after a crash."""
    run = ctx.run
    slot = run.slot.isoformat() if run.slot else ""
    return {"SEXTON_JOB": run.job, "SEXTON_RUN": run.id, "SEXTON_SLOT": slot, "SEXTON_ATTEMPT": str(run.attempt)}


async def _watch(tree: ProcessTree, stderr: int, ctx: RunContext) -> Outcome:
    tree.close_stdin()
    await tree.wait_started()
    output = _Stream(tree.stdout, ctx)
    errors = _Stream(stderr, ctx, on_line=ctx.log)
    ctx.output_so_far = lambda: output.kept.text
    async with anyio.create_task_group() as readers:
        readers.start_soon(output.read)
        readers.start_soon(errors.read)
        end, stuck = await _wait_end(tree)
        readers.cancel_scope.cancel()
    output.read_rest()
    errors.read_rest()
    if stuck is not None:
        raise stuck
    return _outcome(tree, end, output.kept, errors.kept)


async def _wait_end(tree: ProcessTree) -> tuple[TreeEnd, TreeStuck | None]:
    end = await tree.wait_ended()
    try:
        await tree.wait_gone()
    except TreeStuck as stuck:
        return end, stuck
    return end, None


def _outcome(tree: ProcessTree, end: TreeEnd, output: Captured, errors: Captured) -> Outcome:
    details: dict[str, JSON] = {
        "returncode": end.returncode,
        "stdout_bytes": output.total,
        "stderr_bytes": errors.total,
    }
    if end.returncode == 0:
        return Outcome(output=output.text, details=details)
    if end.signal is not None:
        details["signal"] = end.signal
    last_words = errors.last_words() or output.last_words()
    told = f"\n  Its last words: {last_words}" if last_words else ""
    program = Path(tree.spec.argv[0]).name
    raise RunFailed(f"The program '{program}' {_how(end)}.{told}", output=output.text, details=details)


def _how(end: TreeEnd) -> str:
    if end.returncode is not None:
        return f"ended with status {end.returncode}"
    if end.signal is not None and end.reason is EndReason.LEADER_EXIT:
        return f"was ended by signal {end.signal} ({_signal_name(end.signal)})"
    return f"was ended from outside ({end.reason})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # A real-time signal has no name.
        return "real-time"


def _open_pipe(ctx: RunContext) -> _Pipe:
    try:
        return _Pipe()
    except OSError as error:
        raise RunFailed(
            f"The command of job '{ctx.job.name}' was not started: {error.strerror}.",
            hint="raise the limit of open files (ulimit -n), or run fewer jobs at once",
        ) from error


@final
class _Pipe:
    """A pipe whose reading end is ours and whose writing end goes to a program."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.ours, False)
        self._theirs_is_open = True

    def close_theirs(self) -> None:
        if self._theirs_is_open:
            self._theirs_is_open = False
            os.close(self.theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close_theirs()
        os.close(self.ours)


@final
class _Stream:
    """Reads one pipe of a program, for as long as it has something to say."""

    def __init__(self, fd: int, ctx: RunContext, *, on_line: Callable[[str], None] | None = None) -> None:
        self.kept = Captured(MOST_KEPT)
        self._fd = fd
        self._ctx = ctx
        self._on_line = on_line
        self._line = b""

    async def read(self) -> None:
        """Until the last writer has closed its end."""
        data: bytes | None = None
        while data != b"":
            await anyio.wait_readable(self._fd)
            data = self._read_now()

    def read_rest(self) -> None:
        """What was left in the pipe when its last writer ended."""
        while self._read_now():
            pass
        self._tell_line(self._line)
        self._line = b""

    def _read_now(self) -> bytes | None:
        """What is there; nothing at the end of the stream, None when there may be more later."""
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return None
        if data:
            self._take(data)
        return data

    def _take(self, data: bytes) -> None:
        self.kept.add(data)
        self._ctx.progress()
        if self._on_line is not None:
            *lines, rest = (self._line + data).split(b"\n")
            for line in lines:
                self._tell_line(line)
            self._line = rest[:MOST_LINE]

    def _tell_line(self, line: bytes) -> None:
        if self._on_line is not None and line.strip():
            self._on_line(line[:MOST_LINE].decode(errors="replace").rstrip())
