"""A real gateway on Telegram: from a message to the model and back, over SIGKILL and restart."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chatting import PNG
from scripted_model import ScriptedModel, call, say, scripted_model
from system.gateway_process import GatewayProcess, wait_for
from telegram_peer import TOKEN, Refused, TelegramPeer, telegram_peer
from waiting import PATIENCE

RAW_SERVER = Path(__file__).parents[1] / "process" / "stdio_servers" / "raw_server.py"

# The model's library is loaded at the first turn, which takes seconds on a busy machine.

SETTINGS = """
[models.main]
provider = "openai"
model = "scripted"
base_url = "{model}"
api_key = "none"

[servers.small]
@SERVER@

[channels.telegram]
token = "{token}"
api = "{telegram}"
allow = ["7"]

[jobs.brief]
command = ["echo", "all is well"]
deliver = ["telegram:7"]
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
def settled(gateway: GatewayProcess, peer: TelegramPeer, model: ScriptedModel) -> GatewayProcess:
    """A gateway with all of that, not started."""
    return gateway.write(SETTINGS.format(model=model.url, telegram=peer.url, token=TOKEN))


def wait_texts(peer: TelegramPeer, *texts: str) -> None:
    wait_for(lambda: peer.texts == list(texts), within=PATIENCE, what=f"{texts}; there are {peer.texts}")


def stop(gateway: GatewayProcess) -> None:
    gateway.send(signal.SIGTERM)
    assert gateway.wait_exit(within=PATIENCE) == 0
    gateway.wait_nothing_left()


def kill(gateway: GatewayProcess) -> None:
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.wait_exit(within=PATIENCE)


def test_a_message_becomes_a_turn_with_a_question_a_tool_call_and_a_reply(
    settled: GatewayProcess, peer: TelegramPeer, model: ScriptedModel
) -> None:
    model.will(call("small__echo", text="seven"), say("It is ", "seven."))
    settled.up()
    peer.write("count for me")
    # The server does not say that its tool changes nothing, so a person is asked, where the call came up.
    wait_for(lambda: len(peer.texts) == 1, within=PATIENCE, what="a question")
    assert peer.texts[0].startswith("May I call small.echo?")
    peer.write("/yes")
    wait_for(lambda: len(peer.texts) == 3, within=PATIENCE, what="an answer")
    assert set(peer.texts[1:]) == {"It goes on.", "It is seven."}
    assert "count for me" in str(model.told("user"))
    settled.cli("jobs", "run", "brief", "--wait")
    wait_for(lambda: peer.texts[3:] == ["brief ran\n\nall is well"], within=PATIENCE, what="the job's output")
    (channel,) = settled.cli("channels")
    assert (channel["state"], channel["account"], channel["waiting"]) == ("connected", "@sexton_bot", 0)
    stop(settled)
    assert TOKEN not in settled.output() + (settled.data / "journal.jsonl").read_text()


def test_a_picture_that_a_tool_answers_with_goes_to_the_model_and_to_the_person(
    settled: GatewayProcess, peer: TelegramPeer, model: ScriptedModel
) -> None:
    picture = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(PNG).decode()}
    line = json.dumps({"jsonrpc": "2.0", "id": 0, "result": {"content": [picture]}}).replace('"id": 0', '"id": #')
    model.will(call("raw__answer_raw", line=line), say("This is it."))
    server = f"[servers.raw]\ncommand = {json.dumps(sys.executable)}\nargs = ['-I', '-S', '{RAW_SERVER}']\n"
    more = f"{server}\n[agent]\napprovals = 'never'\n"
    settled.write(SETTINGS.format(model=model.url, telegram=peer.url, token=TOKEN) + more).up()
    peer.write("draw me something")
    wait_for(lambda: peer.pictures and peer.texts, within=PATIENCE, what=f"a picture; there are {peer.texts}")
    assert peer.pictures == [("picture-1.png", PNG)]
    assert peer.texts == ["This is it."]
    assert "data:image/png;base64," in str(model.requests[-1]["messages"])
    stop(settled)


def test_a_kill_in_the_middle_of_a_turn_loses_and_doubles_nothing(
    settled: GatewayProcess, peer: TelegramPeer, model: ScriptedModel
) -> None:
    model.will(say("it was ", "cut off", hold=1), say("At last."), say("And this."))
    settled.up()
    peer.write("hello")
    wait_for(lambda: model.held, within=PATIENCE, what="the model's answer to be under way")
    kill(settled)
    model.let_go()
    peer.write("are you there?")
    settled.up()
    wait_texts(peer, "At last.", "And this.")
    assert len(model.requests) == 3
    assert settled.events("channel.stranger") == []
    stop(settled)


def test_what_a_kill_leaves_standing_of_a_turn_at_work_is_settled_by_the_restart(
    settled: GatewayProcess, peer: TelegramPeer, model: ScriptedModel
) -> None:
    settings = SETTINGS.format(model=model.url, telegram=peer.url, token=TOKEN)
    settled.write(settings.replace('allow = ["7"]', 'allow = ["7"]\nprogress = "100ms"'))
    model.will(say("it was ", "cut off", hold=1), say("At last."))
    settled.up()
    peer.write("hello")
    # Telegram knows no repeats: what was sent and is not noted yet would be left standing.
    wait_for(lambda: noted_messages(settled), within=PATIENCE, what="how far it is, and the note of it")
    wait_for(lambda: model.held, within=PATIENCE, what="the model's answer to be under way")
    left = list(peer.standing.values())
    kill(settled)
    assert [text[:9] for text in left] == ["Working: "]
    model.let_go()
    settled.up()
    wait_for(lambda: list(peer.standing.values()) == ["At last."], within=PATIENCE, what="nothing but an answer")
    stop(settled)


def noted_messages(gateway: GatewayProcess) -> list[str]:
    with closing(sqlite3.connect(f"file:{gateway.data / 'sexton.db'}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT message FROM progress_note WHERE message IS NOT NULL")]


def test_a_reply_that_was_written_and_not_sent_arrives_after_the_restart(
    settled: GatewayProcess, peer: TelegramPeer, model: ScriptedModel
) -> None:
    model.will(say("Here it is."))
    peer.refusals = [Refused(502, "Bad Gateway") for _ in range(1_000)]
    settled.up()
    peer.write("hello")
    settled.wait_event("delivery.delayed", within=PATIENCE, subject="telegram")
    kill(settled)
    peer.refusals.clear()
    settled.up()
    wait_texts(peer, "Here it is.")
    assert len(model.requests) == 1
    stop(settled)


def test_a_platform_that_is_away_stops_nothing(gateway: GatewayProcess) -> None:
    text = SETTINGS.format(model="", telegram="http://127.0.0.1:1", token=TOKEN)
    gateway.write(text[text.index("[channels") :]).up()
    gateway.wait_event("channel.down", subject="telegram")
    gateway.cli("jobs", "run", "brief", "--wait")
    (channel,) = gateway.cli("channels")
    assert channel["state"] in {"down", "connecting"}
    stop(gateway)
