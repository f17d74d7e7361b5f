"""Deliveries of a real gateway: over SIGKILL, over a restart, in order."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from http_peer import HttpPeer, http_peer
from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    with http_peer() as peer:
        yield peer


SETTINGS = """
[targets.hook]
url = "{url}/in"
secret = "quiet"

[targets.log]
path = "log.txt"

[jobs.brief]
command = ["echo", "all is well"]
deliver = ["hook", "log"]
"""


def test_what_a_killed_gateway_had_to_tell_is_told_by_the_next_with_the_same_key(
    gateway: GatewayProcess, peer: HttpPeer
) -> None:
    peer.status = 503
    gateway.write(SETTINGS.format(url=peer.url)).up()
    first, second = (gateway.cli("jobs", "run", "brief", "--wait")["run"]["id"] for _ in range(2))
    wait_for(lambda: peer.received, what="an attempt")
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.wait_exit(within=PATIENCE)
    attempts = len(peer.received)
    peer.status = 200
    gateway.up()
    gateway.wait_event("delivery.sent", subject="hook", count=2)
    arrived = peer.received[attempts:]
    assert [json.loads(got.body)["data"]["run"] for got in arrived] == [first, second]
    assert {got.headers["webhook-id"] for got in peer.received} == {f"run:{first}:hook", f"run:{second}:hook"}
    assert peer.received[0].headers["webhook-id"] == f"run:{first}:hook"
    assert (gateway.folder / "log.txt").read_text().count("--- end of") == 2
    assert [one["state"] for one in gateway.cli("deliveries")] == ["sent"] * 4
    gateway.stop()


def test_a_target_that_is_added_and_taken_away_while_it_runs(gateway: GatewayProcess, peer: HttpPeer) -> None:
    gateway.write('[jobs.brief]\ncommand = ["echo", "hello"]\n').up()
    gateway.write(SETTINGS.format(url=peer.url))
    gateway.wait_event("settings.reloaded")
    gateway.cli("jobs", "run", "brief", "--wait")
    gateway.wait_event("delivery.sent", subject="hook")
    gateway.write('[targets.log]\npath = "log.txt"\n')
    gateway.wait_event("settings.reloaded", count=2)
    gateway.stop()
    assert "quiet" not in gateway.output() + (gateway.data / "journal.jsonl").read_text()
