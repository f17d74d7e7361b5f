"""What the fleet knows of one process, and of one holder that waits for one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio

from sexton.containment import TreeStuck
from sexton.errors import SextonError
from sexton.mcp_servers.lease_book import Hold, ProcessId
from sexton.mcp_servers.retirement import Reason
from sexton.mcp_servers.running_server import RunningServer
from sexton.mcp_servers.server_config import ServerConfig
from sexton.mcp_servers.server_errors import ServerDied

if TYPE_CHECKING:
    from sexton.journal import JSON


class EventSink(Protocol):
    """Where we say what happened; `sexton.journal.Journal` is one."""

    def append(self, kind: str, *, subject: str, **data: JSON) -> object: ...


@dataclass(slots=True, eq=False)
class FleetProcess:
    """One process from the decision to start it until its end is proven.  `server` is None until it is ready."""

    id: ProcessId
    config: ServerConfig
    began_at: float
    server: RunningServer | None = None
    started_at: float = math.nan
    end_by: float = math.inf
    reason: Reason | None = None
    stuck: TreeStuck | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    told_to_stop: anyio.Event = field(default_factory=anyio.Event)
    gone: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True, eq=False)
class Wait:
    """What became of a ticket: a hold, or an error."""

    decided: anyio.Event = field(default_factory=anyio.Event)
    hold: Hold | None = None
    error: SextonError | None = None

    def grant(self, hold: Hold) -> None:
        self.hold = hold
        self.decided.set()

    def refuse(self, error: SextonError) -> None:
        self.error = error
        self.decided.set()


def end_of(error: SextonError) -> dict[str, JSON]:
    """What the journal keeps of how a process ended."""
    if not isinstance(error, ServerDied):
        return {}
    return {"returncode": error.returncode, "signal": error.signal, "last_words": error.last_words}


def needs_new_process(old: ServerConfig, new: ServerConfig) -> bool:
    """Say whether a process started by the old definition is not what the new one asks for."""

    def made_of(config: ServerConfig) -> tuple[object, ...]:
        return (
            config.identity(),
            config.sharing,
            config.stop,
            config.limits,
            config.no_new_privs,
            config.write_timeout,
            config.max_line_bytes,
        )

    return made_of(old) != made_of(new)
