"""What holders of one process ask of its server as a whole, kept apart for each of them (pure).

A server knows one client: subscriptions and the log level are properties of
the connection.  These books make them properties of each holder.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, Generic, TypeVar, final

HolderT = TypeVar("HolderT")

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""From the most to the least talkative (RFC 5424, as MCP uses it)."""


@final
class SubscriptionBook(Generic[HolderT]):
    """Which holder wants to hear about which resource."""

    def __init__(self) -> None:
        self._holders: defaultdict[str, set[HolderT]] = defaultdict(set)

    def subscribe(self, holder: HolderT, uri: str) -> None:
        """Record that `holder` wants updates of `uri`."""
        self._holders[uri].add(holder)

    def unsubscribe(self, holder: HolderT, uri: str) -> bool:
        """Forget it.  Return whether nobody is left, so that the server should be told."""
        self._holders[uri].discard(holder)
        if self._holders[uri]:
            return False
        del self._holders[uri]
        return True

    def leave(self, holder: HolderT) -> tuple[str, ...]:
        """Forget all of `holder`.  Return the resources that nobody wants any more."""
        mine = [uri for uri, holders in self._holders.items() if holder in holders]
        return tuple(uri for uri in mine if self.unsubscribe(holder, uri))

    def interested(self, uri: str) -> frozenset[HolderT]:
        """Return who is told about `uri`: subscribers of it, or of what it is a part of (MCP: resources/updated)."""
        return frozenset(
            holder for wanted, holders in self._holders.items() if uri.startswith(wanted) for holder in holders
        )


@final
class LogLevels(Generic[HolderT]):
    """How talkative the server should be, for each holder that said so."""

    def __init__(self) -> None:
        self._levels: dict[HolderT, str] = {}

    def ask(self, holder: HolderT, level: str) -> str:
        """Record the level of `holder` and return the level to ask the server for: the most talkative of all."""
        self._levels[holder] = level
        known = [level for level in self._levels.values() if level in LOG_LEVELS]
        return min(known, key=LOG_LEVELS.index, default=level)

    def leave(self, holder: HolderT) -> None:
        """Forget `holder`."""
        self._levels.pop(holder, None)

    def wants(self, holder: HolderT, level: object) -> bool:
        """Say whether a message of `level` is for `holder`; who never asked gets all that the server sends."""
        least = self._levels.get(holder)
        if least not in LOG_LEVELS or level not in LOG_LEVELS:
            return True
        return LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(least)
