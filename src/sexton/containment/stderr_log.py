"""What a tree wrote to stderr: the last words in memory, the rest in a rotated log with timestamps.

The keeper writes both, so a server never blocks on a full pipe, whatever state the gateway is in.  The last words
stand in a memfd that the gateway holds too: it reads them without asking, even when the keeper is dead.

Standard library only.
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from typing import Protocol

TAIL_BYTES = 4096
_COUNT = struct.Struct("=Q")
_LARGEST_LOG = 4 * 1024 * 1024
_LONGEST_LINE = 64 * 1024


def create_tail() -> int:
    """A descriptor for the last words of a tree, none yet."""
    descriptor = os.memfd_create("sexton-stderr-tail", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _COUNT.size + TAIL_BYTES)
    return descriptor


def read_tail(descriptor: int) -> str:
    """The last words, at most 4 KiB."""
    content = os.pread(descriptor, _COUNT.size + TAIL_BYTES, 0)
    (count,) = _COUNT.unpack_from(content)
    ring = content[_COUNT.size :]
    if count <= TAIL_BYTES:
        return ring[:count].decode("utf-8", "replace")
    start = count % TAIL_BYTES
    return (ring[start:] + ring[:start]).decode("utf-8", "replace")


class TailReader:
    """The reading side of the last words; when it is closed they are kept."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._last = ""

    def read(self) -> str:
        descriptor = self._descriptor
        return self._last if descriptor is None else read_tail(descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            self._last = self.read()
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


class Tail:
    """The writing side of the last words."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._count = 0

    def write(self, data: bytes) -> None:
        kept = data[-TAIL_BYTES:]
        start = (self._count + len(data) - len(kept)) % TAIL_BYTES
        first = kept[: TAIL_BYTES - start]
        os.pwrite(self._descriptor, first, _COUNT.size + start)
        os.pwrite(self._descriptor, kept[len(first) :], _COUNT.size)
        self._count += len(data)
        os.pwrite(self._descriptor, _COUNT.pack(self._count), 0)


class Log(Protocol):
    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class NoLog:
    """For a tree whose stderr is not kept."""

    def write(self, data: bytes) -> None:
        """Nothing to do: the last words are kept elsewhere."""

    def close(self) -> None:
        """Nothing to do."""


class RotatedLog:
    """Lines with a timestamp each, in a file that is moved to PATH.1 when it has reached 4 MiB.

    Several keepers may write to one path: each line is one append, and only the one that finds its own file at the path
    moves it.  A full disk costs lines, never the tree.
    """

    def __init__(self, path: str) -> None:
        """Open it, and its folder if need be.

        Raises:
            OSError: the log cannot be written there.
        """
        self._path = path
        self._partial = b""
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        self._descriptor = self._open()

    def write(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LONGEST_LINE:
            lines.append(self._partial)
            self._partial = b""
        if lines:
            self._append(lines)

    def close(self) -> None:
        if self._partial:
            self._append([self._partial])
            self._partial = b""
        os.close(self._descriptor)

    def _append(self, lines: list[bytes]) -> None:
        stamp = _timestamp()
        with suppress(OSError):
            self._rotate()
            os.write(self._descriptor, b"".join(stamp + line + b"\n" for line in lines))

    def _rotate(self) -> None:
        own = os.fstat(self._descriptor)
        if own.st_size < _LARGEST_LOG and own.st_nlink:
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), own):
                os.replace(self._path, self._path + ".1")
        fresh = self._open()
        os.close(self._descriptor)
        self._descriptor = fresh

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _timestamp() -> bytes:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)).encode("ascii") + b".%03dZ " % (now % 1 * 1000)
