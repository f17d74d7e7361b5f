"""One adversary in one tree, with its truth: what the tests of the zoo start, end and judge."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from sexton.containment import ProcessSpec, ProcessTree, StopTimes
from waiting import PATIENCE
from zoo.oracles import PYTHON, ZOO, Truth, unified_mount, wait_until

QUICK = StopTimes(
    stdin_grace=0.1,
    term_grace=0.1,
    leader_exit_grace=0.1,
    orphaned_stdin_grace=0.1,
    orphaned_term_grace=0.1,
)
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "zoo", "version": "1"}},
}
STRIKE = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "strike", "arguments": {}}}

# Each costs one or a few processes.
CHEAP = (
    "polite",
    "ignores_eof",
    "stubborn",
    "slow_flush",
    "daemonises",
    "daemonises_and_exits",
    "scrubs",
    "scrubs_and_exits",
    "wipes_environ",
    "holds_stdout",
    "holds_stdin",
    "stopped",
    "inner_subreaper",
    "inner_pid_namespace",
    "terminal",
    "hopper",
    "slow_hoppers",
    "escapes",
    "chatty",
    "never_reads",
    "closes_everything",
    "parent_clones",
    "headless",
    "another_user",
)
# Each costs a core, or a hundred processes.
COSTLY = ("hoppers", "bomb", "wide", "deep", "orphans", "vforks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """An adversary that is to be contained.  `kind` is a kind of the zoo, or a name for another program.

    `greets` says that it tells when it is ready; another server is ready when it answers `initialize`.
    """

    kind: str
    truth: Truth
    argv: tuple[str, ...]
    greets: bool = True

    @property
    def owner(self) -> str:
        return "zoo" if self.greets else "program"

    def spec(self, stop: StopTimes = QUICK) -> ProcessSpec:
        return ProcessSpec(name=self.kind, argv=self.argv, owner=self.owner, stop=stop, env=dict(os.environ))


@contextmanager
def trials(folder: Path, kinds: Sequence[str], *arguments: str) -> Iterator[tuple[Trial, ...]]:
    """One trial of each of these kinds; leaving it ends whoever is left."""
    with ExitStack() as cleanup:
        refuge = cleanup.enter_context(_refuge()) if "escapes" in kinds else None
        yield tuple(cleanup.enter_context(_one(folder, kind, refuge, arguments)) for kind in kinds)


@contextmanager
def program(folder: Path, name: str, *command: str, greets: bool = False) -> Iterator[Trial]:
    """A trial of any other program (npx, uvx, a shell), which joins the truth before it is executed."""
    with Truth(folder, name) as truth:
        argv = (*PYTHON, str(ZOO), "run", *truth.arguments, "--", *command)
        yield Trial(kind=name, truth=truth, argv=argv, greets=greets)


async def wait_ready(tree: ProcessTree, *, within: float = 90.0) -> None:
    """Until the adversary says that its mischief is in place, or another server answers."""
    sign = b'"ready"'
    if tree.spec.owner == "program":
        ask(tree, INITIALIZE)
        sign = b'"serverInfo"'
    seen = b""
    with anyio.fail_after(within):
        while sign not in seen:
            await anyio.wait_readable(tree.stdout)
            chunk = os.read(tree.stdout, 65536)
            assert chunk, f"{tree.spec.name} ended before it was ready: {tree.stderr_tail}"
            seen = seen[-200:] + chunk


def ask(tree: ProcessTree, request: dict[str, object] = STRIKE) -> None:
    """Send one request; the pipe of a tree that has just begun has room for it."""
    os.write(tree.stdin, json.dumps(request).encode() + b"\n")


@contextmanager
def _one(folder: Path, kind: str, refuge: Path | None, arguments: tuple[str, ...]) -> Iterator[Trial]:
    with Truth(folder, f"{kind}-{len(list(folder.iterdir()))}") as truth:
        escape = ("--escape", str(refuge)) if kind == "escapes" else ()
        yield Trial(kind=kind, truth=truth, argv=(*PYTHON, str(ZOO), kind, *truth.arguments, *escape, *arguments))


@contextmanager
def _refuge() -> Iterator[Path]:
    """A cgroup beside those of the trees, for those who move out."""
    mount = unified_mount()
    assert mount, "no cgroup v2 here"
    folder = mount / f"zoo-refuge-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    yield folder
    wait_until(lambda: (folder / "cgroup.procs").read_text() == "", within=PATIENCE)
    folder.rmdir()
