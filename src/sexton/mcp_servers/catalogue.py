"""Which tools each server has, the one name by which everybody else knows a tool, and how a server is spoken to.

The catalogue is kept on disk, one file per definition of a server, so that
listing tools starts nothing.  It is brought up to date whenever the server is
started or says that its list changed.  A file that cannot be read or written
costs one start of that server, never more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from mcp_types import Tool

from sexton.errors import UsageError
from sexton.mcp_servers.introduction import Introduction
from sexton.mcp_servers.server_config import ServerConfig
from sexton.whole_file import replace_file

LOG = logging.getLogger(__name__)

FORMAT: Final = 1
SEPARATOR: Final = "__"
MAX_NAME: Final = 64
_ALLOWED: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what model providers accept as the name of a function
_HASH_DIGITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguedTool:
    """One tool of one server; `name` is the one it has outside that server."""

    name: str
    server: str
    tool: Tool


class ToolNameClash(UsageError):
    """Two tools would have the same name."""


def qualified_name(server: str, tool: str) -> str:
    """Return `server__tool`, in a form that every model provider accepts.

    At most 64 letters, digits, `_` and `-`.  A name that had to be changed
    ends in a hash of the original, so that `a.b` and `a_b` stay apart.
    """
    name = f"{server}{SEPARATOR}{tool}"
    if _ALLOWED.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return f"{plain[: MAX_NAME - _HASH_DIGITS - 1]}_{digest}"


def name_tools(servers: Mapping[str, Iterable[Tool]]) -> dict[str, CataloguedTool]:
    """Return all tools of several servers by their qualified names.

    Raises:
        ToolNameClash: two of them have the same one; both are named.
    """
    named: dict[str, CataloguedTool] = {}
    for server, tools in servers.items():
        for tool in tools:
            entry = CataloguedTool(name=qualified_name(server, tool.name), server=server, tool=tool)
            if (other := named.setdefault(entry.name, entry)) is not entry:
                raise _clash(other, entry)
    return named


def _clash(first: CataloguedTool, second: CataloguedTool) -> ToolNameClash:
    if first.server == second.server:
        what = f"server {first.server!r} lists the tool {first.tool.name!r} twice"
        return ToolNameClash(f"{what}, so a call of {first.name!r} could mean either.", hint=_deny_hint(second))
    what = f"tool {first.tool.name!r} of server {first.server!r} and tool {second.tool.name!r} of server"
    return ToolNameClash(f"{what} {second.server!r} would both be called {first.name!r}.", hint=_deny_hint(second))


def _deny_hint(entry: CataloguedTool) -> str:
    return (
        f'rename one of the servers, or put tools = {{ deny = ["{entry.tool.name}"] }} under [servers.{entry.server}]'
    )


@final
class Catalogue:
    """The tools of each server, by its definition (`ServerConfig.identity`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Tool, ...]] = {}
        self._unreadable: set[str] = set()
        self._unprobed: dict[str, str] = {}
        self._unsaved: set[str] = set()
        self._introductions: dict[str, Introduction] = {}
        self._identities: dict[str, tuple[ServerConfig, str]] = {}

    def tools(self, config: ServerConfig) -> tuple[Tool, ...] | None:
        """Return what is known of a server's tools, as it listed them, or None when it was never asked."""
        identity = self._identity(config)
        if identity not in self._known and identity not in self._unreadable:
            self._read(identity)
        return self._known.get(identity)

    def _identity(self, config: ServerConfig) -> str:
        """The identity of `config`, which is asked for at every call and costs a hash."""
        known = self._identities.get(config.name)
        if known is None or known[0] is not config:
            known = self._identities[config.name] = (config, config.identity())
        return known[1]

    def record(self, config: ServerConfig, tools: tuple[Tool, ...]) -> bool:
        """Remember what a server listed.  Return whether that is news, so that it should be saved."""
        before = self.tools(config)
        self._known[self._identity(config)] = tools
        return before is None or _dump(before) != _dump(tools)

    def advised(self, config: ServerConfig) -> ServerConfig:
        """Return how to start a server: in the legacy way, if it is known to die of the probe, or to ignore it."""
        self.tools(config)  # reads the file
        legacy = config.protocol == "auto" and self._identity(config) in self._unprobed
        return replace(config, protocol="legacy") if legacy else config

    def introduction(self, config: ServerConfig) -> Introduction | None:
        """Return what the server said of itself when it was last started, or None when it never was."""
        self.tools(config)  # reads the file
        return self._introductions.get(self._identity(config))

    def learn(self, config: ServerConfig, introduced: Introduction, *, probe_unwelcome: bool) -> None:
        """Remember what a server that has started said of itself, and whether it is better not asked `server/discover`.

        Another name or version than last time may speak another protocol, and is asked again.
        """
        identity, introduction = self._identity(config), introduced.words() or ""
        if self._introductions.get(identity) != introduced:
            self._introductions[identity] = introduced
            self._unsaved.add(identity)
        if probe_unwelcome:
            self._unprobed[identity] = introduction
            self._unsaved.add(identity)
        elif self._unprobed.get(identity, introduction) != introduction:
            self.unlearn(config)

    def unlearn(self, config: ServerConfig) -> None:
        """Forget what `learn` was told: the server did not start."""
        if self._unprobed.pop(self._identity(config), None) is not None:
            self._unsaved.add(self._identity(config))

    def needs_saving(self, config: ServerConfig) -> bool:
        """Say whether more has been learned of a server than stands on the disk, apart from its tools."""
        return self._identity(config) in self._unsaved

    def save(self, config: ServerConfig) -> None:
        """Write what is known of a server to disk.  Blocks; raises OSError."""
        identity = self._identity(config)
        self._unsaved.discard(identity)
        document: dict[str, Any] = {"format": FORMAT, "server": config.name, "tools": _dump(self._known[identity])}
        if identity in self._unprobed:
            document["unprobed"] = self._unprobed[identity]
        if identity in self._introductions:
            document["introduction"] = self._introductions[identity].as_document()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self._path(identity), json.dumps(document, ensure_ascii=False))

    def _read(self, identity: str) -> None:
        try:
            document = json.loads(self._path(identity).read_text(encoding="utf-8"))
            self._known[identity] = tuple(Tool.model_validate(tool) for tool in document["tools"])
            if isinstance(document.get("unprobed"), str):
                self._unprobed.setdefault(identity, document["unprobed"])
            if "introduction" in document:
                self._introductions.setdefault(identity, Introduction.of_document(document["introduction"]))
        except FileNotFoundError:
            self._unreadable.add(identity)
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.warning("the kept list of tools %s is not used (%s); it is made anew", self._path(identity), error)
            self._unreadable.add(identity)

    def _path(self, identity: str) -> Path:
        return self._folder / f"{identity}.json"


def _dump(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
