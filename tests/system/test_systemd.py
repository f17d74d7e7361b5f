"""The unit that `sexton service install` writes, under a systemd of its own (see systemd_root.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from system.gateway_process import SERVER, wait_for
from system.systemd_machine import SystemdMachine, booted_systemd
from waiting import PATIENCE

UNIT = "sexton.service"
PLACES = ("--config", "/etc/sexton/sexton.toml", "--data", "/var/lib/sexton")
SETTINGS = f"""
listen = "127.0.0.1:0"
drain_timeout = "500ms"
[servers.small]
command = {json.dumps(sys.executable)}
args = ["-I", "-S", "{SERVER}", "--helper", "--stubborn"]
keep_warm = true

[jobs.slow]
at = "start"
call = "small.slow"
arguments = {{ seconds = 600 }}
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SystemdMachine]:
    with booted_systemd(tmp_path) as machine:
        yield machine


def sexton(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "sexton", *arguments)


@pytest.mark.timeout(600)
def test_the_installed_unit_starts_watches_reloads_restarts_and_stops_with_nothing_left(
    machine: SystemdMachine,
) -> None:
    machine.write("/etc/sexton/sexton.toml", SETTINGS)
    machine.run(*sexton("service", "install", "--system", "--config", "/etc/sexton/sexton.toml"))
    machine.write("/etc/systemd/system/sexton.service.d/quick.conf", "[Service]\nWatchdogSec=4\n")
    machine.run("systemctl", "daemon-reload")
    starts_and_is_heard(machine)
    reloads(machine)
    is_replaced_when_killed(machine)
    is_replaced_when_it_hangs(machine)
    stops(machine)


def starts_and_is_heard(machine: SystemdMachine) -> None:
    """`systemctl start` comes back when the gateway has said READY=1; Delegate=yes makes a cgroup leaf per server."""
    machine.run("systemctl", "start", UNIT)
    assert is_active(machine)
    assert machine.show(UNIT, "StatusText").startswith("serving at http://127.0.0.1:")
    assert wait_tree(machine)["boundary"] == "cgroup"
    assert len(machine.members(UNIT)) >= len(("gateway", "warden", "keeper", "server", "helper"))
    doctor = machine.json(*sexton("doctor", "--json", *PLACES))
    assert doctor["boundary"] == "cgroup", doctor
    heard = machine.show(UNIT, "WatchdogTimestampMonotonic")
    wait_for(lambda: machine.show(UNIT, "WatchdogTimestampMonotonic") != heard, within=PATIENCE, what="WATCHDOG=1")


def reloads(machine: SystemdMachine) -> None:
    pid = main_pid(machine)
    machine.write("/etc/sexton/sexton.toml", SETTINGS + '[jobs.added]\nat = "start"\ncommand = ["true"]\n')
    machine.run("systemctl", "reload", UNIT)
    wait_for(lambda: "added" in machine.run(*sexton("jobs", "list", *PLACES)), within=PATIENCE, what="the new job")
    assert main_pid(machine) == pid


def is_replaced_when_killed(machine: SystemdMachine) -> None:
    wait_tree(machine)
    prove_replaced(machine, "KILL")
    assert machine.show(UNIT, "NRestarts") == "1"


def is_replaced_when_it_hangs(machine: SystemdMachine) -> None:
    wait_tree(machine)
    prove_replaced(machine, "STOP")


def prove_replaced(machine: SystemdMachine, sign: str) -> None:
    """After that signal to the gateway, another one serves, and nothing of the old one is left."""
    old, before = main_pid(machine), set(machine.members(UNIT))
    machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={sign}", UNIT)
    wait_for(lambda: main_pid(machine) not in {"0", old} and is_active(machine), within=60, what="a new gateway")
    assert not before & set(machine.everyone())


def stops(machine: SystemdMachine) -> None:
    wait_tree(machine)
    before = set(machine.members(UNIT))
    machine.run("systemctl", "stop", UNIT)
    assert (machine.show(UNIT, "ActiveState"), machine.show(UNIT, "Result")) == ("inactive", "success")
    assert machine.members(UNIT) == []
    assert not before & set(machine.everyone())


def main_pid(machine: SystemdMachine) -> str:
    return machine.show(UNIT, "MainPID")


def is_active(machine: SystemdMachine) -> bool:
    return machine.show(UNIT, "ActiveState") == "active"


def wait_tree(machine: SystemdMachine) -> dict[str, Any]:
    """The tree of the small server, as `sexton ps` shows it, when its helper is there too."""

    def found() -> dict[str, Any] | None:
        trees = machine.json(*sexton("ps", "--json", *PLACES))["trees"]
        return next((tree for tree in trees if tree["name"] == "small" and len(tree["pids"]) > 1), None)

    tree: dict[str, Any] = wait_for(found, within=PATIENCE, what="the server runs")
    return tree
