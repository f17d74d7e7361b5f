"""Chunks of bytes become lines, in linear time and bounded memory (pure)."""

from __future__ import annotations

from typing import final


class LineLimitExceeded(Exception):
    """A line is longer than the limit; what has been read of it is lost."""


@final
class LineBuffer:
    """Collects chunks until a newline ends them.

    Each byte is looked at once and copied at most twice, however the chunks
    are cut: the parts of an unfinished line are joined only when it ends.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        r"""Return the lines that `chunk` completes, without their newline.

        Raises:
            LineLimitExceeded: a line, finished or not, has more than `limit` bytes.
        """
        *finished, rest = chunk.split(b"\n")
        if not finished:
            self._hold(rest)
            return []
        self._hold(finished[0])
        finished[0] = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts, self._held = [], 0
        self._hold(rest)
        if any(len(line) > self._limit for line in finished):
            raise LineLimitExceeded
        return finished

    def _hold(self, part: bytes) -> None:
        self._parts.append(part)
        self._held += len(part)
        if self._held > self._limit:
            raise LineLimitExceeded
