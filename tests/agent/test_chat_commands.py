"""`sexton chat`, `sexton approvals` and prompt jobs, through a gateway that is a program of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripted_model import ScriptedModel, call, say
from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE

SETTINGS = """
[models.main]
provider = "openai"
base_url = "{url}"
model = "scripted"
retries = {retries}

[agent]
approvals = "{approvals}"

[servers.small]
@SERVER@
"""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    made = GatewayProcess(tmp_path)
    try:
        yield made
    finally:
        made.close()


def started(
    gateway: GatewayProcess, model: ScriptedModel, approvals: str = "never", *, retries: int = 0
) -> GatewayProcess:
    gateway.write(SETTINGS.format(url=model.url, approvals=approvals, retries=retries)).start()
    gateway.wait_line("^ready ", within=60)
    return gateway


def sexton(gateway: GatewayProcess, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [gateway.command()[0], "-m", "sexton", *arguments, "--data", str(gateway.data)]
    stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, **stdin)


def test_one_message_prints_the_answer_and_ends_with_a_status(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="hi"), say("it ", "said hi"), say(status=500))
    started(gateway, model)
    done = sexton(gateway, "chat", "-m", "what does it say?", given="a file\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "it said hi\n", "")
    assert model.told("user") == ["what does it say?\n\na file\n"]
    failed = sexton(gateway, "chat", "-m", "and now?", "--resume", "last")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "answered with status 500" in failed.stderr
    [listed] = json.loads(sexton(gateway, "chat", "list", "--json").stdout)
    assert (listed["way"], listed["title"]) == ("terminal", "what does it say? a file")
    assert "small.echo: done" in sexton(gateway, "chat", "show", listed["id"][-6:]).stdout
    assert "«said»" in sexton(gateway, "chat", "search", "said", "hi").stdout
    assert "it said hi" in sexton(gateway, "chat", "export", listed["id"]).stdout
    assert sexton(gateway, "chat", "delete", listed["id"]).returncode == 0
    assert json.loads(sexton(gateway, "chat", "list", "--json").stdout) == []
    gateway.stop()


def test_what_went_into_a_pipe_is_never_half_an_answer(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(say("half of ", "it", breaks=True), call("small__echo", text="hi"))
    model.will(say("half again", breaks=True), say("the ", "whole"))
    started(gateway, model, retries=1)
    done = sexton(gateway, "chat", "-m", "go on")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the whole\n", "")
    gateway.stop()


def test_a_call_that_waits_is_approved_from_elsewhere(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="hi"), say("done as allowed"))
    started(gateway, model, approvals="always")
    command = [gateway.command()[0], "-m", "sexton", "chat", "-m", "call it", "--json", "--data", str(gateway.data)]
    asking = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    [asked] = wait_for(lambda: gateway.cli("approvals"), within=60, what="a question")
    assert (asked["server"], asked["tool"], asked["question"]) == ("small", "echo", {"arguments": {"text": "hi"}})
    assert sexton(gateway, "approvals", "approve", asked["id"]).stdout == "small.echo is approved.\n"
    out, err = asking.communicate(timeout=60)
    assert (asking.returncode, json.loads(out)["text"]) == (0, "done as allowed"), err
    assert f"sexton approvals approve {asked['id']}" in err
    again = sexton(gateway, "approvals", "deny", asked["id"])
    assert (again.returncode, "approved already" in again.stderr) == (2, True)
    gateway.stop()


def test_a_prompt_job_that_was_typed_runs(gateway: GatewayProcess, model: ScriptedModel) -> None:
    model.will(call("small__echo", text="seven"), say("seven it is"))
    started(gateway, model)
    added = sexton(gateway, "jobs", "add", "count", "--prompt", "count them", "--server", "small")
    assert added.returncode == 0, added.stderr
    assert sexton(gateway, "jobs", "add", "lost", "--prompt", "x", "--server", "smal").returncode == 2
    done = sexton(gateway, "jobs", "run", "count", "--wait", "--json")
    record = json.loads(done.stdout)
    assert (record["output"], record["run"]["state"]) == ("seven it is", "ran")
    assert [(made["tool"], made["state"]) for made in record["calls"]] == [("echo", "ok")]
    assert record["run"]["details"]["usage"]["steps"] == 2
    gateway.stop()


def test_killed_in_the_middle_of_ten_turns_it_goes_on_with_each(gateway: GatewayProcess, model: ScriptedModel) -> None:
    """Five are killed while the model talks, five while a tool with an effect is at work."""
    notes = gateway.folder / "notes"
    notes.mkdir()

    def answer(body: dict[str, Any]) -> Any:
        told = [message for message in body["messages"] if message["role"] in ("user", "tool")]
        number = int(str(next(m["content"] for m in told if m["role"] == "user")).split()[-1])
        if number % 2 and told[-1]["role"] == "user":
            return call("small__slow", seconds=0 if model.cut_off else 60, text=f"{number}")
        return say(f"answer to {number} ", "is whole", hold=1)

    model.answer = answer
    started(gateway, model)
    url, token = _api(gateway)
    turns = [_send(url, token, f"chat-{number}", f"number {number}") for number in range(10)]
    wait_for(lambda: model.held == 5 and _calls_under_way(gateway) == 5, within=60, what="all ten at work")
    gateway.send(signal.SIGKILL)
    gateway.wait_exit(within=PATIENCE)
    gateway.wait_nothing_left(within=PATIENCE)
    model.let_go()
    gateway.start()
    gateway.wait_line("^ready ", within=60)
    for number, conversation in enumerate(turns):
        record = wait_for(lambda c=conversation: _whole(gateway, c), within=60, what="an answer")  # type: ignore[misc]
        said = [message["text"] for message in record["messages"]]
        assert said[0] == f"number {number}"
        assert said[-1] == f"answer to {number} is whole"
        calls = [made for message in record["messages"] for made in message["calls"]]
        assert [made["state"] for made in calls] == (["unknown"] if number % 2 else [])
    gateway.stop()


def _api(gateway: GatewayProcess) -> tuple[str, str]:
    address = json.loads((gateway.data / "gateway.json").read_text())
    return f"{address['url']}/api/v1", (gateway.data / "token").read_text().strip()


def _send(url: str, token: str, key: str, text: str) -> str:
    import httpx2

    with httpx2.Client(headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=60) as client:
        conversation: str = client.post(f"{url}/conversations", json={"key": key}).json()["id"]
        sent = client.post(f"{url}/conversations/{conversation}/messages", json={"text": text, "message_key": "1"})
        assert sent.status_code == 202, sent.text
    return conversation


def _calls_under_way(gateway: GatewayProcess) -> int:
    import sqlite3

    with sqlite3.connect(gateway.data / "sexton.db") as database:
        [[count]] = database.execute("SELECT count(*) FROM message_call WHERE state = 'started'").fetchall()
    database.close()
    return int(count)


def _whole(gateway: GatewayProcess, conversation: str) -> Any:
    record = gateway.cli("chat", "show", conversation)
    return None if record["conversation"]["busy"] else record


def test_nothing_that_talks_to_models_is_loaded_before_it_is_needed() -> None:
    probe = (
        "import sys, sexton.daemon.lifecycle, sexton.cli.main;"
        "print([name for name in ('pydantic_ai', 'openai', 'anthropic') if name in sys.modules])"
    )
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
