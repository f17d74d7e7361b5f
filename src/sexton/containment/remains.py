"""What is left of a tree whose keeper and warden are dead, as far as it is certain.

Three traces lead to a member.  Its entry in the census, if that very process still runs.  Its descent from such a
member, read while the ancestor could not have exited.  And the tree's cookie in the environment that it was started
with; a cookie can be carried off, by a service manager that imports an environment for example, so it counts only for a
process of the same user that began after the tree did and sits in the part of the cgroup hierarchy that the tree was
started in.  A process elsewhere with the cookie has *escaped by delegation*: it is reported and never signalled.

Every member is held by a pidfd from before its trace was checked, so a signal reaches that process or none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sexton.containment import identity
from sexton.containment.environment import COOKIE_VARIABLE
from sexton.containment.ledger import Record, home_of
from sexton.containment.subreaper_boundary import children_of

_SIGNAL_PROCESS_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), Linux 6.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the scan for a cookie needs to know of a process."""

    uid: int
    start_ticks: int
    cgroup: str | None
    environment: frozenset[bytes]


@dataclass(slots=True)
class Remains:
    """The living members that were found, by pid, each with the pidfd that pins it.  A context: leaving closes them."""

    record: Record
    pidfds: dict[int, int] = field(default_factory=dict)
    escaped: set[int] = field(default_factory=set)
    _held: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def look(cls, record: Record) -> Self:
        """Follow every trace of that tree now."""
        found = cls(record)
        try:
            found._follow_census()
            found._follow_cookie()
            found._follow_descent()
        except BaseException:
            found._held.close()
            raise
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def kill(self) -> dict[int, str]:
        """One pass of SIGKILL over all of them; the pids that may not be signalled, and why."""
        self._kill_group()
        refused = {}
        for pid, pidfd in self.pidfds.items():
            try:
                identity.send(pidfd, signal.SIGKILL)
            except PermissionError:
                refused[pid] = "it runs with other credentials"
        return refused

    def _kill_group(self) -> None:
        """The leader's process group: as long as its pidfd is held, that number can be no other group's."""
        leader = self.pidfds.get(self.record.leader.pid) if self.record.leader else None
        if leader is not None:
            with suppress(OSError):  # an older kernel, nobody left in it, or nobody whom we may signal
                signal.pidfd_send_signal(leader, signal.SIGKILL, None, _SIGNAL_PROCESS_GROUP)

    def _follow_census(self) -> None:
        leader = (self.record.leader,) if self.record.leader else ()
        for one in {*leader, *self.record.census}:
            pidfd = self._held.enter_context(identity.verified(one))
            if pidfd is not None:
                self.pidfds[one.pid] = pidfd

    def _follow_descent(self) -> None:
        ancestors = list(self.pidfds)
        for parent in ancestors:
            young = (child for child in children_of(parent) if child not in self.pidfds)
            ancestors.extend(child for child in young if self._pin(child, parent=parent))

    def _pin(self, child: int, *, parent: int) -> bool:
        """Whether `child` is a living child of the pinned `parent` for certain; then it is pinned too."""
        pidfd = identity.open_pidfd(child)
        if pidfd is None:
            return False
        self._held.callback(os.close, pidfd)
        stat = identity.read_stat(child)
        if (
            stat is None
            or stat.ppid != parent
            or identity.has_exited(self.pidfds[parent])
            or identity.has_exited(pidfd)
        ):
            return False
        self.pidfds[child] = pidfd
        return True

    def _follow_cookie(self) -> None:
        spared = _own_line()
        for pid in _all_pids():
            if pid not in self.pidfds and pid not in spared:
                self._try_cookie(pid)

    def _try_cookie(self, pid: int) -> None:
        if not _may_carry(pid, self.record):
            return
        pidfd = identity.open_pidfd(pid)
        if pidfd is None:
            return
        self._held.callback(os.close, pidfd)
        claim = _claim_of(pid)  # read again, now that the pid cannot become another process unseen
        if claim is None or identity.has_exited(pidfd):
            return
        if is_member(claim, self.record):
            self.pidfds[pid] = pidfd
        elif carries_cookie(claim, self.record):
            self.escaped.add(pid)


def carries_cookie(claim: Claim, record: Record) -> bool:
    """Whether that process was started with the tree's cookie, by the same user, after the tree was."""
    since = record.keeper or record.warden
    entry = f"{COOKIE_VARIABLE}={record.cookie}".encode()
    return claim.uid == record.uid and claim.start_ticks >= since.start_ticks and entry in claim.environment


def is_member(claim: Claim, record: Record) -> bool:
    """Whether the cookie makes it a member: it must sit where the tree was started, or below."""
    return carries_cookie(claim, record) and is_inside(claim.cgroup, record.home)


def is_inside(cgroup: str | None, home: str | None) -> bool:
    """Whether that cgroup is `home` or below it.  What is unknown is not inside."""
    if cgroup is None or home is None:
        return False
    return (cgroup.rstrip("/") + "/").startswith(home.rstrip("/") + "/")


def _may_carry(pid: int, record: Record) -> bool:
    """A first look without a descriptor: most processes are somebody else's."""
    claim = _claim_of(pid)
    return claim is not None and carries_cookie(claim, record)


def _claim_of(pid: int) -> Claim | None:
    folder = Path(f"/proc/{pid}")
    try:
        uid = folder.stat().st_uid
        if uid != os.geteuid():
            return None
        environment = frozenset((folder / "environ").read_bytes().split(b"\0"))
        stat = identity.read_stat(pid)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if stat is None or stat.state == "Z":
        return None
    return Claim(uid=uid, start_ticks=stat.start_ticks, cgroup=home_of(pid), environment=environment)


def _own_line() -> set[int]:
    """This process, its ancestors and descendants: a gateway that was started from inside a tree carries its cookie."""
    line = {os.getpid()}
    above: int | None = os.getppid()
    while above:
        line.add(above)
        stat = identity.read_stat(above)
        above = stat.ppid if stat else None
    below = [os.getpid()]
    for parent in below:
        below += children_of(parent)
    return line | set(below)


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
