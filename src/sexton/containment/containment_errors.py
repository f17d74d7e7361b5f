"""What can go wrong with a tree, in words for people."""

from __future__ import annotations

import errno
import os

from sexton.containment.launch import LaunchFailure
from sexton.containment.ledger import Stuck
from sexton.containment.spec import ProcessSpec
from sexton.errors import SextonError


class ContainmentError(SextonError):
    """A tree could not be held as promised."""


class SpawnFailed(ContainmentError):
    """The program could not be started; nothing of it is left.  `errno` is 0 where no system call failed."""

    def __init__(self, what: str, *, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.errno = errno


class TreeStuck(ContainmentError):
    """Something of the tree does not end although it was killed; its keeper goes on trying."""

    def __init__(self, what: str, *, stuck: tuple[Stuck, ...], hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.stuck = stuck


def spawn_failed(spec: ProcessSpec, failure: LaunchFailure | None, *, had_keeper: bool) -> SpawnFailed:
    """The error for a launch that came to nothing; None: it was ended before it could begin."""
    program = spec.argv[0]
    if failure is None and not had_keeper:
        return SpawnFailed(
            f"{spec.name!r} was not started: the warden died when it was asked, or has no free descriptor;"
            " nothing of it ran.",
            hint="try again: there is a new warden then; if it stays, raise the limit of open files (ulimit -n)",
        )
    if failure is None:
        return SpawnFailed(f"{spec.name!r} was ended before {program!r} ran.")
    reason, hint = _explain(spec, failure)
    return SpawnFailed(f"{spec.name!r} could not be started: {reason}.", errno=failure.errno, hint=hint)


def tree_stuck(spec: ProcessSpec, stuck: tuple[Stuck, ...]) -> TreeStuck:
    which = "; ".join(f"process {one.pid}: {one.why}" if one.pid else one.why for one in stuck)
    return TreeStuck(
        f"{spec.name!r} was killed, but something of it does not end ({which}). Its keeper goes on trying.",
        stuck=stuck,
        hint="see what it waits for (often a file system that does not answer), then look at it again with: sexton ps",
    )


def _explain(spec: ProcessSpec, failure: LaunchFailure) -> tuple[str, str | None]:
    if failure.stage == "exec":
        return _explain_exec(spec, failure)
    text = os.strerror(failure.errno) if failure.errno else failure.detail
    if failure.stage == "cwd":
        return f"its folder {str(spec.cwd)!r} cannot be entered ({text})", "create that folder, or change its cwd"
    if failure.stage == "cgroup":
        return f"it cannot be put into a cgroup of its own ({failure.detail or text})", "run: sexton doctor"
    if failure.stage == "limits":
        return f"its limits cannot be set ({failure.detail or text})", "change its limits"
    return failure.detail or text, None


def _explain_exec(spec: ProcessSpec, failure: LaunchFailure) -> tuple[str, str | None]:
    program = spec.argv[0]
    match failure.errno:
        case errno.ENOENT if "/" in program:
            return (
                f"there is no program {program!r}, or the interpreter in its first line does not exist",
                "correct the path of the command",
            )
        case errno.ENOENT | errno.ENOTDIR:
            return f"the command {program!r} was not found", f"install {program!r}, or give its full path"
        case errno.EACCES:
            return f"{program!r} is not executable for us", f"run: chmod +x {program} (or correct the command)"
        case errno.ENOEXEC:
            return f"{program!r} is no program: it has no #! line", "start it through its interpreter"
        case errno.E2BIG:
            return "its arguments and environment are too large for the kernel", "pass large values in a file"
        case 0:
            return failure.detail, None
        case code:
            return f"{program!r} cannot be executed ({os.strerror(code)})", None
