"""What the configuration says of the endpoint: frozen data.  Times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sexton.mcp_servers import ToolFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named selection: `servers` None means all of them.

    `tools` and `prompts` have names as clients see them, `server__name`, where both parts may hold `*`, `?` and
    `[…]`; an entry without `__` is for every server.  `resources` has addresses, whichever server's they are; a
    template counts by its text.
    """

    name: str
    servers: tuple[str, ...] | None = None
    tools: ToolFilter = field(default_factory=ToolFilter)
    prompts: ToolFilter = field(default_factory=ToolFilter)
    resources: ToolFilter = field(default_factory=ToolFilter)

    def filter_for(self, server: str) -> ToolFilter:
        """What this profile lets through of one server's tools, in that server's own names."""
        return _filter_for(server, self.tools)

    def prompts_for(self, server: str) -> ToolFilter:
        """The same of its prompts."""
        return _filter_for(server, self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """`search_above`: with more tools than that, search_tools and call_tool stand in for the list (0: always).

    `idle_timeout` ends a client of whom nothing was heard for so long, `max_sessions` bounds how many there are,
    `input_timeout` is how long a call waits for a client that was asked something, `linger` how long a client keeps
    a server after its last use of it, `max_body` the largest message in bytes.  `close_streams_after` is how long the
    stream of a call stays open before the client has to come back for the rest (None: as long as the call takes),
    `audit` whether calls of tools are told in the journal.
    """

    search_above: int = 100
    idle_timeout: float = 1800.0
    max_sessions: int = 256
    input_timeout: float = 600.0
    linger: float = 2.0
    close_streams_after: float | None = None
    audit: bool = True
    max_body: int = 16 * 1024 * 1024
    profiles: Mapping[str, Profile] = field(default_factory=dict)


def _filter_for(server: str, said: ToolFilter) -> ToolFilter:
    allow = None if said.allow is None else _entries_for(server, said.allow)
    return ToolFilter(allow=allow, deny=_entries_for(server, said.deny))


def _entries_for(server: str, entries: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for entry in entries:
        wanted, separator, tool = entry.partition("__")
        if not separator:
            found.append(entry)
        elif ToolFilter(allow=(wanted,)).admits(server):
            found.append(tool)
    return tuple(found)
