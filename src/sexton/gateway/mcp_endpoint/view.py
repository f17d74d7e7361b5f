"""What a client sees: which servers, which of their tools, and under which names (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

from sexton.mcp_servers import ToolFilter, qualified_name

SEPARATOR: Final = "__"
_HASH: Final = re.compile(r"_[0-9a-f]{8}")


def is_changed(name: str) -> bool:
    """Say whether a name may be one that had to be changed: `qualified_name` puts a hash at the end of those."""
    return _HASH.fullmatch(name[-9:]) is not None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A selection of servers as one server.

    `key` names it: `all`, `server:NAME` or `profile:NAME`.  A view of one
    server shows that server's own names; any other puts `server__` before them.
    """

    key: str
    servers: tuple[str, ...]
    filters: Mapping[str, ToolFilter] = field(default_factory=dict)
    prompts: Mapping[str, ToolFilter] = field(default_factory=dict)
    resources: ToolFilter = field(default_factory=ToolFilter)

    @property
    def single(self) -> str | None:
        """The server, if the view is of one only."""
        return self.servers[0] if self.key.startswith("server:") else None

    def shown(self, server: str, name: str) -> str:
        """Return the name of a tool or prompt as the client sees it."""
        return name if self.single else qualified_name(server, name)

    def split(self, name: str) -> tuple[str, str] | None:
        """Return the server and its own name of what the client calls `name`.

        None when the name does not say it: it is of no server here.  Of a name
        that had to be changed this says what it looks like, not what it was.
        """
        if self.single:
            return self.single, name
        server, separator, own = name.partition(SEPARATOR)
        if not separator or server not in self.servers or qualified_name(server, own) != name:
            return None
        return server, own

    def admits(self, server: str, tool: str) -> bool:
        """Say whether this view has that tool; the server's own lists count besides."""
        allow = self.filters.get(server)
        return allow is None or allow.admits(tool)

    def admits_prompt(self, server: str, prompt: str) -> bool:
        """Say whether this view has that prompt."""
        allow = self.prompts.get(server)
        return allow is None or allow.admits(prompt)

    def admits_resource(self, uri: str) -> bool:
        """Say whether this view has the resource, or the template, of that address."""
        return self.resources.admits(uri)
