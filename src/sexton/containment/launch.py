"""From a keeper to the program asked for: the few steps that our own code takes in the new process.

Foreign code never runs outside of the tree's cgroup leaf, nor without a keeper: the process is born in the leaf, or
joins it before it executes anything, and ends when its keeper is no more.  What went wrong comes back through a pipe
that a successful execution closes.  Standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import warnings  # noqa: F401 -- os.execvpe imports it: here it is done once, not in every new process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from sexton.containment import prctl
from sexton.containment.cgroup_boundary import Leaf
from sexton.containment.cgroup_fork import fork_into
from sexton.containment.order import Order, to_bytes

_OOM_SCORE_RAISE = 300
_OOM_SCORE_HIGHEST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFailure:
    """What the new process could not do: `stage` is cgroup, limits, cwd or exec, or keeper for the keeper itself."""

    stage: str
    errno: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A forked process on its way; `status` reads the report of its failure, or end of file when it executes."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    stdin: int
    stdout: int
    stderr: int


def launch(order: Order, stdio: Stdio, *, open_files: tuple[int, int]) -> Launched:
    """Fork the leader of a tree.  `open_files` is the (soft, hard) limit that it gets unless the order says otherwise.

    Raises:
        OSError: there can be no further process or pipe.
    """
    keeper = os.getpid()
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid, is_member = fork_leader(order.leaf)
    except OSError:
        os.close(reader)
        raise
    finally:
        if os.getpid() == keeper:
            os.close(writer)
    if pid == 0:
        _become(order, stdio, writer, keeper, open_files, is_member=is_member)
    return Launched(pid=pid, status=reader)


def fork_leader(leaf: str | None) -> tuple[int, bool]:
    """Like os.fork, and whether the new process is in the leaf already; where it is not, it joins by itself."""
    if leaf is not None:
        with suppress(OSError):  # whatever it is, the plain way does without it or tells it better
            return fork_into(leaf), True
    return os.fork(), False


@cache
def changed_signals() -> tuple[signal.Signals | int, ...]:
    """Those that we do not leave at their default.

    The warden asks first, when it has made its handlers, so that what it is told is there in all that it forks.
    """
    return tuple(signum for signum in signal.valid_signals() if signal.getsignal(signum) is not signal.SIG_DFL)


def parse_failure(report: bytes) -> LaunchFailure | None:
    """The failure that was reported; None when there was none: the program runs."""
    return LaunchFailure(**json.loads(report)) if report else None


def _become(
    order: Order, stdio: Stdio, status: int, keeper: int, open_files: tuple[int, int], *, is_member: bool
) -> None:
    """Never returns: the process becomes the program, or reports and ends."""
    stage = "keeper"
    try:
        for stage, step in _steps(order, keeper, open_files, is_member=is_member):  # noqa: B007 -- the report names it
            step()
        if not order.is_probe:
            stage = "exec"
            status = _keep_only_stdio(stdio, status)
            _execute(order)
        stage = "done"
    except BaseException as error:  # noqa: BLE001 -- nothing may unwind into the keeper's code
        _report(status, stage, error)
    os._exit(0 if stage == "done" else 127)


def _steps(
    order: Order, keeper: int, open_files: tuple[int, int], *, is_member: bool
) -> tuple[tuple[str, Callable[[], object]], ...]:
    return (
        ("cgroup", lambda: Leaf(order.leaf).join() if order.leaf and not is_member else None),
        ("keeper", os.setsid),
        ("keeper", lambda: _die_with(keeper)),
        ("limits", lambda: _limit(order, open_files)),
        ("keeper", _reset_signals),
        ("cwd", lambda: os.chdir(to_bytes(order.cwd)) if order.cwd is not None else None),
    )


def _die_with(keeper: int) -> None:
    prctl.die_with_parent(signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(127)


def _limit(order: Order, open_files: tuple[int, int]) -> None:
    _be_first_to_go()
    soft, hard = open_files
    if order.open_files is not None:
        soft = hard = order.open_files if hard == resource.RLIM_INFINITY else min(order.open_files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if order.no_new_privs:
        prctl.refuse_new_privileges()


def _be_first_to_go() -> None:
    """When memory runs out, a server goes before the gateway."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        score = min(int(file.read()) + _OOM_SCORE_RAISE, _OOM_SCORE_HIGHEST)
        file.write(str(score).encode("ascii"))


def _reset_signals() -> None:
    """A program gets every signal at its default and unblocked, not what the gateway or we have made of them."""
    signal.set_wakeup_fd(-1)
    for signum in changed_signals():
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _keep_only_stdio(stdio: Stdio, status: int) -> int:
    """Put the three in their places and close everything else but the status pipe, which becomes 3."""
    for place, descriptor in enumerate((stdio.stdin, stdio.stdout, stdio.stderr)):
        os.dup2(descriptor, place)
    if status != 3:
        os.dup2(status, 3, inheritable=False)
    os.closerange(4, max(int(name) for name in os.listdir("/proc/self/fd")) + 1)
    return 3


def _execute(order: Order) -> None:
    env = {to_bytes(name): to_bytes(value) for name, value in order.env.items()}
    argv = [to_bytes(word) for word in order.argv]
    os.execvpe(argv[0], argv, env)


def _report(status: int, stage: str, error: BaseException) -> None:
    code = (error.errno or 0) if isinstance(error, OSError) else 0
    report = {"stage": stage, "errno": code, "detail": f"{type(error).__name__}: {error}"[:1000]}
    with suppress(OSError):
        os.write(status, json.dumps(report).encode("ascii"))
