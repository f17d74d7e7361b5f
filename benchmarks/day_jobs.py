"""The seven jobs and three servers of `benchmarks.cron_day`, and the day's runs in their order."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import ROOT, Peers
from benchmarks.truth import COOKIE

MIDWAY = 0.3  # seconds after which a call that will be ended is ended
PROGRAMS = ("mempalace-mcp", "mcp-server-time", "mcp-server-git")
LONG_CALL = {"timeout_ms": 600, "stream": "bench"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DayJob:
    """One job; `ending` says what becomes of its runs."""

    name: str
    server: str
    tool: str
    every: int
    """Seconds between two slots."""
    ending: str = "answered"
    """`answered`, `raises` (the tool fails), `times out` or `cancelled` (both MIDWAY through the call)."""
    arguments: dict[str, Any] = field(default_factory=dict)


JOBS = (
    DayJob(
        name="remember",
        server="palace",
        tool="mempalace_kg_add",
        every=1,
        arguments={"subject": "sexton", "predicate": "measured on", "object": "a compressed day"},
    ),
    DayJob(name="recall", server="palace", tool="mempalace_kg_query", every=1, arguments={"entity": "sexton"}),
    DayJob(
        name="watch", server="palace", tool="mempalace_event_wait", every=3, ending="times out", arguments=LONG_CALL
    ),
    DayJob(
        name="listen", server="palace", tool="mempalace_event_wait", every=3, ending="cancelled", arguments=LONG_CALL
    ),
    DayJob(name="clock", server="time", tool="get_current_time", every=1, arguments={"timezone": "Europe/Amsterdam"}),
    DayJob(
        name="wrong",
        server="time",
        tool="convert_time",
        every=3,
        ending="raises",
        arguments={"source_timezone": "Nowhere/Land", "time": "12:00", "target_timezone": "UTC"},
    ),
    DayJob(name="history", server="git", tool="git_log", every=1, arguments={"repo_path": str(ROOT), "max_count": 3}),
)


def day_servers(peers: Peers, folder: Path, cookie: str) -> dict[str, dict[str, Any]]:
    """Each server's command, arguments and environment. `folder` holds what mempalace keeps."""
    marked = {COOKIE: cookie, "HOME": str(folder)}
    return {
        "palace": {
            "command": peers.program(PROGRAMS[0]),
            "args": [],
            "env": {**marked, "MEMPALACE_PALACE_PATH": str(folder / "palace")},
        },
        "time": {"command": peers.program(PROGRAMS[1]), "args": ["--local-timezone", "UTC"], "env": marked},
        "git": {"command": peers.program(PROGRAMS[2]), "args": [], "env": marked},
    }


def runs_in_order(count: int) -> Iterator[dict[str, Any]]:
    """The first `count` slots of the day, as JSON."""
    second = made = 0
    while made < count:
        for job in JOBS:
            if second % job.every == 0 and made < count:
                made += 1
                yield asdict(job)
        second += 1
