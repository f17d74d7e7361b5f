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
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Self

from sexton.containment import identity
from sexton.containment.environment import COOKIE_VARIABLE
from sexton.containment.ledger import Record, home_of
from sexton.containment.subreaper_boundary import children_of

_ENTRY = f"{COOKIE_VARIABLE}=".encode()
_SIGNAL_PROCESS_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), Linux 6.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a process with a cookie says of itself, and the kernel of it.  `cgroup` is where it sits (see `home_of`)."""

    cookie: str
    uid: int
    start_ticks: int
    cgroup: str | None


@dataclass(slots=True)
class Remains:
    """The living members of one tree that were found, by pid, each with the pidfd that pins it."""

    record: Record
    pidfds: dict[int, int] = field(default_factory=dict)
    escaped: set[int] = field(default_factory=set)

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


class Search:
    """One look for what is left of several trees.  A context: leaving it lets go of the processes that were found."""

    def __init__(self, records: Collection[Record]) -> None:
        self.remains = tuple(Remains(record) for record in records)
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._held.close)
            for one in self.remains:
                self._follow_census(one)
            self._follow_cookies()
            for one in self.remains:
                self._follow_descent(one)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _follow_census(self, one: Remains) -> None:
        leader = (one.record.leader,) if one.record.leader else ()
        for who in {*leader, *one.record.census}:
            pidfd = self._held.enter_context(identity.verified(who))
            if pidfd is not None:
                one.pidfds[who.pid] = pidfd

    def _follow_descent(self, one: Remains) -> None:
        ancestors = list(one.pidfds)
        for parent in ancestors:
            young = (child for child in children_of(parent) if child not in one.pidfds)
            ancestors.extend(child for child in young if self._pin_child(one, child, parent=parent))

    def _pin_child(self, one: Remains, child: int, *, parent: int) -> bool:
        """Whether `child` is a living child of the pinned `parent` for certain; then it is pinned too."""
        pidfd = self._pin(child)
        if pidfd is None:
            return False
        stat = identity.read_stat(child)
        if stat is None or stat.ppid != parent or identity.has_exited(one.pidfds[parent]) or identity.has_exited(pidfd):
            return False
        one.pidfds[child] = pidfd
        return True

    def _follow_cookies(self) -> None:
        by_cookie = {one.record.cookie: one for one in self.remains}
        known = _own_line().union(*(one.pidfds for one in self.remains))
        for pid in _all_pids():
            if pid not in known and (cookie := _cookie_of(pid)) in by_cookie and cookie is not None:
                self._try_cookie(by_cookie[cookie], pid)

    def _try_cookie(self, one: Remains, pid: int) -> None:
        pidfd = self._pin(pid)
        if pidfd is None:
            return
        claim = _claim_of(pid)  # read again, now that the pid cannot become another process unseen
        if claim is None or identity.has_exited(pidfd):
            return
        if is_member(claim, one.record):
            one.pidfds[pid] = pidfd
        elif carries_cookie(claim, one.record):
            one.escaped.add(pid)

    def _pin(self, pid: int) -> int | None:
        pidfd = identity.open_pidfd(pid)
        if pidfd is not None:
            self._held.callback(os.close, pidfd)
        return pidfd


def carries_cookie(claim: Claim, record: Record) -> bool:
    """Whether that process was started with the tree's cookie, by the same user, after the tree was."""
    since = record.keeper or record.warden
    return claim.uid == record.uid and claim.start_ticks >= since.start_ticks and claim.cookie == record.cookie


def is_member(claim: Claim, record: Record) -> bool:
    """Whether the cookie makes it a member: it must sit where the tree was started, or below."""
    return carries_cookie(claim, record) and is_inside(claim.cgroup, record.home)


def is_inside(cgroup: str | None, home: str | None) -> bool:
    """Whether that cgroup is `home` or below it.  What is unknown is not inside."""
    if cgroup is None or home is None:
        return False
    return (cgroup.rstrip("/") + "/").startswith(home.rstrip("/") + "/")


def parse_cookie(environment: bytes) -> str | None:
    """The cookie in the content of a /proc/PID/environ; None when there is none.  The first counts, as in getenv."""
    _, entry, rest = (b"\0" + environment).partition(b"\0" + _ENTRY)
    return rest.partition(b"\0")[0].decode("ascii", "replace") if entry else None


def _cookie_of(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return parse_cookie(file.read())
    except OSError:  # gone, a kernel thread, or not ours to read
        return None


def _claim_of(pid: int) -> Claim | None:
    cookie = _cookie_of(pid)
    if cookie is None:
        return None
    try:
        uid, cgroup = os.stat(f"/proc/{pid}").st_uid, home_of(pid)
    except OSError:
        return None
    stat = identity.read_stat(pid)
    if stat is None or stat.state == "Z":
        return None
    return Claim(cookie=cookie, uid=uid, start_ticks=stat.start_ticks, cgroup=cgroup)


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
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
