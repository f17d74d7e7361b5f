"""Descriptors kept for the moment in which there are no others: whoever guards processes must be able to look at them.

Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_DEEPEST = 4
"""A look at /proc or at a cgroup holds no more than this at a time."""
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_shortage(error: OSError) -> bool:
    """Whether the system has no descriptor (of this process, or at all) or no memory for it; that passes."""
    return error.errno in _SHORTAGES


class Reserve:
    """Holds a few descriptors, and lets them go for as long as they are needed."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._fill()

    @contextmanager
    def spent(self) -> Iterator[None]:
        """There are some free descriptors within, whatever the limit."""
        while self._held:
            os.close(self._held.pop())
        try:
            yield
        finally:
            self._fill()

    def _fill(self) -> None:
        while len(self._held) < _DEEPEST:
            try:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                if not is_shortage(error):
                    raise
                return
