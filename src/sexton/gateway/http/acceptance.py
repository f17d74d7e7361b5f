"""Connections that cannot be taken because descriptors or memory have run out.

asyncio tells its exception handler, which logs a traceback, and tries again a second later, up to `backlog` times at
once (`BaseSelectorEventLoop._accept_connection`): thousands of lines a minute for one fact.  Clients wait meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_MESSAGE = "socket.accept() out of system resource"
_TELL_EVERY = 60.0


@contextmanager
def told_failures(tell: Callable[[str], object]) -> Iterator[None]:
    """Give `tell` the reason when connections cannot be taken, at most once a minute, in place of the tracebacks."""
    loop = asyncio.get_running_loop()
    told_at = -math.inf

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told_at
        error = context.get("exception")
        if context.get("message") != _MESSAGE or not isinstance(error, OSError):
            loop.default_exception_handler(context)
        elif loop.time() >= told_at + _TELL_EVERY:
            told_at = loop.time()
            tell(error.strerror or str(error))

    before = loop.get_exception_handler()
    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)
