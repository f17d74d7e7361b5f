"""What `sexton servers` and `sexton ps` show of the servers: frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mcp_types import Tool

from sexton.errors import SextonError
from sexton.mcp_servers.breaker import BreakerState, BreakerStatus
from sexton.mcp_servers.lease_book import ProcessState
from sexton.mcp_servers.server_config import Sharing


class ServerState(StrEnum):
    """How a server is doing as a whole."""

    STOPPED = "stopped"
    """No process; the next holder starts it."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKING_OFF = "backing_off"
    """No process, and none is started for some time, since it failed lately."""
    BROKEN = "broken"
    """No process, and none is started for a long time, since it failed again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcessStatus:
    """One process of a server (or one connection, to a server that we do not run).

    `id` is `server#serial`, `pids` all members of its tree, `memory` in bytes,
    `age` and `idle_for` in seconds.
    """

    id: str
    state: ProcessState
    holders: tuple[str, ...]
    pid: int | None
    pids: tuple[int, ...]
    memory: int | None
    age: float
    idle_for: float | None
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """One configured server.

    `memory` (bytes), `pids` and `calls` are sums over its present processes,
    `age` (seconds) is that of its oldest one.  `waiting` are holders without a
    process yet.  `tools` is None when nobody has asked it for them yet.
    """

    name: str
    state: ServerState
    sharing: Sharing
    transport: str
    holders: tuple[str, ...]
    waiting: tuple[str, ...]
    pids: tuple[int, ...]
    memory: int | None
    age: float | None
    calls: int
    tools: int | None
    breaker: BreakerState
    breaker_status: BreakerStatus
    last_error: str | None
    warnings: tuple[str, ...]
    processes: tuple[ServerProcessStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What came of using a server for a moment: `seconds` until its tools were known.

    `cause` is the failure alone, without what the pool does about it.
    """

    server: str
    ok: bool
    seconds: float
    was_running: bool = False
    protocol_version: str | None = None
    server_info: str | None = None
    tools: tuple[Tool, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None
    cause: SextonError | None = None
