"""The requests that are being answered now, so that those end whose caller may no longer come in.

An answer that lasts (a stream of events, a call that takes long) would else go
on after its token was revoked or had expired.  `keep_watch` asks for the tokens
again and again, as long as there are such answers: that also finds what another
gateway on the same database revoked.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, final

import anyio

from sexton.clock import Clock
from sexton.database import DatabaseError

WATCH_EVERY: Final = 1.0

IsValid: TypeAlias = Callable[[str], Awaitable[object | None]]
"""Returns None for the id of a token that is no longer valid."""

_log = logging.getLogger(__name__)


@final
class OpenRequests:
    """By the ids of the tokens behind them; those of the local owner are nobody's business."""

    def __init__(self) -> None:
        self._open: dict[str, set[anyio.CancelScope]] = {}
        self._news = anyio.Event()

    @contextmanager
    def one(self, token: str) -> Iterator[anyio.CancelScope]:
        """A request by that token is answered in this block, which is cancelled when the token is invalid."""
        scope = anyio.CancelScope()
        self._open.setdefault(token, set()).add(scope)
        self._news.set()
        try:
            with scope:
                yield scope
        finally:
            self._open[token].discard(scope)
            if not self._open[token]:
                del self._open[token]

    def end_of_token(self, token: str) -> None:
        """End what is open by it."""
        for scope in self._open.get(token, ()):
            scope.cancel()

    async def keep_watch(self, is_valid: IsValid, *, clock: Clock) -> None:
        """End the requests of tokens that are no longer valid, about a second after; until cancelled."""
        while True:
            if not self._open:
                self._news = anyio.Event()
                await self._news.wait()
            await clock.sleep(WATCH_EVERY)
            for token in tuple(self._open):
                try:
                    if await is_valid(token) is None:
                        self.end_of_token(token)
                except DatabaseError as error:  # a full disk must not lock anybody out
                    _log.warning("whether a token is still valid could not be read: %s", error.what)
