"""The folder in which one gateway keeps its state: private, writable, and used by one gateway at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sexton.errors import SextonError, UsageError

_LOCK_NAME = "lock"
_PROBE_SIZE = 64 * 1024  # what a journal line and a few database pages need


class DataFolderInUse(UsageError):
    """Another gateway that is alive uses this folder.  `pid` is None where it could not be read."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        self.pid = pid
        who = f"the gateway with pid {pid}" if pid else "another gateway"
        super().__init__(
            f"{folder} is in use by {who}.",
            hint="talk to that one (sexton ps, sexton jobs), stop it"
            + (f" (kill {pid})" if pid else "")
            + ", or give this one a folder of its own with --data.",
        )


@contextmanager
def claimed_data_folder(folder: Path) -> Iterator[Path]:
    """Make `folder` (mode 0700) if need be and hold it for this process until the end of the block.

    The claim is an flock(2), which the kernel drops with the process: one
    that was killed never stands in the way of the next.  Raises
    DataFolderInUse, or SextonError where the folder cannot be used.
    """
    _make_private(folder)
    descriptor = _open_lock(folder)
    try:
        _lock(folder, descriptor)
        _check_room(folder)
        yield folder
    finally:
        os.close(descriptor)


def holder_of(folder: Path) -> int | None:
    """The pid of the gateway that holds `folder` now, or None."""
    try:
        descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written_pid(descriptor)
    finally:
        os.close(descriptor)
    return None


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise UsageError(
                f"The data folder {folder} belongs to uid {status.st_uid}, and this is uid {os.geteuid()}.",
                hint="start the gateway as its owner, or choose another folder with --data.",
            )
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    except FileExistsError as problem:
        raise UsageError(
            f"The data folder {folder} is a file, not a folder.", hint="choose another with --data."
        ) from problem
    except OSError as problem:
        raise cannot_write(folder, problem) from problem


def _open_lock(folder: Path) -> int:
    try:
        return os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise cannot_write(folder, problem) from problem


def _lock(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise DataFolderInUse(folder, _written_pid(descriptor)) from problem
    except OSError as problem:  # for example NFS without a lock server
        raise SextonError(
            f"The data folder {folder} cannot be locked: {problem.strerror}.",
            hint="choose a folder on a local disk with --data.",
        ) from problem
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as problem:
        raise cannot_write(folder, problem) from problem


def _written_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _check_room(folder: Path) -> None:
    """Find a full or read-only disk now, where it is one clear sentence, and not at the first run."""
    probe = folder / ".room"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_SIZE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise cannot_write(folder, problem) from problem
    finally:
        probe.unlink(missing_ok=True)


def cannot_write(folder: Path, problem: OSError) -> SextonError:
    """`problem` with the data folder, as a person needs it."""
    hints = {
        errno.ENOSPC: f"make room on that disk (df -h {folder}), or choose another folder with --data.",
        errno.EDQUOT: "your quota there is used up: make room, or choose another folder with --data.",
        errno.EROFS: "that disk is mounted read-only; choose another folder with --data.",
        errno.EACCES: f"look at who may write there (ls -ld {folder}), or choose another folder with --data.",
    }
    return SextonError(
        f"The data folder {folder} cannot be written: {problem.strerror}.",
        hint=hints.get(problem.errno or 0, "choose another folder with --data."),
    )
