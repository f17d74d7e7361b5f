"""SIGKILL of the gateway while ten turns stream and three have a tool with an effect at work.

What was complete stays, what was cut off goes on, every delivery arrives once, and no effect happens twice.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from http_peer import HttpPeer, http_peer
from scripted_model import Reply, ScriptedModel, call, say, scripted_model
from system.api_client import ApiClient
from system.gateway_process import GatewayProcess, wait_for
from system.witness import Witness
from waiting import PATIENCE

SETTINGS = """
[models.main]
provider = "openai"
base_url = "{model}"
model = "scripted"

[agent]
approvals = "never"

[targets.hook]
url = "{hook}/in"

[targets.log]
path = "log.txt"

[jobs.brief]
prompt = "job brief"
servers = ["works"]
deliver = ["hook", "log"]
"""

STREAMING = 10
WAIT_SECONDS = 90.0


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    with http_peer() as made:
        yield made


@pytest.mark.usefixtures("each_database")
def test_ten_turns_and_their_deliveries_outlive_a_kill_and_nothing_is_done_twice(
    gateway: GatewayProcess, model: ScriptedModel, peer: HttpPeer, tmp_path: Path
) -> None:
    works, until = Witness("works", tmp_path / "works.jsonl"), tmp_path / "go"
    model.answer = lambda body: answer(body, until)
    peer.status = 503
    gateway.write(SETTINGS.format(model=model.url, hook=peer.url) + works.settings()).start()
    gateway.wait_line("^ready ", within=60)
    run = gateway.cli("jobs", "run", "brief", "--wait")["run"]["id"]
    chats = [f"chat-{number}" for number in range(STREAMING)] + ["slow-0", "slow-1", "slow-2"]
    ids = {key: begin_turn(gateway, key) for key in chats}
    wait_for(lambda: model.held == STREAMING, within=WAIT_SECONDS, what="ten that stream")
    wait_for(lambda: sum(works.calls().values()) == 9, within=WAIT_SECONDS, what="all effects")
    before = {key: record_of(gateway, ids[key]) for key in chats}

    gateway.send(signal.SIGKILL)
    gateway.wait_exit(within=PATIENCE)
    gateway.wait_nothing_left(within=PATIENCE)
    attempts = len(peer.received)
    peer.status = 200
    model.let_go()
    until.touch()
    gateway.start()
    gateway.wait_line("^ready ", within=60)

    for key in chats:
        check_whole(key, before[key], wait_for(lambda k=key: over(gateway, ids[k]), within=WAIT_SECONDS, what=key))  # type: ignore[misc]
    assert works.calls() == {"brief": 1, **{key: 1 for key in chats if works_for(key)}}
    sent = 1 + sum(not works_for(key) for key in chats)
    wait_for(lambda: len(peer.received) >= attempts + sent, within=WAIT_SECONDS, what="all deliveries")
    check_deliveries(gateway, peer, attempts, run, [key for key in chats if not works_for(key)])
    gateway.stop()


def works_for(key: str) -> bool:
    """Whether this turn calls a tool of the server; the others send a message."""
    return key.startswith("slow") or int(key.rpartition("-")[2]) % 2 == 0


def answer(body: dict[str, Any], until: Path) -> Reply:
    """An effect first; then the chats stream, and wait before the last piece."""
    told = [message for message in body["messages"] if message["role"] in ("user", "tool")]
    key = str(next(message["content"] for message in told if message["role"] == "user")).split()[-1]
    if told[-1]["role"] == "tool":
        return say(f"{key} ", "is ", "done", hold=2 if key.startswith("chat") else None)
    if key != "brief" and not works_for(key):
        return call("sexton__send_message", target="hook", text=f"from {key}")
    if key.startswith("slow"):
        return call("works__slow", key=key, until=str(until))
    return call("works__ask", key=key)


def begin_turn(gateway: GatewayProcess, key: str) -> str:
    api = ApiClient(gateway)
    with closing(api.connect()) as connection:
        conversation: str = api.ask("POST", "/conversations", {"key": key}, over=connection)[1]["id"]
        said = {"text": f"this is {key}", "message_key": "1"}
        status, document = api.ask("POST", f"/conversations/{conversation}/messages", said, over=connection)
        assert status == 202, document
    return conversation


def record_of(gateway: GatewayProcess, conversation: str) -> Any:
    status, record = ApiClient(gateway).ask("GET", f"/conversations/{conversation}")
    assert status == 200, record
    return record


def over(gateway: GatewayProcess, conversation: str) -> Any:
    record = record_of(gateway, conversation)
    return None if record["conversation"]["busy"] else record


def check_whole(key: str, before: Any, after: Any) -> None:
    """All that was complete is there as it was; the answer is there once, and whole."""
    assert len(before["messages"]) == 2, before
    kept = [{**message, "calls": None} for message in after["messages"]]
    assert kept[:2] == [{**message, "calls": None} for message in before["messages"]]
    assert [message["text"] for message in kept[2:]] == [f"{key} is done"]
    [was], [now] = (record["messages"][1]["calls"] for record in (before, after))
    if key.startswith("slow"):
        assert (was["state"], now["state"]) == ("started", "unknown")
    else:
        assert was == now
        assert now["state"] == "done"


def check_deliveries(gateway: GatewayProcess, peer: HttpPeer, attempts: int, run: str, senders: list[str]) -> None:
    arrived = peer.received[attempts:]
    texts = sorted(json.loads(got.body)["data"].get("text", "") for got in arrived)
    assert len({got.headers["webhook-id"] for got in arrived}) == len(arrived) == 1 + len(senders)
    assert f"run:{run}:hook" in {got.headers["webhook-id"] for got in arrived}
    for key in senders:
        assert sum(f"from {key}" in text for text in texts) == 1, texts
    assert (gateway.folder / "log.txt").read_text().count("brief is done") == 1
    wait_for(
        lambda: {one["state"] for one in gateway.cli("deliveries")} == {"sent"}, within=WAIT_SECONDS, what="all sent"
    )
