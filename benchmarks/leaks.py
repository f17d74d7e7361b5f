"""Processes left behind: five servers, six ways to end, for Sexton and its peers in one run.

Each cell starts one host on one server inside a cgroup leaf of its own, ends it in one way, gives it SETTLE_SECONDS,
and counts who is still alive in the leaf, or anywhere with the cell's cookie. The host itself and its warden are not
counted while the host is meant to live; after its death everything is. Bystanders with the servers' command lines run
beside it all and write down each signal that they get.

    python -m benchmarks.leaks [--repeat 1] [--jobs 3] [--only sexton] [--servers EFSDH]
"""

import argparse
import concurrent.futures
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bystanders import Bystanders
from benchmarks.leak_hosts import (
    GatewayHost,
    Host,
    LibraryHost,
    Place,
    ProxyHost,
    Running,
    Server,
    servers_of_the_table,
    sexton_python,
)
from benchmarks.machine import describe_machine
from benchmarks.peers import Peers, ensure_peers
from benchmarks.report import markdown_table, say, write_csv
from benchmarks.truth import Leaf, cookie_pids, end_cookie_pids, is_sexton_helper, parent_of
from benchmarks.waiting import wait_until

ENDINGS = ("clean close", "cancelled", "cancelled twice", "client kill -9", "host SIGTERM", "host kill -9")
SETTLE_SECONDS = 8.0  # 2 s, and MCP's 2 s for each of end of file and SIGTERM, and 2 s of slack
EXIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was left of one server after one ending."""

    host: str
    server: str
    ending: str
    survivors: int
    seconds: float
    """From the ending to the moment when nobody was left; SETTLE_SECONDS if somebody was."""
    shared: bool
    """The server is the host's own and is meant to stay."""
    note: str


def run_cell(host: Host, server: Server, ending: str) -> Cell:
    """One host, one server, one ending; whatever is left is ended before this returns."""
    cookie = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder, Leaf.made() as leaf, ended_cookies(cookie):
        place = Place(leaf=leaf, folder=Path(folder), cookie=cookie)
        running = host.start(place, server, session_ending(ending))
        try:
            return _observe(host, server, ending, place, running)
        finally:
            for process in (running.client, running.host):
                process.kill()
                process.wait()


def session_ending(ending: str) -> str:
    """What the client does by itself; a client that is to be killed, or whose host is, holds its call."""
    return {"clean close": "clean", "cancelled": "cancelled", "cancelled twice": "cancelled twice"}.get(ending, "hold")


@contextlib.contextmanager
def ended_cookies(cookie: str) -> Iterator[None]:
    """Nobody with this cookie is alive afterwards."""
    try:
        yield
    finally:
        end_cookie_pids(cookie)


def _observe(host: Host, server: Server, ending: str, place: Place, running: Running) -> Cell:
    note = _end(ending, place, running)
    began = time.monotonic()
    wait_until(lambda: not survivors(place, running), SETTLE_SECONDS)
    left, seconds = survivors(place, running), time.monotonic() - began
    lives_on = running.host.poll() is None
    if host.has_clients and lives_on and ending != "clean close" and server.letter in "SDH":
        note = note or ("" if "cancelled" in place.server_log() else "call runs on")
    return Cell(
        host=host.name,
        server=server.letter,
        ending=ending,
        survivors=len(left),
        seconds=seconds,
        shared=lives_on and host.shared,
        note=note,
    )


def _end(ending: str, place: Place, running: Running) -> str:
    """Bring the ending about; gives a remark if the host did not go along."""
    if session_ending(ending) != "hold":
        return "hangs" if place.said("client", "ended", "hung") == "hung" else ""
    place.said("client", "calling")
    if ending == "client kill -9":
        running.client.kill()
        running.client.wait()
        return ""
    running.host.send_signal(signal.SIGTERM if ending == "host SIGTERM" else signal.SIGKILL)
    try:
        running.host.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        running.host.kill()
        running.host.wait()
        return f"does not exit in {EXIT_SECONDS:.0f} s"
    finally:
        if running.client is not running.host:
            running.client.kill()
            running.client.wait()
    return ""


def survivors(place: Place, running: Running) -> set[int]:
    """Processes that should be gone: all in the leaf or with the cookie, less what a living host needs for itself."""
    found = place.leaf.pids() | cookie_pids(place.cookie)
    own = {process.pid for process in (running.host, running.client) if process.poll() is None}
    wardens = {pid for pid in found if parent_of(pid) in own and is_sexton_helper(pid)}
    return found - own - (wardens - cookie_pids(place.cookie))


def hosts_of_the_table(peers: Peers) -> tuple[Host, ...]:
    """One row each."""
    return (
        LibraryHost("sexton.stdio_client", "sexton", sexton_python()),
        GatewayHost("sexton up"),
        LibraryHost("MCP SDK 2.3 stdio_client", "sdk", peers.python),
        LibraryHost("fastmcp 4.1 client", "fastmcp", peers.python),
        ProxyHost("mcp-proxy 0.13", peers),
    )


def table(cells: Sequence[Cell], hosts: Sequence[Host], repeat: int) -> str:
    """Hosts by endings; a cell names the servers of which something was left."""
    return markdown_table(
        ("host", *ENDINGS),
        [(host.name, *(_entry(cells, host, ending, repeat) for ending in ENDINGS)) for host in hosts],
    )


def _entry(cells: Sequence[Cell], host: Host, ending: str, repeat: int) -> str:
    mine = [cell for cell in cells if cell.host == host.name and cell.ending == ending]
    if not mine:
        return "= host kill -9"
    notes = sorted({f"{note}: {' '.join(_letters(mine, note))}" for note in {cell.note for cell in mine} if note})
    if all(cell.shared for cell in mine):
        return "; ".join(["server shared", *notes])
    left = {cell.server: 0 for cell in mine if cell.survivors}
    for cell in mine:
        left[cell.server] = left.get(cell.server, 0) + bool(cell.survivors)
    letters = [letter if count == repeat else f"{letter} {count}/{repeat}" for letter, count in left.items() if count]
    return "; ".join([" ".join(letters) or "none", *notes])


def _letters(cells: Sequence[Cell], note: str) -> list[str]:
    return list(dict.fromkeys(cell.server for cell in cells if cell.note == note))


def plan(hosts: Sequence[Host], servers: Sequence[Server], repeat: int) -> Iterator[tuple[Host, Server, str]]:
    """Every cell; a client that lives in its host cannot be killed alone."""
    for host in hosts:
        for ending in ENDINGS:
            if ending == "client kill -9" and not host.has_clients:
                continue
            for server in servers:
                for _ in range(repeat):
                    yield host, server, ending


def main() -> None:
    """Measure, print the table, write .bench/leaks.csv; exit 1 if Sexton left anything or a bystander was touched."""
    options = _options()
    peers = ensure_peers()
    hosts = [host for host in hosts_of_the_table(peers) if options.only in host.name]
    servers = [server for server in servers_of_the_table(peers) if server.letter in options.servers]
    cells_planned = list(plan(hosts, servers, options.repeat))
    say(f"{len(cells_planned)} cells, {options.jobs} at a time, on {describe_machine()}")
    with Bystanders.watching() as bystanders, concurrent.futures.ThreadPoolExecutor(options.jobs) as workers:
        cells = list(workers.map(_cell_or_fault, cells_planned))
        touched = bystanders.harm()
    write_csv("leaks", Cell.__dataclass_fields__, [[getattr(c, f) for f in Cell.__slots__] for c in cells])
    say("\n".join(f"{server.letter}: {server.what}" for server in servers) + "\n")
    say(table(cells, hosts, options.repeat))
    ours = [cell for cell in cells if cell.host.startswith("sexton")]
    slowest = max((cell.seconds for cell in ours if cell.ending == "host kill -9"), default=0.0)
    say(
        f"\nSexton: {sum(cell.survivors for cell in ours)} processes left in {len(ours)} cells; "
        f"all gone {slowest:.2f} s after a kill -9 of the host at the latest; "
        f"signals to bystanders: {touched or 'none'}"
    )
    sys.exit(1 if touched or any(cell.survivors or cell.note for cell in ours) else 0)


def _cell_or_fault(planned: tuple[Host, Server, str]) -> Cell:
    host, server, ending = planned
    try:
        cell = run_cell(host, server, ending)
    except TimeoutError as fault:
        say(f"  {host.name}, {server.letter}, {ending}: {fault}")
        return Cell(
            host=host.name, server=server.letter, ending=ending, survivors=0, seconds=0, shared=False, note="not run"
        )
    say(f"  {host.name}, {server.letter}, {ending}: {cell.survivors} left, {cell.seconds:.2f} s {cell.note}")
    return cell


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=1, help="trials of each cell")
    parser.add_argument("--jobs", type=int, default=3, help="cells at a time")
    parser.add_argument("--only", default="", help="only hosts with this in their name")
    parser.add_argument("--servers", default="EFSDH", help="letters of the servers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
