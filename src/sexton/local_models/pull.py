"""Fetching a model's file: it goes on where an earlier pull was cut off, and nothing unproven gets the file's name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2

from sexton.errors import SextonError
from sexton.local_models.model_files import ModelFile, partial_path, pulled_path

SPARE: Final = 64 << 20
"""Bytes that must stay free on the disk: the gateway has to go on writing there."""

ATTEMPTS: Final = 5
"""How often in a row a connection may break without one more byte."""

SILENCE: Final = 60.0
"""Seconds without a byte after which a connection counts as broken."""

Progress = Callable[[int, int], None]
"""Told the bytes that are here, and those of the whole."""


class PullFailed(SextonError):
    """The file is not here, for the reason that is said."""


class _Broken(Exception):
    """The connection broke, or never came about."""


def pull_model(
    file: ModelFile,
    data_dir: Path,
    *,
    url: str | None = None,
    tell: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch `file`, prove its sum, and return where it is.  One that is here already is not fetched again.

    `url` is another place that has the same file; the sum stays that of the
    table.  What came before an interruption is kept, and asked for no more
    (RFC 9110, section 14); a whole file with a wrong sum is deleted.  `pause`
    waits that many seconds before a broken connection is made again.

    Raises:
        PullFailed: the place cannot be reached or does not have it, it is another file, the disk is full, or another
            pull of it is under way.
    """
    whole = pulled_path(data_dir, file.name)
    if whole.exists():
        return whole
    part = partial_path(data_dir, file.name)
    with _disk_errors(part), _locked(part, file) as descriptor:
        if whole.exists():  # by the pull that had the lock before us
            part.unlink(missing_ok=True)
            return whole
        _require_space(file, part, have=os.fstat(descriptor).st_size)
        try:
            _fetch(file, descriptor, url or file.url, tell or _untold, pause)
        except PullFailed:
            if os.fstat(descriptor).st_size == 0:
                part.unlink(missing_ok=True)
            raise
        _require_sum(file, descriptor, part)
        os.fsync(descriptor)
        part.rename(whole)
        _sync_folder(whole.parent)
    return whole


def _untold(_have: int, _whole: int) -> None:
    """For a caller who wants to hear nothing."""


@contextmanager
def _locked(part: Path, file: ModelFile) -> Iterator[int]:
    """The partial file, for us alone.  Whoever is killed loses the lock with its descriptor."""
    for folder in (part.parent.parent, part.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as busy:
        os.close(descriptor)
        raise PullFailed(f"Another pull of {file.name} is under way.", hint="wait for its end") from busy
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)  # whoever else writes there needs the room at once
            raise PullFailed(
                f"The disk of {part.parent} became full; what had come was deleted.", hint="make room, then pull again"
            ) from error
        raise PullFailed(
            f"{part.parent} cannot be written: {error.strerror or error}.", hint="look at the folder and its owner"
        ) from error


def _require_space(file: ModelFile, part: Path, *, have: int) -> None:
    needed, free = file.size - have + SPARE, shutil.disk_usage(part.parent).free
    if needed > free:
        if have == 0:
            part.unlink(missing_ok=True)
        raise PullFailed(
            f"{file.name} needs {needed / 1e9:.1f} GB more, and {part.parent} has {free / 1e9:.1f} GB free.",
            hint="make room, or name another data folder: sexton --data FOLDER model pull …",
        )


def _fetch(file: ModelFile, descriptor: int, url: str, tell: Progress, pause: Callable[[float], None]) -> None:
    attempts = 0
    with httpx2.Client(follow_redirects=True, timeout=SILENCE) as http:
        while (have := os.fstat(descriptor).st_size) < file.size:
            try:
                _fetch_on(http, file, descriptor, url, have, tell)
            except (_Broken, httpx2.TransportError) as broken:
                if os.fstat(descriptor).st_size > have:
                    attempts = 0
                attempts += 1
                if attempts >= ATTEMPTS:
                    raise _unreachable(file, url, broken, have=os.fstat(descriptor).st_size) from broken
                pause(float(attempts))


def _fetch_on(http: httpx2.Client, file: ModelFile, descriptor: int, url: str, have: int, tell: Progress) -> None:
    """What follows on `have` bytes, as far as the connection lasts."""
    headers = {"range": f"bytes={have}-"} if have else {}
    try:
        with http.stream("GET", url, headers={**headers, "accept-encoding": "identity"}) as response:
            start = _start_of(response, url, have)
            os.ftruncate(descriptor, start)
            os.lseek(descriptor, start, os.SEEK_SET)
            for piece in response.iter_raw():
                start = _write(descriptor, piece, start)
                if start > file.size:
                    raise _not_the_file(file, f"is longer than {file.size} bytes", descriptor)
                tell(start, file.size)
    except httpx2.InvalidURL as error:
        raise PullFailed(f"{url} is no address: {error}.") from error
    if start < file.size:
        raise _Broken(f"it ended after {start} of {file.size} bytes")


def _start_of(response: httpx2.Response, url: str, have: int) -> int:
    """Where the body begins in the file.  A server may ignore what we asked for and send all."""
    if response.status_code == httpx2.codes.PARTIAL_CONTENT:
        if response.headers.get("content-range", "").startswith(f"bytes {have}-"):
            return have
        raise PullFailed(f"{url} answered with another part of the file than was asked for.")
    if response.status_code == httpx2.codes.OK:
        return 0
    if response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
        raise _Broken(f"it answered with status {response.status_code}")
    raise PullFailed(f"{url} answered with status {response.status_code}.", hint="name another place: --url ADDRESS")


def _write(descriptor: int, piece: bytes, at: int) -> int:
    rest = memoryview(piece)
    while rest:
        written = os.write(descriptor, rest)
        at, rest = at + written, rest[written:]
    return at


def _require_sum(file: ModelFile, descriptor: int, part: Path) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != file.sha256:
        part.unlink()
        raise PullFailed(
            f"What came is not {file.name}: its SHA-256 is {found}, not {file.sha256}.  It was deleted.",
            hint="pull again; if the sum is wrong again, do not use that place",
        )


def _not_the_file(file: ModelFile, why: str, descriptor: int) -> PullFailed:
    os.ftruncate(descriptor, 0)
    return PullFailed(f"What comes is not {file.name}: it {why}.  It was deleted.")


def _unreachable(file: ModelFile, url: str, broken: Exception, *, have: int) -> PullFailed:
    kept = f"  {have} of {file.size} bytes are here, and are not asked for again." if have else ""
    why = str(broken) or type(broken).__name__
    return PullFailed(
        f"{url} could not be reached, or broke off {ATTEMPTS} times in a row: {why}.{kept}",
        hint="pull again later, or name another place that has the file: --url ADDRESS",
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
