"""Real gateways on one PostgreSQL, all with one account of a platform that allows one reader, which sees only one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutting_proxy import cutting_proxy
from postgres_server import PostgresServer
from scale.machines import QUICK_NODE
from scripted_model import ScriptedModel, say, scripted_model
from system.gateway_process import GatewayProcess, wait_for
from telegram_peer import TOKEN, TelegramPeer, telegram_peer
from waiting import PATIENCE

# A dead node is found out by its process, a beat and two looks of five seconds; the leases are those of `quick_node`.
WITHIN = 2 * PATIENCE
SETTINGS = """
drain_timeout = "10s"
[node]
name = "{name}"

[models.main]
provider = "openai"
model = "scripted"
base_url = "{model}"
api_key = "none"

[channels.telegram]
token = "{token}"
api = "{telegram}/{name}"
allow = ["7"]
"""


@pytest.fixture
def peer() -> Iterator[TelegramPeer]:
    with telegram_peer() as peer:
        yield peer


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


@pytest.fixture
def nodes(tmp_path: Path, peer: TelegramPeer, model: ScriptedModel) -> Iterator[list[GatewayProcess]]:
    """Two gateways, not started and without a database."""
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        node = GatewayProcess(tmp_path / name)
        node.program = (str(QUICK_NODE),)
        made.append(node)
    try:
        yield made
    finally:
        for node in made:
            node.close()


def write(node: GatewayProcess, database: str, peer: TelegramPeer, model: ScriptedModel) -> None:
    node.database = database
    node.write(SETTINGS.format(name=node.folder.name, model=model.url, telegram=peer.url, token=TOKEN))


def listed(node: GatewayProcess) -> tuple[Any, ...]:
    (channel,) = node.cli("channels")
    return channel["state"], channel["node"], channel["account"]


def wait_texts(peer: TelegramPeer, *texts: str) -> None:
    wait_for(lambda: peer.texts == list(texts), within=WITHIN, what=f"{texts}; there are {peer.texts}")


def check_readers(peer: TelegramPeer, *turns: str) -> None:
    """One after the other, and never two at once."""
    changes = [who for number, who in enumerate(peer.readers) if number == 0 or who != peer.readers[number - 1]]
    assert changes == [f"/{name}" for name in turns]
    assert peer.conflicts == 0


def test_a_channel_moves_with_its_message_when_its_node_dies_and_when_it_is_drained(
    nodes: list[GatewayProcess], postgres: PostgresServer, peer: TelegramPeer, model: ScriptedModel
) -> None:
    a, b = nodes
    name = postgres.new_database()
    model.will(say("it was ", "cut off", hold=1), say("At last."), say("And this."), say("From the first."))
    for node in nodes:
        write(node, postgres.url(name).text, peer, model)
    a.up()
    a.wait_event("channel.connected")
    b.up()
    wait_for(lambda: listed(b) == ("connected", "a", "@sexton_bot"), within=PATIENCE, what="b shows what a told")
    peer.write("hello")
    wait_for(lambda: model.held, within=PATIENCE, what="the answer is under way on a")

    os.kill(a.pid, signal.SIGKILL)
    a.wait_exit(within=PATIENCE)
    model.let_go()
    peer.write("are you there?")
    wait_texts(peer, "At last.", "And this.")
    assert listed(b)[:2] == ("connected", "b")
    check_readers(peer, "a", "b")
    assert len(model.requests) == 3

    a.up()
    a.cli("nodes", "drain", "b")
    wait_for(lambda: listed(a)[:2] == ("connected", "a"), within=WITHIN, what="it moved to a")
    peer.write("and now?")
    wait_texts(peer, "At last.", "And this.", "From the first.")
    check_readers(peer, "a", "b", "a")
    for node in nodes:
        node.stop()
    postgres.drop_database(name)


def test_a_node_that_is_cut_off_from_the_database_stops_reading_before_another_begins(
    nodes: list[GatewayProcess], postgres: PostgresServer, peer: TelegramPeer, model: ScriptedModel
) -> None:
    a, b = nodes
    name = postgres.new_database()
    model.will(say("Here I am."))
    with cutting_proxy(postgres.port) as proxy:
        write(a, postgres.url(name, port=proxy.port).text, peer, model)
        write(b, postgres.url(name).text, peer, model)
        a.up()
        a.wait_event("channel.connected")
        b.up()
        proxy.cut_off()
        b.wait_event("channel.connected", within=WITHIN)
        left, taken = a.wait_event("channel.left"), b.wait_event("channel.taken")
        assert left["at"] < taken["at"]
        peer.write("who is there?")
        wait_texts(peer, "Here I am.")
        proxy.takes_more = True
        a.wait_event("node.back", within=WITHIN)
        wait_for(lambda: listed(a)[:2] == ("connected", "b"), within=WITHIN, what="a knows that b has it")
        check_readers(peer, "a", "b")
        for node in nodes:
            node.stop()
    postgres.drop_database(name)
