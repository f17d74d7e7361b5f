"""SIGKILL of any one of our processes, while a server with a hidden helper is in the middle of a call."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import pytest

from system.gateway_process import GatewayProcess, parent_of, wait_for
from waiting import PATIENCE, promised

BUSY = """
drain_timeout = "500ms"
[servers.small]
@SERVER --helper@

[jobs.warm]
call = "small.echo"
arguments = { text = "warm" }

[jobs.slow]
at = "start"
call = "small.slow"
arguments = { seconds = 60 }

[jobs.quick]
every = "1s"
command = ["echo", "quick"]
"""


@pytest.fixture
def busy(gateway: GatewayProcess) -> GatewayProcess:
    """A gateway whose server, with its helper, is in the middle of the run `slow`, after some runs of `quick`."""
    gateway.write(BUSY).up()
    gateway.wait_event("server.started", subject="small")
    gateway.wait_event("run.started", subject="slow")
    gateway.wait_event("run.ended", subject="quick", state="ran")
    wait_for(lambda: len(tree_of(gateway)["pids"]) >= 2, within=PATIENCE, what="the server and its helper")
    return gateway


def tree_of(gateway: GatewayProcess) -> Mapping[str, Any]:
    """The tree of the small server, as `sexton ps` shows it."""
    trees: list[Mapping[str, Any]] = gateway.cli("ps")["trees"]
    return next(tree for tree in trees if tree["name"] == "small")


def test_after_the_gateway_nothing_is_left_and_the_next_one_goes_on(busy: GatewayProcess) -> None:
    ran_before = busy.events("run.ended", subject="quick", state="ran")
    os.kill(busy.pid, signal.SIGKILL)
    busy.wait_exit(within=PATIENCE)
    busy.wait_nothing_left()

    busy.up()
    busy.wait_event("run.ended", subject="slow", state="interrupted")
    busy.wait_event("run.ended", subject="quick", state="ran", count=len(ran_before) + 1)
    runs = busy.cli("runs", "list")
    assert {run["state"] for run in runs if run["job"] == "slow"} >= {"interrupted"}
    known = {run["id"] for run in runs}
    assert {event["data"]["run"] for event in ran_before} <= known
    busy.stop()


@pytest.mark.parametrize("whom", ["warden", "keeper", "server"])
def test_after_one_of_the_others_its_tree_is_gone_and_the_gateway_goes_on(busy: GatewayProcess, whom: str) -> None:
    tree = tree_of(busy)
    keeper = tree["keeper_pid"]
    pids = {"warden": parent_of(keeper), "keeper": keeper, "server": tree["leader_pid"]}
    os.kill(pids[whom], signal.SIGKILL)

    gone = {keeper, *tree["pids"]}
    wait_for(lambda: not gone & set(busy.survivors()), within=promised(2), what=f"all of {gone} gone")
    ended = busy.wait_event("run.ended", subject="slow", within=PATIENCE)
    assert ended["data"]["state"] == "failed"

    busy.cli("jobs", "run", "warm")
    busy.wait_event("run.ended", subject="warm", state="ran", output="warm", within=PATIENCE)
    quick = len(busy.events("run.ended", subject="quick", state="ran"))
    busy.wait_event("run.ended", subject="quick", state="ran", count=quick + 1)
    busy.stop()


def test_after_all_of_ours_at_once_the_next_start_finishes_it(busy: GatewayProcess) -> None:
    tree = tree_of(busy)
    keeper = tree["keeper_pid"]
    warden = parent_of(keeper)
    for pid in (busy.pid, warden, keeper):
        os.kill(pid, signal.SIGSTOP)
    for pid in (busy.pid, warden, keeper):
        os.kill(pid, signal.SIGKILL)
    busy.wait_exit(within=PATIENCE)
    left = set(busy.survivors())

    busy.up()
    assert not left & set(busy.survivors())
    busy.stop()
