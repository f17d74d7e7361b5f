"""SIGTERM in every phase of a gateway: it ends within its budget (docs/reliability.md), with status 0, leaving nothing.

The budgets are measured with the time that a loaded machine may take on top (`SLACK`), so a test fails when a stop
waits for what it should not wait for, and not because the machine is slow.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from system.api_client import ApiClient, Flight
from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE

HELD_START = Path(__file__).with_name("held_start.py")
SLOW_LIBRARY = Path(__file__).with_name("slow_library.py")

DRAIN = 0.3
LADDER = 4.2
CALLS = 3.0
REST = 2.0
BUDGET = DRAIN + CALLS + LADDER + REST
AT_ONCE = 3.0
LOCKED = 5.0
SLACK = 4.0 if "SEXTON_TIMED" in os.environ else 30.0

SMALL = f"""
drain_timeout = "{DRAIN * 1000:.0f}ms"
[servers.small]
@SERVER --helper@
"""
STUBBORN = SMALL.replace("--helper", "--helper --stubborn")
MUTE = SMALL.replace("--helper", "--helper --stubborn --mute") + 'connect_timeout = "60s"\n'
MODEL = '[models.main]\nprovider = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "none"\n'
RUN = '[jobs.slow]\nat = "start"\ncall = "small.slow"\narguments = { seconds = 600 }\n'
COMMAND = """
[jobs.stubborn]
at = "start"
command = ["sh", "-c", "trap '' TERM; > $0; while :; do sleep 1; done", "MARK"]
"""


def end(gateway: GatewayProcess, *, budget: float) -> None:
    """SIGTERM, and the proof that its end came within the budget and left nothing."""
    began = time.monotonic()
    gateway.send(signal.SIGTERM)
    assert gateway.wait_exit(within=budget + SLACK) == 0, gateway.lines[-5:]
    assert time.monotonic() - began < budget + SLACK
    gateway.wait_nothing_left()
    gateway.wait_read()
    assert "Traceback" not in gateway.output()
    assert not (gateway.data / "gateway.json").exists()


def flight(gateway: GatewayProcess) -> Flight:
    """A call of a client that has arrived at the server, and would take for ever."""
    mark = gateway.folder / "arrived"
    flight = ApiClient(gateway).call("small", "slow", seconds=600, mark=str(mark))
    wait_for(mark.exists, within=PATIENCE, what="the call is at the server")
    return flight


@pytest.mark.parametrize("step", ["containment", "database", "servers", "jobs", "scheduler", "http"])
def test_while_it_starts(gateway: GatewayProcess, step: str) -> None:
    mark = gateway.folder / "held"
    gateway.program = (str(HELD_START), step, str(mark))
    gateway.write(SMALL + "keep_warm = true\n" + RUN).start()
    wait_for(mark.exists, within=PATIENCE, what=f"everything before {step} has started")
    end(gateway, budget=AT_ONCE)
    assert gateway.events("gateway.stopped")


def test_while_it_starts_and_waits_for_the_lock_of_another_program(gateway: GatewayProcess) -> None:
    gateway.write(SMALL).up().stop()
    with sqlite3.connect(gateway.data / "sexton.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        starts = len(gateway.events("gateway.starting"))
        gateway.start()
        gateway.wait_event("gateway.starting", count=starts + 1)
        end(gateway, budget=LOCKED + AT_ONCE)


def test_while_it_loads_what_talks_to_models(gateway: GatewayProcess) -> None:
    """The library would take minutes to load here; the gateway used to stop only after that."""
    mark = gateway.folder / "loading"
    gateway.program = (str(SLOW_LIBRARY), str(mark))
    gateway.write(SMALL + MODEL).up()
    wait_for(mark.exists, within=60, what="the library begins to load")
    end(gateway, budget=AT_ONCE)
    assert gateway.events("gateway.stopped")


def test_while_it_is_idle(gateway: GatewayProcess) -> None:
    gateway.write(SMALL).up()
    end(gateway, budget=AT_ONCE)


def test_while_a_server_starts_that_never_answers(gateway: GatewayProcess) -> None:
    gateway.write(MUTE).up()
    asked = ApiClient(gateway).call("small", "echo")
    gateway.wait_event("server.starting")
    wait_for(lambda: len(gateway.survivors()) >= 5, within=PATIENCE, what="its process and its helper")
    end(gateway, budget=BUDGET)
    assert asked.answer(within=PATIENCE)[0] == 503


@pytest.mark.parametrize("settings", [SMALL, STUBBORN], ids=["polite", "stubborn"])
def test_while_a_run_and_a_call_of_a_client_are_under_way(gateway: GatewayProcess, settings: str) -> None:
    mark = gateway.folder / "stubborn"
    gateway.write(settings + RUN + COMMAND.replace("MARK", str(mark))).up()
    gateway.wait_event("run.started", subject="slow")
    wait_for(mark.exists, within=PATIENCE, what="the command ignores SIGTERM")
    asked = flight(gateway)
    end(gateway, budget=BUDGET + LADDER)  # what a command has started ends before the servers do
    assert asked.answer(within=PATIENCE)[0] == 503
    for job in ("slow", "stubborn"):
        assert gateway.events("run.ended", subject=job, state="interrupted")


def test_while_a_stream_of_events_is_open(gateway: GatewayProcess) -> None:
    gateway.write(SMALL).up()
    with ApiClient(gateway).stream() as stream:
        assert stream.readline() == b"retry: 1000\n"
        end(gateway, budget=AT_ONCE)


def reload_that_waits(gateway: GatewayProcess) -> None:
    """A changed definition is taken over only when the holder of the old process has gone, which he does not."""
    gateway.write(gateway.settings.read_text().partition("\n")[2].replace("--helper", "--helper --other"))
    gateway.wait_event("server.draining")


def drain_that_lasts(gateway: GatewayProcess) -> None:
    gateway.send(signal.SIGTERM)
    gateway.wait_event("gateway.stopping")


@pytest.mark.parametrize(("phase", "budget"), [(reload_that_waits, BUDGET), (drain_that_lasts, AT_ONCE)])
def test_while_a_reload_or_a_drain_is_under_way(
    gateway: GatewayProcess, phase: Callable[[GatewayProcess], None], budget: float
) -> None:
    drain = DRAIN if phase is reload_that_waits else 600
    text = f'drain_timeout = "{drain * 1000:.0f}ms"\n[servers.small]\n@SERVER --helper --stubborn@\n{RUN}'
    gateway.write(text if phase is drain_that_lasts else text.replace(" --stubborn", ""))
    gateway.up()
    asked = flight(gateway)
    gateway.wait_event("run.started", subject="slow")
    phase(gateway)
    end(gateway, budget=budget)
    status, document = asked.answer(within=PATIENCE)
    assert (status, document["type"]) == (503, "urn:sexton:problem:stopping")
    assert gateway.events("run.ended", subject="slow", state="interrupted")
