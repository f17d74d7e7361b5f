"""Which process is meant, beyond doubt, and signals that can reach no other.

A pid is reused; a start time has a grain of 10 ms, so a pid can be reused within one grain.  From weak to certain:
(pid, start time, boot), the inode of its pidfd (pidfs, Linux 6.9), the pidfs file handle (Linux 6.14: it opens that
process or none).  What a host offers is found by trying, never by version.  Standard library only.

Sources: pidfd_open(2), pidfd_send_signal(2), open_by_handle_at(2), proc_pid_stat(5), fs/pidfs.c of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

_AT_EMPTY_PATH = 0x1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The fields of /proc/PID/stat that we use.  `start_ticks` is in clock ticks since boot."""

    pid: int
    state: str
    ppid: int
    pgrp: int
    session: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process of one boot.  `inode` and `handle` are None where the kernel has no pidfs.

    `handle` is "TYPE:HEX", the arguments of open_by_handle_at(2).
    """

    pid: int
    start_ticks: int
    inode: int | None = None
    handle: str | None = None


class _FileHandle(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("content", ctypes.c_ubyte * 128),
    ]


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def boot_id() -> str:
    """This boot of this machine, as 32 hex digits."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")


def pid_namespace() -> int:
    """The inode of our PID namespace: a pid from another one names another process."""
    return os.stat("/proc/self/ns/pid").st_ino


def parse_stat(content: bytes) -> Stat:
    """Read a /proc/PID/stat; the command in it may hold spaces and parentheses."""
    head, _, tail = content.rpartition(b") ")
    fields = tail.split()
    return Stat(
        pid=int(head.partition(b" ")[0]),
        state=fields[0].decode("ascii"),
        ppid=int(fields[1]),
        pgrp=int(fields[2]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
    )


def read_stat(pid: int) -> Stat | None:
    """What the kernel says of that pid now; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return parse_stat(file.read(1024))
    except (FileNotFoundError, ProcessLookupError):
        return None


def open_pidfd(pid: int) -> int | None:
    """A descriptor for whatever process has that pid now; None when there is none.

    Raises:
        OSError: the host has no pidfds (ENOSYS, EPERM) or no free descriptor (EMFILE, ENFILE).
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOENT}:  # the pid is a thread, not a process
            return None
        raise


def has_exited(pidfd: int) -> bool:
    """Whether that process has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def identify(pid: int, pidfd: int | None = None) -> ProcessIdentity | None:
    """Who has that pid now; None when nobody has.

    With `pidfd`, a descriptor already open for that pid, the answer is of that very process.
    """
    own = open_pidfd(pid) if pidfd is None else pidfd
    if own is None:
        return None
    try:
        stat = read_stat(pid)
        if stat is None or has_exited(own):
            return None
        return ProcessIdentity(pid=pid, start_ticks=stat.start_ticks, inode=_inode(own), handle=_handle(own))
    finally:
        if pidfd is None:
            os.close(own)


@contextmanager
def verified(identity: ProcessIdentity) -> Iterator[int | None]:
    """A pidfd that is certain to be that process; None when that process is no more.

    Certain by its handle, else by the inode of its pidfd, else by its start time read while the pidfd was held.  The
    caller has checked that `identity` is of this boot and, without a handle or inode, of this PID namespace.
    """
    pidfd = _open_verified(identity)
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    with verified(identity) as pidfd:
        return pidfd is not None


def signal_verified(identity: ProcessIdentity, signum: int) -> bool:
    """Send a signal to that very process, or to none; whether it was sent.

    Raises:
        PermissionError: the process runs with other credentials.
    """
    with verified(identity) as pidfd:
        return pidfd is not None and send(pidfd, signum)


def send(pidfd: int, signum: int) -> bool:
    """Send a signal by pidfd; False when the process was gone.

    Raises:
        PermissionError: the process runs with other credentials.
    """
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    return True


def _open_verified(identity: ProcessIdentity) -> int | None:
    if identity.handle is not None:
        return _still_running(_open_by_handle(identity.handle))
    pidfd = _still_running(open_pidfd(identity.pid))
    if pidfd is None or _is_same(pidfd, identity):
        return pidfd
    os.close(pidfd)
    return None


def _still_running(pidfd: int | None) -> int | None:
    if pidfd is None or not has_exited(pidfd):
        return pidfd
    os.close(pidfd)
    return None


def _is_same(pidfd: int, identity: ProcessIdentity) -> bool:
    if identity.inode is not None:
        return _inode(pidfd) == identity.inode
    stat = read_stat(identity.pid)
    return stat is not None and stat.start_ticks == identity.start_ticks and not has_exited(pidfd)


@cache
def _has_pidfs() -> bool:
    """Before Linux 6.9 a pidfd had the one inode that every anonymous descriptor has, which says nothing."""
    own, other = os.pidfd_open(os.getpid()), select.epoll()
    try:
        return not os.path.samestat(os.fstat(own), os.fstat(other.fileno()))
    finally:
        os.close(own)
        other.close()


def _inode(pidfd: int) -> int | None:
    return os.fstat(pidfd).st_ino if _has_pidfs() else None


def _handle(pidfd: int) -> str | None:
    handle = _FileHandle(size=128)
    mount = ctypes.c_int()
    call = getattr(_libc(), "name_to_handle_at", None)
    if call is None or call(pidfd, b"", ctypes.byref(handle), ctypes.byref(mount), _AT_EMPTY_PATH) != 0:
        return None
    return f"{handle.type}:{bytes(handle.content[: handle.size]).hex()}"


def _open_by_handle(text: str) -> int | None:
    """The pidfd of the process that the handle was taken of; None when it is no more (ESTALE)."""
    kind, _, content = text.partition(":")
    raw = bytes.fromhex(content)
    handle = _FileHandle(size=len(raw), type=int(kind))
    handle.content[: len(raw)] = list(raw)
    mount = os.pidfd_open(os.getpid())  # any pidfd says which file system is meant: pidfs
    try:
        pidfd = int(_libc().open_by_handle_at(mount, ctypes.byref(handle), os.O_CLOEXEC))
    finally:
        os.close(mount)
    if pidfd >= 0:
        return pidfd
    code = ctypes.get_errno()
    if code == errno.ESTALE:
        return None
    raise OSError(code, os.strerror(code))
