"""Three people chat while seven prompt jobs come and go on the same servers: the scenario from which Sexton began.

The gateway is a program of its own, and its servers write down who asked them
what.  Some jobs are cancelled by hand in the middle of a call, some run out of
time there, some raise, some run.  `steady` must be one process from beginning
to end; `brief` is retired whenever nobody holds it, so that its end meets
turns that begin.  With SEXTON_TURNS=150 it is more than 500 turns in all
(docs/reliability.md).
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripted_model import Reply, ScriptedModel, call, say, scripted_model
from system.api_client import ApiClient
from system.gateway_process import GatewayProcess, wait_for
from system.witness import Witness

TURNS = int(os.environ.get("SEXTON_TURNS", "18"))
"""Of all three chats together; the runs of the jobs come on top."""
CHATS = 3
WAIT_SECONDS = 120.0
RESULT = re.compile(r'\{"pid": \d+, "key": "[^"]+"\}')

SETTINGS = """
[models.main]
provider = "openai"
base_url = "{url}"
model = "scripted"

[models.raises]
provider = "openai"
base_url = "{url}"
model = "raises"
retries = 0

[agent]
approvals = "never"
"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A job; its prompt is what the scripted model does."""

    server: str
    tools: tuple[str, ...] = ("ask", "ask")
    ends: str = "ran"
    more: str = ""

    def settings(self, name: str) -> str:
        prompt = written(name, self.server, self.tools)
        return f"[jobs.{name}]\nprompt = '''{prompt}'''\nservers = [\"{self.server}\"]\n{self.more}\n"


JOBS = {
    "stopped-1": Prompt(server="steady", tools=("ask", "hang"), ends="cancelled"),
    "stopped-2": Prompt(server="brief", tools=("ask", "hang"), ends="cancelled"),
    "late-1": Prompt(server="steady", tools=("hang",), ends="failed", more='timeout = "1s"'),
    "late-2": Prompt(server="brief", tools=("hang",), ends="failed", more='timeout = "1s"'),
    "raises": Prompt(server="steady", tools=("ask",), ends="failed", more='model = ["raises"]'),
    "runs-1": Prompt(server="steady"),
    "runs-2": Prompt(server="brief"),
}


@dataclass
class Scene:
    """The gateway with its two witnesses, and what ended how."""

    gateway: GatewayProcess
    api: ApiClient
    servers: dict[str, Witness]
    over: threading.Event = field(default_factory=threading.Event)
    runs: list[tuple[str, str, str]] = field(default_factory=list)
    pids: dict[str, set[int]] = field(default_factory=lambda: {"steady": set(), "brief": set()})


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as made:
        made.answer = answer
        yield made


def written(key: str, server: str, tools: tuple[str, ...]) -> str:
    return json.dumps({"key": key, "calls": [f"{server}__{tool}" for tool in tools]})


def answer(body: dict[str, Any]) -> Reply:
    """Makes the calls of the last message, one after the other, and says what they returned."""
    told = body["messages"]
    start = max(place for place, message in enumerate(told) if message["role"] == "user")
    asked = json.loads(told[start]["content"])
    results = [str(message["content"]) for message in told[start:] if message["role"] == "tool"]
    if len(results) < len(asked["calls"]):
        return call(asked["calls"][len(results)], key=asked["key"])
    return say(status=500) if body["model"] == "raises" else say(*results)


@pytest.mark.timeout(600 + 4 * TURNS)
def test_no_chat_notices_what_becomes_of_jobs_on_its_servers(
    gateway: GatewayProcess, model: ScriptedModel, tmp_path: Path
) -> None:
    scene = opened(gateway, model, tmp_path)
    with ThreadPoolExecutor(len(JOBS) + CHATS) as threads:
        jobs = [threads.submit(keep_running, scene, name) for name in JOBS]
        chats = [threads.submit(chat_on, scene, number) for number in range(CHATS)]
        try:
            for chat in chats:
                chat.result()
        finally:
            scene.over.set()
        for job in jobs:
            job.result()
    check_jobs(scene)
    check_servers(scene)
    assert [server["holders"] for server in gateway.cli("servers", "list")] == [[], []]
    gateway.stop()


def opened(gateway: GatewayProcess, model: ScriptedModel, folder: Path) -> Scene:
    servers = {name: Witness(name, folder / f"{name}.jsonl") for name in ("steady", "brief")}
    parts = [servers["steady"].settings(), servers["brief"].settings(idle_timeout="50ms")]
    parts += [job.settings(name) for name, job in JOBS.items()]
    gateway.write("\n".join([SETTINGS.format(url=model.url), *parts])).start()
    gateway.wait_line("^ready ", within=60)
    return Scene(gateway, ApiClient(gateway), servers)


def chat_on(scene: Scene, number: int) -> None:
    """A person's turns: every one gets the answers to its own two calls, from one process."""
    with closing(scene.api.connect(within=WAIT_SECONDS)) as connection:

        def ask(path: str, body: Any, expected: int) -> Any:
            status, document = scene.api.ask("POST", path, body, over=connection)
            assert status == expected, document
            return document

        conversation = ask("/conversations", {"key": f"chat-{number}", "may": []}, 201)["id"]
        for turn in range(TURNS // CHATS):
            key, server = f"chat-{number}-{turn}", ("steady", "brief")[(turn + number) % 2]
            tools = ("ask", "wait" if turn % 5 == 0 else "ask")
            said = {"text": written(key, server, tools), "wait": True}
            ended = ask(f"/conversations/{conversation}/messages", said, 202)
            assert (ended["state"], ended["error"]) == ("done", None), ended
            results = [json.loads(found) for found in RESULT.findall(ended["text"])]
            assert [result["key"] for result in results] == [key, key], ended
            pids = {result["pid"] for result in results}
            assert len(pids) == 1, ended
            scene.pids[server] |= pids


def keep_running(scene: Scene, name: str) -> None:
    """Run a job again and again until the chats are over."""
    while not scene.over.is_set():
        scene.runs.append(one_run(scene, name))


def one_run(scene: Scene, name: str) -> tuple[str, str, str]:
    """How a run ended.  One that is to be cancelled is, as soon as its call hangs in the server."""
    server = scene.servers[JOBS[name].server]
    before = hanging(server, name)
    status, run = scene.api.ask("POST", f"/jobs/{name}/run")
    assert status == 202, run
    if JOBS[name].ends == "cancelled":
        wait_for(lambda: hanging(server, name) > before, within=WAIT_SECONDS, what=f"a call of {name}")
        assert scene.api.ask("POST", f"/runs/{run['id']}/cancel")[0] in (200, 202)
    ended = wait_for(lambda: ended_run(scene, run["id"]), within=WAIT_SECONDS, what=f"the end of {name}")
    return name, ended["state"], str(ended["error"] or "")


def hanging(server: Witness, key: str) -> int:
    return sum(entry.key == key and entry.tool == "hang" for entry in server.entries("called"))


def ended_run(scene: Scene, run: str) -> Any:
    status, found = scene.api.ask("GET", f"/runs/{run}")
    assert status == 200, found
    return found["run"] if found["run"]["ended_at"] else None


def check_jobs(scene: Scene) -> None:
    """Each ended in its own way, and did so more than once."""
    for name, job in JOBS.items():
        ends = [(state, error) for run, state, error in scene.runs if run == name]
        assert {state for state, _ in ends} == {job.ends}, (name, ends)
    said: Callable[[str], set[str]] = lambda start: {e for n, _, e in scene.runs if n.startswith(start)}  # noqa: E731
    assert all("1 s" in error for error in said("late")), said("late")
    assert all("status 500" in error for error in said("raises")), said("raises")


def check_servers(scene: Scene) -> None:
    """No call of a chat was cancelled or made twice; those of jobs were, and in no other process."""
    for name, server in scene.servers.items():
        cancelled = {entry.key for entry in server.entries("cancelled")}
        assert cancelled, f"nobody was cancelled in {name}"
        assert cancelled <= {job for job in JOBS if job.startswith(("stopped", "late"))}, cancelled
        calls = server.calls()
        assert {count for key, count in calls.items() if key.startswith("chat-")} == {2}, calls
        assert scene.pids[name] <= {entry.pid for entry in server.entries("called")}
    assert len(scene.pids["steady"]) == 1
    assert len(scene.gateway.events("server.started", subject="steady")) == 1
