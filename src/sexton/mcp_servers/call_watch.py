"""Each tool call, whoever makes it: a span while it lasts, and word of how it ended and how long it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from sexton.clock import Clock
from sexton.tracing import mark_failed, traced

OnCall: TypeAlias = Callable[[str, str, float], None]
"""Server, how it ended (ok, error: the tool says so, failed: no answer, cancelled), seconds."""


def tell_nobody(_server: str, _state: str, _seconds: float) -> None:
    """For a pool that nobody watches."""


@dataclass(slots=True)
class Watched:
    """What the caller says of the answer."""

    is_error: bool = False


@contextmanager
def watched_call(server: str, tool: str, holder: str, *, clock: Clock, on_call: OnCall) -> Iterator[Watched]:
    """Around one call; the block says with `is_error` what the tool said."""
    began, state, watched = clock.monotonic(), "failed", Watched()
    with traced("tool call", server=server, tool=tool, holder=holder) as span:
        try:
            yield watched
            state = "error" if watched.is_error else "ok"
            if watched.is_error:
                mark_failed(span, "tool")
        except anyio.get_cancelled_exc_class():
            state = "cancelled"
            raise
        finally:
            on_call(server, state, clock.monotonic() - began)
