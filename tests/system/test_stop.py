"""How a gateway ends when it is told to."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
from pathlib import Path

import pytest

from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE
from zoo.oracles import TruthGroup

RUNNING = """
drain_timeout = "10s"

[servers.small]
@SERVER --helper@

[jobs.slow]
at = "start"
call = "small.slow"
arguments = {{ seconds = {seconds}, text = "whole" }}
"""


def test_a_run_that_is_nearly_done_is_drained(gateway: GatewayProcess) -> None:
    gateway.write(RUNNING.format(seconds=1)).up()
    gateway.wait_event("run.started", subject="slow")
    gateway.wait_event("server.started", subject="small")
    gateway.send(signal.SIGINT)  # as Ctrl-C; the other tests send SIGTERM
    gateway.wait_event("gateway.stopping")
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()
    assert gateway.events("run.ended", subject="slow", state="ran", output="whole")
    assert gateway.events("gateway.stopped")
    assert not (gateway.data / "gateway.json").exists()


def test_a_run_that_takes_too_long_is_interrupted_at_the_end_of_the_budget(gateway: GatewayProcess) -> None:
    gateway.write(RUNNING.format(seconds=600).replace("10s", "200ms")).up()
    gateway.wait_event("server.started", subject="small")
    gateway.send(signal.SIGTERM)
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()
    assert gateway.events("run.ended", subject="slow", state="interrupted")


def test_a_second_signal_stops_now(gateway: GatewayProcess) -> None:
    patient = 'stop = { stdin_grace = "10m", term_grace = "10m" }\n\n[jobs.slow]'
    settings = RUNNING.format(seconds=600).replace("10s", "10m").replace("--helper", "--helper --stubborn")
    gateway.write(settings.replace("\n[jobs.slow]", patient)).up()
    gateway.wait_event("server.started", subject="small")
    gateway.send(signal.SIGTERM)
    gateway.wait_event("gateway.stopping")
    gateway.send(signal.SIGTERM)
    gateway.wait_event("gateway.stopped")  # sooner than the 20 minutes of the server's stop ladder
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()
    assert gateway.events("run.ended", subject="slow", state="interrupted")


def test_what_not_even_sigkill_ends_is_named_and_ended_as_soon_as_it_can_be(gateway: GatewayProcess) -> None:
    gateway.write(
        """
[servers.frozen]
@SERVER@
keep_warm = true
stop = { stdin_grace = "100ms", term_grace = "100ms", stuck_after = "300ms" }
"""
    ).up()
    pid = gateway.wait_event("server.started", subject="frozen")["data"]["pid"]
    if gateway.group is None or not gateway.group.can_freeze:
        pytest.skip("only a frozen process is sure not to die of SIGKILL")
    ice = TruthGroup(gateway.group.folder / "ice")
    ice.procs.write_text(str(pid))
    with ice.frozen():
        gateway.send(signal.SIGTERM)
        assert gateway.wait_exit(within=30) == 0
        gateway.wait_read()
        assert "do not end: frozen" in gateway.output()
        assert str(pid) in ice.procs.read_text().split()
    gateway.wait_nothing_left(within=PATIENCE)
    ice.close()


def test_a_signal_during_the_start_stops_it(gateway: GatewayProcess) -> None:
    gateway.write(RUNNING.format(seconds=600)).start()
    gateway.wait_event("gateway.starting")
    gateway.send(signal.SIGTERM)
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_stops_the_gateway_unless_it_was_told_to_outlive_it(
    gateway: GatewayProcess, nohup: bool
) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0), open(theirs, "rb", buffering=0) as terminal:  # noqa: PTH123 - descriptors
        gateway.write("").up("setsid", "--ctty", "--wait", *(["nohup"] if nohup else []), stdin=terminal)
    if nohup:
        gateway.wait_event("settings.unchanged")
        os.kill(json.loads((gateway.data / "gateway.json").read_text())["pid"], signal.SIGTERM)
    else:
        gateway.wait_event("gateway.stopping", signal="SIGHUP")
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()


def test_the_service_manager_is_told(gateway: GatewayProcess, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        gateway.write("").up(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000")
        wait_for(lambda: manager.recv(4096).startswith(b"READY=1"), within=PATIENCE, what="READY=1")
        assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        gateway.send(signal.SIGHUP)
        wait_for(lambda: manager.recv(4096).startswith(b"RELOADING=1"), within=PATIENCE, what="RELOADING=1")
        wait_for(lambda: manager.recv(4096).startswith(b"READY=1"), within=PATIENCE, what="READY=1")
        gateway.send(signal.SIGTERM)
        wait_for(lambda: manager.recv(4096).startswith(b"STOPPING=1"), within=PATIENCE, what="STOPPING=1")
        assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()


def test_a_terminal_that_is_not_read_stops_nobody(gateway: GatewayProcess) -> None:
    """`sexton up | less`, and less is not asked to go on."""
    gateway.write('[jobs.chatty]\nevery = "1s"\ncommand = ["echo", "x"]\n').up()
    assert gateway.process is not None
    gateway.stop_reading()
    count = len(gateway.events("run.ended", subject="chatty"))
    gateway.wait_event("run.ended", subject="chatty", count=count + 2)
    address = json.loads((gateway.data / "gateway.json").read_text())
    assert address["pid"] == gateway.pid
    gateway.send(signal.SIGTERM)
    gateway.wait_exit(within=PATIENCE)
    gateway.wait_nothing_left()
