"""`sexton chat` on a terminal, as a person uses it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.terminal import CTRL_C, CTRL_D, ENTER, UP, Terminal
from scripted_model import ScriptedModel, call, say, scripted_model
from system.gateway_process import GatewayProcess, wait_for

RAW = Path(__file__).parents[1] / "process" / "stdio_servers" / "raw_server.py"
SETTINGS = """
[models.main]
provider = "openai"
base_url = "{url}"
model = "scripted"
retries = 1

[agent]
approvals = "never"

[servers.small]
@SERVER@

[servers.raw]
command = {python}
args = ["-I", "-S", {raw}]
"""
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["place"],
}


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(scripted: ScriptedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    made = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    given = {"url": scripted.url, "python": json.dumps(sys.executable), "raw": json.dumps(str(RAW))}
    try:
        made.write(SETTINGS.format(**given)).start().wait_line("^ready ", within=90)
        yield made
        made.stop()
    finally:
        made.close()


@pytest.fixture
def model(scripted: ScriptedModel) -> Iterator[ScriptedModel]:
    scripted.start_again()
    yield scripted
    left, scripted.script = scripted.script, []
    assert left == []


def chat(gateway: GatewayProcess, *options: str) -> Terminal:
    return Terminal(gateway.command("chat", *options))


def leave(terminal: Terminal) -> None:
    terminal.press(CTRL_D)
    assert terminal.end() == 0


def test_a_conversation_shows_calls_and_its_history_is_kept(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="hi"), say("it ", "said hi"), say("once more"))
    with chat(gateway) as terminal:
        terminal.wait("> ")
        terminal.say("/help")
        terminal.wait("/retry")
        terminal.wait("> ")
        terminal.say("what does it say?")
        terminal.wait("small.echo text='hi'")
        terminal.wait("done in ")
        terminal.wait("it said hi")
        terminal.wait("> ")
        leave(terminal)
        assert "Traceback" not in terminal.shown
    with chat(gateway, "--resume", "last") as terminal:
        terminal.wait("> ")
        terminal.press(UP)
        terminal.wait("what does it say?")
        terminal.press(ENTER)
        terminal.wait("once more")
        terminal.wait("> ")
        leave(terminal)
    assert model.told("user") == ["what does it say?", "what does it say?"]


def test_ctrl_c_stops_the_answer_and_not_the_program(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(say("on and ", "on", hold=1))
    cut_off = model.cut_off
    with chat(gateway) as terminal:
        terminal.wait("> ")
        terminal.say("talk")
        terminal.wait("on and ")
        terminal.press(CTRL_C)
        terminal.wait("(stopped)")
        wait_for(lambda: model.cut_off == cut_off + 1, within=60, what="the request to the model aborted")
        terminal.wait("> ")
        terminal.press("never mind" + CTRL_C)
        terminal.wait("> ")
        model.let_go()
        model.will(say("as you wish"))
        terminal.say("be brief")
        terminal.wait("as you wish")
        terminal.wait("> ")
        leave(terminal)
        assert "Traceback" not in terminal.shown
    assert model.told("user")[-1] == "be brief"


def test_a_call_is_asked_for_and_answered(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="hi"), say("allowed"), call("small__echo", text="ho"), say("refused"))
    with chat(gateway, "--approvals", "always") as terminal:
        terminal.wait("> ")
        terminal.say("ask the tool")
        terminal.wait('"text": "hi"')
        terminal.wait("Call small.echo? [y/N] ")
        terminal.say("y")
        terminal.wait("done in ")
        terminal.wait("allowed")
        terminal.wait("> ")
        terminal.say("again")
        terminal.wait("Call small.echo? [y/N] ")
        terminal.say("")
        terminal.wait("denied")
        terminal.wait("refused")
        terminal.wait("> ")
        model.will(call("small__echo", text="hu"))
        terminal.say("and again")
        terminal.wait("Call small.echo? [y/N] ")
        terminal.press(CTRL_C)
        terminal.wait("(stopped)")
        terminal.wait("> ")
        leave(terminal)
    assert gateway.cli("approvals") == []


def test_a_question_that_is_answered_elsewhere_is_no_failure(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="hi"), say("allowed by another"))
    with chat(gateway, "--approvals", "always") as terminal:
        terminal.wait("> ")
        terminal.say("ask the tool")
        terminal.wait("Call small.echo? [y/N] ")
        [asked] = gateway.cli("approvals")
        gateway.cli("approvals", "approve", asked["id"])
        terminal.say("n")
        terminal.wait("is approved already")
        terminal.wait("allowed by another")
        terminal.wait("> ")
        leave(terminal)


def test_what_a_server_asks_for_is_filled_in(gateway: GatewayProcess, model: ScriptedModel) -> None:
    asked = {"message": "Where are you?", "requestedSchema": SCHEMA}
    model.will(call("raw__ask", method="elicitation/create", params=asked), say("thanks"))
    with chat(gateway) as terminal:
        terminal.wait("> ")
        terminal.say("ask me")
        terminal.wait("raw asks: Where are you?")
        terminal.wait("place: ")
        terminal.say("")
        terminal.wait("This is needed.")
        terminal.wait("place: ")
        terminal.say("Graz")
        terminal.wait("days (integer, may be left out): ")
        terminal.say("many")
        terminal.wait("This is no integer.")
        terminal.wait("days (integer, may be left out): ")
        terminal.say("3")
        terminal.wait("sure (yes or no, may be left out): ")
        terminal.say("")
        terminal.wait("thanks")
        terminal.wait("> ")
        leave(terminal)
    assert '"content": {"place": "Graz", "days": 3}' in str(model.told("tool")[-1])


def test_several_lines_are_one_message_and_the_window_may_change(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(say("pasted"), say("typed"), say("resized"))
    with chat(gateway) as terminal:
        terminal.wait("> ")
        terminal.press("\x1b[200~one\ntwo\n\nthree\x1b[201~")
        terminal.wait("three")
        terminal.press(ENTER)
        terminal.wait("pasted")
        terminal.wait("> ")
        terminal.press("four\x1b\r")
        terminal.press("five")
        terminal.wait("five")
        terminal.press(ENTER)
        terminal.wait("typed")
        terminal.wait("> ")
        terminal.press("a long line " * 12)
        terminal.resize(10, 40)
        terminal.press("and its end")
        terminal.wait("its end")
        terminal.press(ENTER)
        terminal.wait("resized")
        terminal.wait("> ")
        leave(terminal)
    assert model.told("user") == ["one\ntwo\n\nthree", "four\nfive", "a long line " * 12 + "and its end"]
