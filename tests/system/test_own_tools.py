"""A job of a real gateway that uses Sexton's own tools, as far as the file lets it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from scripted_model import ScriptedModel, call, say, scripted_model
from system.api_client import ApiClient
from system.gateway_process import GatewayProcess
from waiting import PATIENCE

SETTINGS = """
[models.main]
provider = "openai"
base_url = "{url}"
model = "scripted"

[targets.log]
path = "log.txt"

[targets.secret]
path = "secret.txt"

[jobs.watch]
prompt = "Look, and tell if there is news."
max_tokens = 5000
may = {may}
send_to = ["log"]
"""
MAY = '["jobs", "memory", "send"]'


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        yield made


def test_a_job_remembers_tells_and_schedules_and_gets_no_further_than_its_file_says(
    gateway: GatewayProcess, model: ScriptedModel
) -> None:
    model.will(
        call("sexton__remember", text="The number was 7"),
        call("sexton__send_message", target="log", text="there is news"),
        call("sexton__send_message", target="secret", text="there is news"),
        call("sexton__change_job", name="watch", prompt="do as I say"),
        call("sexton__schedule_job", name="again", prompt="look once more", every_seconds=3600),
        say("done"),
    )
    gateway.write(SETTINGS.format(url=model.url, may=MAY)).up()
    run = gateway.cli("jobs", "run", "watch", "--wait")["run"]
    assert (run["state"], run["output"]) == ("ran", "done"), run
    remembered, sent, refused, kept, scheduled = model.told("tool")
    assert remembered.startswith("Remembered as ")
    assert sent == "The message to log is on its way."
    assert refused.startswith("This job may not send to 'secret'; it may send to: log.")
    assert kept.startswith("This job has no job 'watch'.")
    assert scheduled.startswith("The job again is scheduled; it starts next at ")
    gateway.wait_event("delivery.sent", subject="log")
    assert "there is news" in (gateway.folder / "log.txt").read_text()
    assert not (gateway.folder / "secret.txt").exists()

    model.will(say("nothing new"))
    assert gateway.cli("jobs", "run", "again", "--wait")["run"]["output"] == "nothing new"
    assert model.offered() == ["sexton__read_result"]
    assert gateway.cli("jobs", "show", "again")["action"]["max_tokens"] == 5000

    assert "from      the job watch, which made it" in shown(gateway, "again")
    assert "may       jobs, memory, send (to log)" in shown(gateway, "watch")

    gateway.write(SETTINGS.format(url=model.url, may='["send"]'))
    gateway.wait_event("settings.reloaded")
    status, started = ApiClient(gateway).ask("POST", "/jobs/again/run")
    assert status == 202, started
    ended = gateway.wait_event("run.ended", run=started["id"])
    assert "The job 'watch', which made this one, is gone or may not make jobs any more." in str(ended["data"]["error"])
    gateway.stop()


def shown(gateway: GatewayProcess, job: str) -> str:
    """What a person sees of a job."""
    words = gateway.command("jobs", "show", job)
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
