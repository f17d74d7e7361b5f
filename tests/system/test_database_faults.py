"""The database fails under a running gateway: locked, not writable, on a full disk, damaged, moved away.

What runs goes on, servers and their calls do not notice, everybody who asks is told what is wrong, no slot runs twice,
and when the database is back, the slots that passed are recorded as their jobs' `catch_up` says.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from small_disk import fill, small_disk
from system.api_client import ApiClient, holders
from system.gateway_process import GatewayProcess, start_busy, wait_for
from waiting import PATIENCE


def start(gateway: GatewayProcess, disk: Path) -> None:
    """A gateway with its database on that disk, and with a server, a run and scheduled runs at work."""
    gateway.database = str(disk / "sexton.db")
    start_busy(gateway)


@contextmanager
def locked(disk: Path) -> Iterator[None]:
    with closing(sqlite3.connect(disk / "sexton.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(disk: Path) -> Iterator[None]:
    ballast = fill(disk)
    yield
    ballast.unlink()


@contextmanager
def unwritable(disk: Path) -> Iterator[None]:
    """As after `chattr +i` on the database and its log: also what is open cannot be written.

    Not on the `-shm` beside them: it is mapped, and whether a process that writes there goes on or gets SIGBUS is a
    matter of whether the kernel has just written the page back.
    """
    files = [str(file) for file in disk.glob("sexton.db*") if not file.name.endswith("-shm")]
    if subprocess.run(["chattr", "+i", *files], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


def test_a_database_that_is_locked_by_another_program(gateway: GatewayProcess) -> None:
    (disk := gateway.folder / "disk").mkdir()
    prove_it_is_borne(gateway, disk, locked, "locked")


def test_a_database_on_a_full_disk(gateway: GatewayProcess) -> None:
    with small_disk(gateway.folder / "disk", kilobytes=2048) as disk:
        prove_it_is_borne(gateway, disk, full, "full")


def test_a_database_that_became_read_only(gateway: GatewayProcess) -> None:
    (disk := gateway.folder / "disk").mkdir()
    prove_it_is_borne(gateway, disk, unwritable, "read-only")


def prove_it_is_borne(
    gateway: GatewayProcess, disk: Path, fault: Callable[[Path], AbstractContextManager[None]], failure: str
) -> None:
    start(gateway, disk)
    client = ApiClient(gateway)
    with fault(disk):
        told = gateway.wait_event("database.failing", within=PATIENCE)["data"]
        assert told["failure"] == failure, told
        gateway.wait_line(told["what"][:30])
        (gateway.folder / "go").touch()
        assert client.call("small", "echo", text="as ever").text(within=PATIENCE) == "as ever"
        status, document = client.ask("GET", "/status")
        assert (status, document["database"]["failure"]) == (200, failure)
        status, document = client.ask("GET", "/readyz", below="")
        assert (status, document["troubles"][0]["part"]) == (503, "database")
        assert not gateway.events("run.ended", subject="holder")
    gateway.wait_event("database.recovered", within=PATIENCE)
    gateway.wait_event("run.ended", subject="holder", state="ran", output="held")
    ran = len(gateway.events("run.ended", subject="quick", state="ran"))
    gateway.wait_event("run.ended", subject="quick", state="ran", count=ran + 1)
    prove_each_slot_once(gateway, disk)
    assert client.ask("GET", "/status")[1]["database"] is None
    assert "Traceback" not in gateway.output()
    gateway.stop()


def prove_each_slot_once(gateway: GatewayProcess, disk: Path) -> None:
    """No slot was started twice, and none is missing: what passed meanwhile stands in one row, with its reason."""
    slots = Counter(event["data"]["slot"] for event in gateway.events("run.started", subject="quick"))
    assert set(slots.values()) == {1}
    with closing(sqlite3.connect(disk / "sexton.db")) as reader:
        rows = reader.execute("select slot, slot_end, slot_count, state from run where job = 'quick' order by slot")
        covered = [(slot, end or slot, count, state) for slot, end, count, state in rows]
    assert any(state == "missed" for *_, state in covered), covered
    for (_, end, *_), (following, *_) in pairwise(covered):
        assert following - end == 1_000_000, covered


def test_a_damaged_database_stops_no_server_and_no_stop(gateway: GatewayProcess) -> None:
    """It cannot go on scheduling: that is said, again and again tried, and a stop takes no longer for it."""
    (disk := gateway.folder / "disk").mkdir()
    start(gateway, disk)
    client = ApiClient(gateway)
    for file in disk.glob("sexton.db*"):
        with file.open("r+b") as damaged:
            damaged.write(os.urandom(file.stat().st_size))
    told = gateway.wait_event("database.failing", within=PATIENCE)["data"]
    assert told["failure"] == "corrupt", told
    assert "move the file aside" in told["hint"]
    status, document = client.ask("GET", "/status")
    assert (status, document["database"]["failure"], document["jobs"]) == (200, "corrupt", None)
    assert client.call("small", "echo", text="as ever").text(within=PATIENCE) == "as ever"
    (gateway.folder / "go").touch()
    wait_for(lambda: not holders(gateway), within=PATIENCE, what="the run has let go of its server")
    gateway.send(signal.SIGTERM)
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()
    gateway.wait_read()
    assert gateway.events("run.unrecorded", subject="holder", state="ran")

    assert gateway.start().wait_exit(within=PATIENCE) == 1
    gateway.wait_read()
    assert "move the file aside" in " ".join(gateway.output().split())
    assert "Traceback" not in gateway.output()
    gateway.wait_nothing_left()

    disk.rename(disk.with_name("aside"))
    disk.mkdir()
    gateway.up()
    gateway.wait_event("run.ended", subject="holder", state="ran", output="held")
    gateway.stop()


def test_a_row_that_nobody_wrote_ends_nothing(gateway: GatewayProcess) -> None:
    (disk := gateway.folder / "disk").mkdir()
    start(gateway, disk)
    with closing(sqlite3.connect(disk / "sexton.db", isolation_level=None, timeout=PATIENCE)) as other:
        (whole,) = other.execute("select definition from job where name = 'quick'").fetchone()
        other.execute("update job set definition = substr(definition, 1, 20) where name = 'quick'")
        told = gateway.wait_event("database.failing", within=PATIENCE)["data"]
        assert told["failure"] == "unreadable", told
        other.execute("update job set definition = ? where name = 'quick'", (whole,))
    gateway.wait_event("database.recovered", within=PATIENCE)
    ran = len(gateway.events("run.ended", subject="quick", state="ran"))
    gateway.wait_event("run.ended", subject="quick", state="ran", count=ran + 1)
    assert "Traceback" not in gateway.output()
    gateway.stop()
