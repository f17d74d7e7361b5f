"""Python's garbage collector, kept from stopping everything while millions of objects are made."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final


@final
class _Rest:
    """How many want it to rest; in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._was_enabled = False

    def begin(self) -> None:
        with self._lock:
            if self._wanted == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._wanted += 1

    def end(self) -> None:
        with self._lock:
            self._wanted -= 1
            if self._wanted == 0 and self._was_enabled:
                gc.freeze()
                gc.unfreeze()
                gc.enable()


_rest = _Rest()


@contextmanager
def collector_resting() -> Iterator[None]:
    """Keep the collector from walking through what is made here again and again, and once more at the end.

    It holds the interpreter's lock while it walks, a second for a few million
    objects.  What was made counts as old afterwards: `gc.freeze` and
    `gc.unfreeze` move everything there without looking at it (Python's
    documentation of `gc`).
    """
    _rest.begin()
    try:
        yield
    finally:
        _rest.end()
