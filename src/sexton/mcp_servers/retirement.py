"""When a process that nobody holds has had its time (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from sexton.mcp_servers.server_config import ServerConfig


class Reason(StrEnum):
    """Why a process of a server was ended by us."""

    IDLE = "idle"
    MAX_AGE = "max_age"
    MAX_CALLS = "max_calls"
    RESTART = "restart"
    CONFIG_CHANGED = "config_changed"
    REMOVED = "removed"
    NOT_NEEDED = "not_needed"
    """Nobody waited for its start any more, its one holder will not come back, or its place was needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What one process has done so far; times are monotonic seconds.

    `keeps_warm` says that it is the one that `keep_warm` asks for.
    """

    started_at: float
    idle_since: float
    calls: int
    keeps_warm: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """End it now for `reason`; or, when that is None, look again at `look_again_at` (infinity: never)."""

    reason: Reason | None
    look_again_at: float


def judge(config: ServerConfig, service: Service, *, now: float) -> Verdict:
    """Say whether an idle process is to be ended.

    Age and calls end a process only here, between uses: while it is held,
    further holders join it, however old it is, since its successor must not
    run beside it.
    """
    if config.max_calls is not None and service.calls >= config.max_calls:
        return Verdict(Reason.MAX_CALLS, now)
    aged_at = math.inf if config.max_age is None else service.started_at + config.max_age
    if now >= aged_at:
        return Verdict(Reason.MAX_AGE, now)
    idle_at = math.inf if service.keeps_warm else service.idle_since + config.idle_timeout
    if now >= idle_at:
        return Verdict(Reason.IDLE, now)
    return Verdict(None, min(aged_at, idle_at))
