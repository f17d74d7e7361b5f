"""First result of a scheduled call on real servers: a warm lease of the pool against a fresh server for each run.

Fresh means what a scheduler without a pool does: open a session, call, close. It is measured with the SDK's
`stdio_client`, the fastmcp client, and Sexton's own `stdio_client`; warm is `ServerPool.lease` and one call, which is
what a `call` job does. The first lease, which starts the server, stands in its own column.

    python -m benchmarks.first_result [--fresh 8] [--warm 200]
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from benchmarks.day_jobs import JOBS, DayJob, day_servers
from benchmarks.leak_hosts import sexton_python
from benchmarks.machine import describe_machine
from benchmarks.peers import ROOT, Peers, ensure_peers
from benchmarks.report import markdown_table, quantile, say, spread, times
from benchmarks.truth import end_cookie_pids
from sexton.clock import SystemClock
from sexton.containment import Containment
from sexton.journal import Journal
from sexton.mcp_servers import ServerConfig, ServerPool, StdioServer

CALLS = ("recall", "clock", "history")  # one job of benchmarks.cron_day for each of its servers
FRESH_SECONDS = 120.0
TOGETHER = 4  # runs of one client before the next has its turn, so that load falls on all alike


def fresh(python: Path, client: str, server: dict[str, Any], job: DayJob, often: int) -> list[float]:
    """Seconds to the first result, each with a server of its own."""
    plan = {"client": client, "server": server, "probe": [job.tool, job.arguments]}
    done = subprocess.run(
        [str(python), str(ROOT / "benchmarks/hosts/fresh_calls.py"), json.dumps(plan), str(often)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=FRESH_SECONDS,
    )
    return [first for first, _ in json.loads(done.stdout)]


async def warm(servers: dict[str, dict[str, Any]], jobs: Sequence[DayJob], often: int) -> dict[str, list[float]]:
    """Seconds of each lease and call; the first one starts the server."""
    configs = {name: server_config(name, table) for name, table in servers.items()}
    clock = SystemClock()
    measured: dict[str, list[float]] = {job.name: [] for job in jobs}
    with tempfile.TemporaryDirectory() as folder:
        async with Containment.open(Path(folder)) as containment, anyio.create_task_group() as tasks:
            journal = Journal.open(clock=clock)
            pool = ServerPool(configs, containment, clock=clock, journal=journal, data_dir=Path(folder))
            await tasks.start(pool_task, pool)
            for job in jobs:
                for number in range(often + 1):
                    began = time.perf_counter()
                    async with pool.lease(job.server, holder=f"run:{number}") as lease:
                        await lease.call_tool(job.tool, job.arguments)
                        measured[job.name].append(time.perf_counter() - began)
            tasks.cancel_scope.cancel()
    return measured


async def pool_task(pool: ServerPool, *, task_status: "anyio.abc.TaskStatus[None]") -> None:
    """The pool, as a task group starts it."""
    await pool.run(task_status=task_status)


def server_config(name: str, table: dict[str, Any]) -> ServerConfig:
    """A server of the day as the pool takes it."""
    transport = StdioServer(command=table["command"], args=tuple(table["args"]), env=table["env"])
    return ServerConfig(name=name, transport=transport)


def measure(peers: Peers, options: argparse.Namespace) -> None:
    """One table, a row a server."""
    jobs = [job for job in JOBS if job.name in CALLS]
    cookie = "first-result"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        servers = day_servers(peers, Path(folder), cookie)
        try:
            warmed = anyio.run(warm, servers, jobs, options.warm)
            rows = [_row(peers, servers[job.server], job, warmed[job.name], options.fresh) for job in jobs]
        finally:
            end_cookie_pids(cookie)
    headers = ("server, tool", "warm lease, ms", "p99 ms", "first lease, s", *(f"fresh, {name}, s" for name in FRESH))
    say(markdown_table((*headers, "SDK to warm"), rows))


FRESH = {"SDK": "sdk", "fastmcp": "fastmcp", "sexton": "sexton"}


def _row(peers: Peers, server: dict[str, Any], job: DayJob, warmed: list[float], often: int) -> list[str]:
    first, rest = warmed[0], [seconds * 1000 for seconds in warmed[1:]]
    alone: dict[str, list[float]] = {client: [] for client in FRESH.values()}
    for _ in range(often // TOGETHER):
        for client, seconds in alone.items():
            python = sexton_python() if client == "sexton" else peers.python
            seconds.extend(fresh(python, client, server, job, TOGETHER))
    return [
        f"{job.server}, {job.tool}",
        spread(rest),
        f"{quantile(rest, 0.99):.1f}",
        f"{first:.2f}",
        *(spread(seconds) for seconds in alone.values()),
        times(quantile(alone["sdk"], 0.5) * 1000, quantile(rest, 0.5)),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", type=int, default=8, help="runs with a server of their own, for each client")
    parser.add_argument("--warm", type=int, default=200, help="runs on the warm server")
    options = parser.parse_args()
    peers = ensure_peers()
    say(f"on {describe_machine()}\n")
    measure(peers, options)


if __name__ == "__main__":
    main()
