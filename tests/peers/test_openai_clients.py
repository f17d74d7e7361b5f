"""OpenAI's API by clients of others; OpenAI's own is in agent/test_openai_api.py."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripted_model import ScriptedModel, call, say, scripted_model
from system.gateway_process import GatewayProcess

CLIENT = Path(__file__).parent / "clients" / "ai_sdk_client.mjs"
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
"""

pytestmark = pytest.mark.timeout(400)  # the first run installs the client


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made


@pytest.fixture
def gateway(model: ScriptedModel, tmp_path: Path) -> Iterator[GatewayProcess]:
    made = GatewayProcess(tmp_path)
    try:
        made.write(SETTINGS.format(url=model.url)).start().wait_line("^ready ", within=60)
        yield made
        made.stop()
    finally:
        made.close()


def test_the_ai_sdk_gets_answers_streams_calls_of_its_tools_and_errors(
    gateway: GatewayProcess, model: ScriptedModel, foreign_clients: Path
) -> None:
    weather = call("sexton__weather", place="Graz")
    model.will(call("small__echo", text="hi"), say("half of ", breaks=True), say("it ", "said hi"))
    model.will(say("one ", "two"))
    model.will(weather, say("It rains."), weather, say("Still."), say("half of ", breaks=True))
    url = json.loads((gateway.data / "gateway.json").read_text())["url"]
    key = (gateway.data / "token").read_text().strip()
    plan = json.dumps({"url": f"{url}/v1", "key": key, "wrong": "sexton_wrong"})
    command = [str(foreign_clients / "node"), str(CLIENT), plan, str(foreign_clients / "npm")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    whole, streamed, called, called_in_pieces, unknown, stranger, broken = map(json.loads, ran.stdout.splitlines())
    assert whole == {"text": "it said hi", "reason": "stop", "tokens": 30}  # it broke off once
    assert streamed == {"pieces": ["one ", "two"], "reason": "stop", "tokens": 15}
    both: dict[str, Any] = {"places": ["Graz"], "steps": ["tool-calls", "stop"]}
    assert called == {"text": "It rains.", **both}
    assert called_in_pieces == {"text": "Still.", **both}
    assert model.told("tool") == []
    assert "rain in Graz" in str(model.requests[-2]["messages"])
    assert (unknown["status"], unknown["retryable"]) == (404, False)
    assert "There is no model 'nobody'" in unknown["message"]
    assert stranger["status"] == 401
    assert broken["heard"] == ["half of "]
    assert "broke off" in str(broken["errors"])
    assert model.script == []
