"""What a program wrote, as far as it is kept: the beginning and the end (pure)."""

from __future__ import annotations

from collections import deque
from typing import final


@final
class Captured:
    """At most `limit` bytes of a stream: the first half of them as they came, then always the last half."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        if rest := data[room:]:
            self._tail.append(rest)
            self._tail_size += len(rest)
        while self._tail and self._tail_size - len(self._tail[0]) >= self._half:
            self._tail_size -= len(self._tail.popleft())

    @property
    def text(self) -> str:
        """Decoded as UTF-8, with a replacement for what is not; says how much was left out between the two halves."""
        tail = b"".join(self._tail)[-self._half :]
        left_out = self.total - len(self._head) - len(tail)
        if not left_out:
            return (self._head + tail).decode(errors="replace")
        note = f"\n[… {left_out} bytes left out …]\n"
        return self._head.decode(errors="replace") + note + tail.decode(errors="replace")

    def last_words(self, characters: int = 400) -> str:
        """The end of the last lines, for a message."""
        end = (b"".join(self._tail) or bytes(self._head))[-4 * characters :].decode(errors="replace").strip()
        return end if len(end) <= characters else f"…{end[-characters:]}"
