"""A boundary by descent: every orphan of the tree is handed to this process by the kernel.

So "no child" means "no descendant".  Only the process that is the subreaper can use this: it is the one whose unreaped
children keep their pids.  Signals go to direct unreaped children, and to deeper descendants by pidfd when their descent
was read while that pidfd was held and their parent had not exited.

Sources: PR_SET_CHILD_SUBREAPER in prctl(2), /proc/PID/task/TID/children in proc(5).  Standard library only.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from sexton.containment import identity
from sexton.containment.identity import ProcessIdentity, Stat
from sexton.containment.ledger import Stuck

_DEEPEST = 64
"""A walk goes this deep, which bounds its descriptors; what is deeper comes up when its ancestors are dead."""


@dataclass(frozen=True, slots=True)
class _Member:
    stat: Stat
    pidfd: int | None
    """None when there was no free descriptor."""


class Descent:
    """The descendants of this process, but for the `spared` children and theirs.

    `pinned` is a child that is never reaped here (a tree's leader, whose pid names the process group).
    """

    def __init__(self, *, spared: Collection[int] = (), pinned: int | None = None) -> None:
        self._spared = spared
        self.pinned = pinned

    def reap(self) -> None:
        """Take the status of every child that has exited, but for the spared and the pinned.

        One by one: `waitid(P_ALL, WNOWAIT)` would show the pinned zombie for ever.
        """
        for pid in self._children():
            if pid != self.pinned:
                _reap(pid)

    def kill_all(self) -> tuple[Stuck, ...]:
        self.reap()
        refused = []
        for member in self._members():
            try:
                _kill(member)
            except PermissionError:
                refused.append(Stuck(pid=member.stat.pid, why="it runs with other credentials"))
        return tuple(refused)

    def is_empty(self) -> bool:
        """Whether no child is left but for the spared and the pinned one's zombie."""
        self.reap()
        return all(pid == self.pinned and has_child_exited(pid) for pid in self._children())

    def survivors(self) -> tuple[Stuck, ...]:
        """The members that still run, and what the kernel says they are doing."""
        return tuple(
            Stuck(pid=member.stat.pid, why=_describe(member.stat))
            for member in self._members()
            if member.stat.state != "Z"
        )

    def census(self) -> tuple[ProcessIdentity, ...]:
        """Who the members are."""
        found = (
            identity.identify(member.stat.pid, member.pidfd) for member in self._members() if member.pidfd is not None
        )
        return tuple(one for one in found if one is not None)

    def _children(self) -> list[int]:
        return [pid for pid in children_of(os.getpid()) if pid not in self._spared]

    def _members(self) -> Iterator[_Member]:
        for pid in self._children():
            yield from _family(pid, parent=None, depth=0)


def children_of(pid: int) -> list[int]:
    """The children of a process, of all its threads; empty when it is no more.

    While children come and go some may be missing from the answer: only a repeated look is sure.
    """
    return _children_by_files(pid) if _has_children_files() else _children_by_scan(pid)


def has_child_exited(pid: int) -> bool:
    """Whether that child of ours has ended; it stays a zombie.  True too when it is not our child (any more)."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def has_no_children() -> bool:
    """The proof: the kernel says that this process has no child, alive or dead, reaping whom it can."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            continue
    except ChildProcessError:
        return True
    return False


def _family(pid: int, *, parent: _Member | None, depth: int) -> Iterator[_Member]:
    """That process and its descendants, each only if it is certain to descend from us.

    The children are read before their parent is handed out, since it may be killed then.
    """
    pidfd = _open_pidfd(pid)
    try:
        stat = identity.read_stat(pid)
        if stat is None or not _descends(stat, parent):
            return
        member = _Member(stat, pidfd)
        offspring = children_of(pid) if depth < _DEEPEST and pidfd is not None else []
        yield member
        for child in offspring:
            yield from _family(child, parent=member, depth=depth + 1)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _descends(stat: Stat, parent: _Member | None) -> bool:
    if stat.ppid == os.getpid():
        return True
    return (
        parent is not None
        and stat.ppid == parent.stat.pid
        and parent.pidfd is not None
        and not identity.has_exited(parent.pidfd)
    )


def _kill(member: _Member) -> None:
    if member.stat.ppid == os.getpid():
        with suppress(ProcessLookupError):
            os.kill(member.stat.pid, signal.SIGKILL)
    elif member.pidfd is not None:
        identity.send(member.pidfd, signal.SIGKILL)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _open_pidfd(pid: int) -> int | None:
    try:
        return identity.open_pidfd(pid)
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOSYS, errno.EPERM, errno.ENOMEM}:
            return None
        raise


def _describe(stat: Stat) -> str:
    return {
        "D": "it sleeps in the kernel, uninterruptibly (state D)",
        "T": "it is stopped (state T)",
        "t": "it is being traced (state t)",
    }.get(stat.state, f"it does not end (state {stat.state})")


@cache
def _has_children_files() -> bool:
    """A kernel built without CONFIG_PROC_CHILDREN has none."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children_by_files(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        with (
            suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file,
        ):
            found += [int(word) for word in _read_all(file.fileno()).split()]
    return found


def _children_by_scan(pid: int) -> list[int]:
    stats = (identity.read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [stat.pid for stat in stats if stat is not None and stat.ppid == pid]


def _read_all(descriptor: int) -> bytes:
    content = b""
    while chunk := os.read(descriptor, 65536):
        content += chunk
    return content
