"""How one server is started, shared and ended: frozen data, and the identity that keys what we remember of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from sexton.containment import Limits, StopTimes

DEFAULT_MAX_LINE_BYTES = 64 * 1024 * 1024


class Sharing(StrEnum):
    """Who may use one process of a server at the same time."""

    SHARED = "shared"
    """All holders use one process, each over its own virtual connection."""
    EXCLUSIVE = "exclusive"
    """One process per holder, for servers with state per client, such as a browser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioServer:
    """A program that speaks MCP over its standard input and output."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    cwd: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServer:
    """A server that somebody else runs, reached over HTTP."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    kind: Literal["streamable-http", "sse"] = "streamable-http"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFilter:
    """Which tools may be used.  Entries are tool names; `*`, `?` and `[…]` match as in a shell, case counts.

    `allow` None means all; `deny` wins over `allow`.
    """

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()

    def admits(self, tool: str) -> bool:
        """Say whether this filter lets `tool` (the server's own name for it) through."""
        allowed = self.allow is None or _matches_any(tool, self.allow)
        return allowed and not _matches_any(tool, self.deny)

    def unmatched(self, tools: Iterable[str]) -> tuple[str, ...]:
        """Entries that match none of `tools`: most likely spelling mistakes."""
        known = tuple(tools)
        entries = dict.fromkeys((*(self.allow or ()), *self.deny))
        return tuple(entry for entry in entries if not any(fnmatchcase(tool, entry) for tool in known))


def _matches_any(tool: str, entries: Iterable[str]) -> bool:
    return any(fnmatchcase(tool, entry) for entry in entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server of the configuration.  Times are in seconds.

    `idle_timeout` retires a process nobody holds; `max_age` and `max_calls`
    recycle it, but only once nobody holds it; `keep_warm` starts it with the
    pool and never retires it for being idle.  `max_processes` bounds the
    processes of an exclusive server.  `concurrency` limits how many runs of the
    scheduler use the server at once (None: any number).
    """

    name: str
    transport: StdioServer | HttpServer
    sharing: Sharing = Sharing.SHARED
    idle_timeout: float = 600.0
    max_age: float | None = None
    max_calls: int | None = None
    keep_warm: bool = False
    max_processes: int = 4
    connect_timeout: float = 120.0
    call_timeout: float = 300.0
    write_timeout: float = 30.0
    max_line_bytes: int = DEFAULT_MAX_LINE_BYTES
    tools: ToolFilter = field(default_factory=ToolFilter)
    stop: StopTimes = field(default_factory=StopTimes)
    limits: Limits = field(default_factory=Limits)
    no_new_privs: bool = True
    protocol: Literal["auto", "legacy", "2026-07-28"] = "auto"
    concurrency: int | None = None

    def identity(self) -> str:
        """Return what this process is, as 32 hexadecimal digits: equal only for servers that behave alike.

        Covers what the program sees (command, arguments, folder, environment
        with its secrets, or URL and headers) and the protocol asked for, so
        that state never passes between two definitions that differ in any of
        them.  How the server is shared and when it is retired is left out.
        """
        text = json.dumps([_definition(self.transport), self.protocol], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _definition(transport: StdioServer | HttpServer) -> list[object]:
    if isinstance(transport, HttpServer):
        return [transport.kind, transport.url, dict(transport.headers)]
    cwd = None if transport.cwd is None else str(transport.cwd)
    return ["stdio", transport.command, list(transport.args), dict(transport.env), cwd]
