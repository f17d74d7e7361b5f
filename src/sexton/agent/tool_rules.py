"""Which tools of which servers one job or chat may use (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sexton.mcp_servers import ToolFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRules:
    """Lists of `tool`, `server.tool` or `server.*`; wildcards as in a shell.  `deny` wins over `allow`.

    They are enforced at the lease: a tool that they keep out cannot be called,
    whatever the model has read.
    """

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, lists: Any) -> Self:
        """As actions of jobs and settings of chats hold them: `allow` and `deny`; without them all is let through."""
        given: Mapping[str, Any] = lists if isinstance(lists, Mapping) else {}
        allow, deny = given.get("allow"), given.get("deny") or ()
        return cls(allow=None if allow is None else tuple(map(str, allow)), deny=tuple(map(str, deny)))

    def of(self, server: str, servers: Iterable[str]) -> ToolFilter:
        """The filter for a lease of `server`; an entry counts as `server.tool` only if it names one of `servers`."""
        known = tuple(servers)
        allow = None if self.allow is None else tuple(_entries(self.allow, server, known))
        return ToolFilter(allow=allow, deny=tuple(_entries(self.deny, server, known)))


def _entries(entries: Iterable[str], server: str, servers: tuple[str, ...]) -> Iterable[str]:
    for entry in entries:
        head, dot, tool = entry.partition(".")
        if dot and tool and head in servers:
            if head == server:
                yield tool
        else:
            yield entry
