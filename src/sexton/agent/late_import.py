"""A module that takes seconds to import, loaded while others work; nobody who stops has to wait for it."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import final

import anyio
import anyio.to_thread

from sexton.errors import SextonError


class _GivenUp(BaseException):
    """Ends an import between two modules.  No ImportError, for those are caught where something is optional."""


@final
class LateImport:
    """Imports one module on a thread of its own, on first use.

    A thread in an import can be neither cancelled nor left behind (CPython ends a daemon thread that wants the GIL
    back at exit by pthread_exit, which aborts the process when there are frames of Rust or C++ below it).  So the
    import itself is told to give up: it asks `find_spec` for each module that it needs next.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = threading.Lock()
        self._thread: int | None = None
        self.is_given_up = False
        """Whether `give_up` was asked for."""

    async def get(self) -> ModuleType:
        """The module.  A cancelled wait lets the import go on, for whoever needs it next.

        Raises SextonError when it was given up.
        """
        return await anyio.to_thread.run_sync(self._import, abandon_on_cancel=True)

    async def give_up(self) -> None:
        """End an import that is under way before its next module; returns when it has ended.  None begins any more."""
        self.is_given_up = True
        await anyio.to_thread.run_sync(self._wait_idle)

    def find_spec(self, _name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Find nothing; asked as an entry of `sys.meta_path`, before those that do."""
        if self.is_given_up and threading.get_ident() == self._thread:
            raise _GivenUp
        return None

    def _import(self) -> ModuleType:
        with self._turn, self._asked_first():
            if self.is_given_up:
                raise self._stopping()
            try:
                return importlib.import_module(self._name)
            except _GivenUp:
                raise self._stopping() from None

    @contextmanager
    def _asked_first(self) -> Iterator[None]:
        self._thread = threading.get_ident()
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)

    def _wait_idle(self) -> None:
        with self._turn:
            """Whoever had it has ended."""

    def _stopping(self) -> SextonError:
        return SextonError("The gateway is stopping; no model was asked.", hint="send it again later")
