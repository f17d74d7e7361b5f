"""One of our own processes is stopped (SIGSTOP) for ten seconds, with runs, clients and a second holder at work.

A person does it by mistake, a debugger on purpose, a hypervisor without asking.  Nobody's call may be cancelled or
lost, no slot may run twice, and everything goes on afterwards.  A mutant that was tried: a time limit that is
over when the gateway wakes up counts at once (the answers that came meanwhile were thrown away).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from system.api_client import ApiClient, Flight
from system.gateway_process import GatewayProcess, parent_of, wait_for, write_busy
from waiting import PATIENCE

STOPPED = 10.0
LIMITS = (9, 45, 180)
"""Seconds.  The first does, but on a machine where it takes longer than that until the work is under way."""
LIMITED = """
[jobs.limited-SECONDS]
command = ["sh", "-c", "> MARK-SECONDS; while [ ! -e GO ]; do sleep 0.05; done; echo in time; > MARK-SECONDS-told"]
timeout = "SECONDSs"
"""


class Busy:
    """A gateway with a run, a call of a client, and scheduled runs under way, and the file that lets those end."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.go = gateway.folder / "go"
        self.mark = gateway.folder / "mark"
        self.too_slow: list[str] = []
        """Jobs whose time was over before the gateway could be stopped."""
        write_busy(gateway, *(LIMITED.replace("SECONDS", str(limit)) for limit in LIMITS)).up()
        self.client = ApiClient(gateway)
        self.wait_arrived(1)
        self.pid = self.client.call("small", "pid").text(within=PATIENCE)
        gateway.wait_event("run.ended", subject="quick", state="ran")

    def wait_arrived(self, count: int) -> None:
        """That many calls have arrived at the server."""
        wait_for(
            lambda: self.mark.exists() and len(self.mark.read_text().split()) >= count,
            within=PATIENCE,
            what="calls arrived",
        )

    def flight(self) -> Flight:
        return self.client.call("small", "slow", seconds=600, text="whole", mark=str(self.mark), until=str(self.go))

    def tree(self) -> Mapping[str, Any]:
        """The tree of the small server, as `sexton ps` shows it."""
        trees: list[Mapping[str, Any]] = self.gateway.cli("ps")["trees"]
        return next(tree for tree in trees if tree["name"] == "small")

    def prove_untouched(self) -> None:
        """The server is the one that it was, nobody's work was cut off, no slot has two runs, and slots go on."""
        gateway = self.gateway
        assert self.client.call("small", "pid").text(within=PATIENCE) == self.pid
        for kind in ("server.died", "server.taken_away", "run.lost", "run.stuck", "gateway.dead"):
            assert not gateway.events(kind)
        ended = [event for event in gateway.events("run.ended") if event["subject"] not in self.too_slow]
        assert {event["data"]["state"] for event in ended} == {"ran"}
        ran = len(gateway.events("run.ended", subject="quick", state="ran"))
        gateway.wait_event("run.ended", subject="quick", state="ran", count=ran + 1)
        slots = Counter(event["data"]["slot"] for event in gateway.events("run.started", subject="quick"))
        assert set(slots.values()) == {1}


class Limited:
    """A run, and a call of a client, that have `seconds` from now on, and are under way."""

    def __init__(self, busy: Busy, seconds: int) -> None:
        self.job, self.seconds = f"limited-{seconds}", seconds
        self.began = time.monotonic()
        self.answers: list[tuple[int, Any]] = []
        arrived = len(busy.mark.read_text().split())
        self.call = threading.Thread(target=self._call, args=(busy,), daemon=True)
        self.call.start()
        assert busy.client.ask("POST", f"/jobs/{self.job}/run", {})[0] == 202
        busy.wait_arrived(arrived + 1)
        mark = Path(f"{busy.mark}-{seconds}")
        wait_for(lambda: mark.exists() or busy.gateway.events("run.ended", subject=self.job), what="the run has begun")
        self.told = Path(f"{mark}-told")

    def _call(self, busy: Busy) -> None:
        arguments = {"seconds": 600, "text": "in time", "mark": str(busy.mark), "until": str(busy.go)}
        request = {"server": "small", "tool": "slow", "timeout": self.seconds, "arguments": arguments}
        self.answers.append(busy.client.ask("POST", "/calls", request, within=600))

    def is_in_time(self) -> bool:
        return time.monotonic() - self.began < self.seconds


@pytest.fixture
def busy(gateway: GatewayProcess) -> Busy:
    return Busy(gateway)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(state_of(pid) == "T" for pid in pids), within=PATIENCE, what=f"{pids} have stopped")
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def let_pass(seconds: float) -> None:
    """The time that a process is stopped is what is tested here, so it has to pass."""
    threading.Event().wait(seconds)


def stop_until_time_is_over(busy: Busy) -> tuple[Limited, Flight]:
    """Work whose time was over only while the gateway was stopped, and a call that came meanwhile."""
    for seconds in LIMITS:
        limited = Limited(busy, seconds)
        with stopped(busy.gateway.pid):
            if limited.is_in_time():
                meanwhile = busy.client.call("small", "echo", text="asked meanwhile")
                busy.go.touch()
                wait_for(limited.told.exists, what="the run has said what it had to say")
                let_pass(seconds + 2)
                return limited, meanwhile
        busy.too_slow.append(limited.job)
    raise AssertionError(f"no work was under way within {LIMITS[-1]} s")


def test_a_gateway_that_is_stopped_goes_on_where_it_was(busy: Busy) -> None:
    flights = [busy.flight()]
    busy.wait_arrived(2)
    limited, meanwhile = stop_until_time_is_over(busy)
    flights.append(meanwhile)
    assert [flight.text(within=PATIENCE) for flight in flights] == ["whole", "asked meanwhile"]
    limited.call.join(PATIENCE)
    assert [(status, document.get("text")) for status, document in limited.answers] == [(200, "in time")]
    busy.gateway.wait_event("run.ended", subject="holder", state="ran", output="held")
    busy.gateway.wait_event("run.ended", subject=limited.job, state="ran", output="in time")
    busy.prove_untouched()
    busy.gateway.stop()


def test_a_warden_and_a_keeper_that_are_stopped_disturb_nobody(busy: Busy) -> None:
    keeper = busy.tree()["keeper_pid"]
    warden = parent_of(keeper)
    os.kill(keeper, signal.SIGSTOP)
    wait_for(lambda: state_of(keeper) == "S", within=PATIENCE, what="its warden has woken the keeper")

    flight, new = busy.flight(), None
    with stopped(warden, keeper):
        new = busy.client.call("other", "echo", text="a server that has to be started")
        assert busy.client.call("small", "echo", text="as before").text(within=PATIENCE) == "as before"
        busy.go.touch()
        assert flight.text(within=PATIENCE) == "whole"
        let_pass(STOPPED)
    assert new.text(within=PATIENCE) == "a server that has to be started"
    busy.gateway.wait_event("run.ended", subject="holder", state="ran", output="held")
    busy.prove_untouched()
    busy.gateway.stop()


def test_a_gateway_that_is_killed_while_it_is_stopped_leaves_nothing(busy: Busy) -> None:
    gateway = busy.gateway
    os.kill(gateway.pid, signal.SIGSTOP)
    wait_for(lambda: state_of(gateway.pid) == "T", within=PATIENCE, what="it has stopped")
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.wait_exit(within=PATIENCE)
    gateway.wait_nothing_left()

    gateway.up()
    gateway.wait_event("run.ended", subject="holder", state="interrupted")
    quick = len(gateway.events("run.ended", subject="quick", state="ran"))
    gateway.wait_event("run.ended", subject="quick", state="ran", count=quick + 1)
    gateway.stop()
