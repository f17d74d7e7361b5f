"""What a gateway needs runs out while it works: descriptors, process ids, room on the disk of its whole data folder.

What runs goes on, what cannot be begun is refused with the reason, nothing is left behind, and as soon as there is
some again everything works as before.  Process ids are taken away by the pids controller of cgroup v1, since
RLIMIT_NPROC does not bind root.  Mutants that were tried: a keeper that dies of complaining about the disk; a warden
without descriptors in reserve.
"""

from __future__ import annotations

import http.client
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from small_disk import fill, small_disk
from system.api_client import ApiClient, Flight
from system.gateway_process import GatewayProcess, parent_of, start_busy, wait_for
from waiting import PATIENCE
from zoo.oracles import mounted_hierarchies


@pytest.fixture
def busy(gateway: GatewayProcess) -> GatewayProcess:
    return start_busy(gateway)


def prove_it_goes_on(gateway: GatewayProcess) -> None:
    """What ran has ended well; slots run again, once each; a server that could not be started can be."""
    gateway.wait_event("run.ended", subject="holder", state="ran", output="held", within=PATIENCE)
    assert not gateway.events("server.died")
    ran = len(gateway.events("run.ended", subject="quick", state="ran"))
    gateway.wait_event("run.ended", subject="quick", state="ran", count=ran + 2, within=PATIENCE)
    slots = Counter(event["data"]["slot"] for event in gateway.events("run.started", subject="quick"))
    assert set(slots.values()) == {1}
    assert ApiClient(gateway).call("other", "echo", text="again").text(within=PATIENCE) == "again"
    assert "Traceback" not in gateway.output()
    gateway.stop()


def keeper_of(gateway: GatewayProcess) -> int:
    """The keeper of the small server."""
    return next(int(tree["keeper_pid"]) for tree in gateway.cli("ps")["trees"] if tree["name"] == "small")


@contextmanager
def no_more_descriptors(pid: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    first_free = next(number for number in count() if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_descriptors_of_the_gateway_and_of_the_warden(busy: GatewayProcess) -> None:
    client = ApiClient(busy)
    with no_more_descriptors(parent_of(keeper_of(busy))):
        refused = busy.wait_event("run.ended", subject="quick", state="failed")["data"]["error"]
        assert "descriptor" in refused
        assert client.call("small", "echo", text="as ever").text(within=PATIENCE) == "as ever"
    failed = len(busy.events("run.ended", subject="quick", state="failed"))
    status, document = wait_for(lambda: asked_without_descriptors(busy), within=60, what="an answer")
    assert (status, "ulimit" in document["hint"]) == (503, True), document
    with no_more_descriptors(busy.pid):
        refused = busy.wait_event("run.ended", subject="quick", state="failed", count=failed + 2)["data"]["error"]
        assert "Too many open files" in refused
        asked = [client.call("small", "echo", text="taken up later") for _ in range(12)]
        (busy.folder / "go").touch()
        busy.wait_event("run.ended", subject="holder", state="ran", output="held")
        busy.wait_event("gateway.cannot_accept")
    for status, document in (one.answer(within=PATIENCE) for one in asked):  # a descriptor that was freed let some in
        assert (status, document.get("text")) == (200, "taken up later") or "ulimit" in document["hint"], document
    prove_it_goes_on(busy)


def asked_without_descriptors(gateway: GatewayProcess) -> tuple[int, Any] | None:
    """The answer on a connection that was there before; None when the gateway had closed it for being idle."""
    client = ApiClient(gateway)
    with closing(client.connect()) as connected:
        client.ask("GET", "/status", over=connected)
        with suppress(ConnectionError, http.client.HTTPException), no_more_descriptors(gateway.pid):
            return client.ask("POST", "/calls", {"server": "other", "tool": "echo"}, over=connected)
    return None


@contextmanager
def no_more_processes(*ours: int) -> Iterator[None]:
    """For these and what they start, not for the servers that run already."""
    hierarchy = mounted_hierarchies().get("pids")
    if hierarchy is None or not os.access(hierarchy, os.W_OK):
        pytest.skip("the number of processes can be limited for root only by a pids controller that is ours to use")
    group = hierarchy / f"sexton-test-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        for pid in ours:
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")  # those that there are may stay
        yield
    finally:
        (group / "pids.max").write_text("max")
        for member in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (hierarchy / "cgroup.procs").write_text(member)
        with suppress(OSError):
            group.rmdir()


def test_process_ids(busy: GatewayProcess) -> None:
    keeper = keeper_of(busy)
    with no_more_processes(busy.pid, parent_of(keeper), keeper):
        refused = busy.wait_event("run.ended", subject="quick", state="failed", within=PATIENCE)["data"]["error"]
        assert "temporarily unavailable" in refused
        client = ApiClient(busy)
        assert client.call("other", "echo").answer(within=PATIENCE)[0] == 503
        assert client.call("small", "echo", text="as ever").text(within=PATIENCE) == "as ever"
        (busy.folder / "go").touch()
    prove_it_goes_on(busy)


@pytest.fixture
def busy_on_small_disk(gateway: GatewayProcess) -> Iterator[GatewayProcess]:
    with small_disk(gateway.data, kilobytes=4096):
        yield start_busy(gateway)


def test_room_on_the_disk(busy_on_small_disk: GatewayProcess) -> None:
    busy = busy_on_small_disk
    client = ApiClient(busy)
    ballast = fill(busy.data)
    busy.wait_line("disk.*full", within=PATIENCE)
    assert client.call("small", "echo", text="as ever").text(within=PATIENCE) == "as ever"
    assert client.call("other", "echo", text="its record and its log are what is missing").text(within=PATIENCE)
    (busy.folder / "go").touch()
    assert client.ask("GET", "/status")[1]["database"]["failure"] == "full"
    ballast.unlink()
    prove_it_goes_on(busy)


def test_a_stop_on_a_full_disk_is_no_slower(busy_on_small_disk: GatewayProcess) -> None:
    busy = busy_on_small_disk
    flight: Flight = ApiClient(busy).call("small", "slow", seconds=600)
    ballast = fill(busy.data)
    busy.wait_line("disk.*full", within=PATIENCE)
    (busy.folder / "go").touch()
    busy.send(signal.SIGTERM)
    assert busy.wait_exit(within=PATIENCE) == 0
    busy.wait_nothing_left()
    assert flight.answer(within=PATIENCE)[0] == 503
    ballast.unlink()
    busy.up()
    busy.wait_event("run.ended", subject="holder", state="interrupted")
    busy.stop()
