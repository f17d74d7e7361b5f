"""The gateway with a real model on this machine: a very small one, so what it says is nonsense.

What is asserted is what becomes of turns, of servers and of processes.  With
SEXTON_TURNS=500 the live scenario is as long as the scripted one
(docs/reliability.md).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from small_model import ended_by_itself
from system.api_client import ApiClient
from system.gateway_process import GatewayProcess, wait_for
from system.witness import Witness

TURNS = int(os.environ.get("SEXTON_TURNS", "4"))
"""Of both chats together; the runs of the jobs come on top."""
CHATS = 2
SECONDS = 240.0
"""For an answer that takes seconds on a quiet machine."""

SETTINGS = """
[models.small]
provider = "local"
model = "{file}"
context_window = 2048
max_output_tokens = 32
temperature = 0.0
threads = 1

[agent]
approvals = "never"
max_steps = 2
"""
JOBS = """
[jobs.stopped]
prompt = "Ask with the key stopped."
servers = ["steady"]
max_steps = 2

[jobs.late]
prompt = "Ask with the key late."
servers = ["brief"]
timeout = "1s"

[jobs.runs]
prompt = "Ask with the key runs."
servers = ["steady"]
max_steps = 2
"""


def model_tree(gateway: GatewayProcess) -> dict[str, Any] | None:
    trees = gateway.cli("ps")["trees"]
    return next((tree for tree in trees if tree["owner"] == "model:small"), None)


def conversation(api: ApiClient, key: str) -> str:
    status, document = api.ask("POST", "/conversations", {"key": key, "may": []}, within=SECONDS)
    assert status == 201, document
    return str(document["id"])


def say(api: ApiClient, chat: str, text: str, *, wait: bool = True) -> Any:
    body = {"text": text, "wait": wait}
    status, document = api.ask("POST", f"/conversations/{chat}/messages", body, within=SECONDS)
    assert status == 202, document
    return document


def completion(api: ApiClient) -> str:
    """What it says to a program that asks it in OpenAI's way, without any tool."""
    messages = [{"role": "user", "content": "What is the capital of Spain?"}]
    body = {"model": "small", "messages": messages, "max_tokens": 8}
    status, document = api.ask("POST", "/chat/completions", body, within=SECONDS, below="/v1")
    assert status == 200, document
    return str(document["choices"][0]["message"]["content"])


@pytest.mark.timeout(600)
def test_a_chat_without_any_key_is_answered_and_whoever_is_killed_the_models_server_goes(
    gateway: GatewayProcess, small_model: Path
) -> None:
    gateway.write(SETTINGS.format(file=small_model)).up()
    assert model_tree(gateway) is None, "nothing is started before its first use"
    api = ApiClient(gateway)
    chat = conversation(api, "test")
    ended = say(api, chat, "What is the capital of France?")
    assert ended_by_itself(ended["state"], ended["error"]), ended
    tree = model_tree(gateway)
    assert tree is not None
    assert (tree["name"], tree["holders"]) == ("small", [])
    assert tree["memory"] > 50_000_000

    os.kill(tree["keeper_pid"], signal.SIGKILL)
    gateway.wait_event("model.died", within=SECONDS)
    wait_for(lambda: tree["leader_pid"] not in gateway.survivors(), within=SECONDS, what="the end of its server")
    assert completion(api)
    again = model_tree(gateway)
    assert again is not None
    assert again["leader_pid"] != tree["leader_pid"]

    gateway.send(signal.SIGSTOP)  # so that it is killed in the middle of whatever it does
    gateway.send(signal.SIGKILL)
    gateway.wait_exit(within=SECONDS)
    gateway.wait_nothing_left(within=SECONDS)


@dataclass
class Scene:
    gateway: GatewayProcess
    api: ApiClient
    over: threading.Event = field(default_factory=threading.Event)
    ends: dict[str, set[str]] = field(default_factory=lambda: {"stopped": set(), "late": set(), "runs": set()})


@pytest.mark.timeout(600 + 60 * TURNS)
def test_chats_and_jobs_on_one_real_model_do_not_harm_each_other(
    gateway: GatewayProcess, small_model: Path, tmp_path: Path
) -> None:
    """The seed scenario in small: two people chat while jobs on the same servers are cancelled, late, or run."""
    steady, brief = (Witness(name, tmp_path / f"{name}.jsonl") for name in ("steady", "brief"))
    servers = [steady.settings(), brief.settings(idle_timeout="50ms")]
    allow = '[servers.{0}.tools]\nallow = ["ask"]\n'
    servers = [text + allow.format(name) for text, name in zip(servers, ("steady", "brief"), strict=True)]
    gateway.write("\n".join([SETTINGS.format(file=small_model), *servers, JOBS])).up()
    scene = Scene(gateway, ApiClient(gateway))
    with ThreadPoolExecutor(len(scene.ends) + CHATS) as threads:
        jobs = [threads.submit(keep_running, scene, name) for name in scene.ends]
        chats = [threads.submit(chat_on, scene, number) for number in range(CHATS)]
        try:
            for chat in chats:
                chat.result()
        finally:
            scene.over.set()
        for job in jobs:
            job.result()
    assert scene.ends["stopped"] <= {"cancelled", "ran", "failed"}
    assert len(gateway.events("model.started")) == 1, "one process serves all of them"
    assert gateway.events("model.died") == []
    assert len(gateway.events("server.started", subject="steady")) <= 1
    assert gateway.events("server.died") == []
    wait_for(lambda: idle(gateway), within=SECONDS, what="everything given back")
    gateway.stop()


def idle(gateway: GatewayProcess) -> bool:
    tree = model_tree(gateway)
    held = [server["holders"] for server in gateway.cli("servers", "list")]
    return tree is not None and tree["holders"] == [] and held == [[], []]


def chat_on(scene: Scene, number: int) -> None:
    """A person's turns: each ends by itself, whatever the model says, and none of its calls is lost."""
    chat = conversation(scene.api, f"chat-{number}")
    for turn in range(TURNS // CHATS):
        ended = say(scene.api, chat, f"Ask with the key chat-{number}-{turn}.")
        assert ended_by_itself(ended["state"], ended["error"]), ended
    status, shown = scene.api.ask("GET", f"/conversations/{chat}", within=SECONDS)
    assert status == 200, shown
    calls = [call for message in shown["messages"] for call in message.get("calls", ())]
    assert {call["state"] for call in calls} <= {"planned", "done", "failed"}, calls


def keep_running(scene: Scene, name: str) -> None:
    """Run a job again and again until the chats are over; `stopped` until one run was cut off in the middle."""
    run_once(scene, name)
    while not scene.over.is_set() or (name == "stopped" and "cancelled" not in scene.ends[name]):
        run_once(scene, name)


def run_once(scene: Scene, name: str) -> None:
    status, run = scene.api.ask("POST", f"/jobs/{name}/run", within=SECONDS)
    assert status == 202, run
    found: Callable[[], Any] = lambda: run_of(scene, run["id"])  # noqa: E731
    if name == "stopped":
        holder = f"run:{run['id']}"
        wait_for(
            lambda: holds_model(scene, holder) or found()["ended_at"], within=SECONDS, what="its request to the model"
        )
        assert scene.api.ask("POST", f"/runs/{run['id']}/cancel", within=SECONDS)[0] in (200, 202, 409)
    wait_for(lambda: found()["ended_at"], within=SECONDS, what=f"the end of {name}")
    scene.ends[name].add(found()["state"])


def holds_model(scene: Scene, holder: str) -> bool:
    status, found = scene.api.ask("GET", "/processes", within=SECONDS)
    assert status == 200, found
    return any(holder in tree["holders"] for tree in found["trees"] if tree["owner"] == "model:small")


def run_of(scene: Scene, run: str) -> Any:
    status, found = scene.api.ask("GET", f"/runs/{run}", within=SECONDS)
    assert status == 200, found
    return found["run"]
