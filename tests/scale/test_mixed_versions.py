"""A rolling upgrade as docs/scale.md tells it: nodes of two patch releases share one database, with runs and a chat.

Whoever migrates first, every slot ends with one outcome, what a drained node runs is left to end, and what is said in
a chat is answered once, also the turn whose node is stopped under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import sexton
from scale.releases import minor_before, neighbour, next_patch
from scripted_model import Reply, ScriptedModel, say, scripted_model
from sexton.database import Database, PostgresUrl
from system.api_client import ApiClient
from system.gateway_process import GatewayProcess, wait_for

if TYPE_CHECKING:
    from postgres_server import PostgresServer

SETTINGS = """
drain_timeout = "1s"

[node]
name = "{name}"

[models.main]
provider = "openai"
base_url = "{model}"
model = "scripted"

[jobs.quick]
every = "1s"
overlap = "queue"
catch_up = "all"
command = ["sh", "-c", 'echo "$SEXTON_ATTEMPT" >> "$0/$SEXTON_SLOT"', "{evidence}"]

[jobs.holder]
at = "2100-01-01T00:00:00+00:00"
node = "{held}"
command = ["sh", "-c", 'while [ ! -e "$0" ]; do sleep 0.05; done; echo held', "{go}"]
"""


class Cluster:
    """Two nodes, `one` and `two`, and a conversation that goes on with either."""

    def __init__(self, folder: Path, url: PostgresUrl, server: PostgresServer, model: ScriptedModel) -> None:
        self.folder, self.url, self.server, self.model = folder, url, server, model
        self.evidence = folder / "evidence"
        self.evidence.mkdir()
        self.nodes: dict[str, GatewayProcess] = {}
        self.said: list[str] = []
        self._held: set[str] = set()
        model.answer = self._answer

    def _answer(self, body: dict[str, Any]) -> Reply:
        """What is asked to be held is held the first time, in the middle of the answer."""
        text = str(body["messages"][-1]["content"])
        if text.startswith("hold") and text not in self._held:
            self._held.add(text)
            return say("answer to ", text, hold=1)
        return say("answer to ", text)

    def node(self, name: str, *, holds: str) -> GatewayProcess:
        """A node that is yet to be started; the run that is held is for node `holds`."""
        folder = self.folder / name
        folder.mkdir()
        made = GatewayProcess(folder)
        made.database = self.url.text
        settings = SETTINGS.format(
            name=name, model=self.model.url, evidence=self.evidence, held=holds, go=self.folder / "go"
        )
        self.nodes[name] = made.write(settings)
        return made

    def status(self, name: str, *, asked: str) -> dict[str, Any]:
        """How a node is doing, as another tells."""
        return next((node for node in self._nodes(asked) if node["name"] == name), {})

    def versions(self) -> set[str]:
        return {str(node["version"]) for node in self._nodes("one")}

    def _nodes(self, asked: str) -> list[dict[str, Any]]:
        status, nodes = ApiClient(self.nodes[asked]).ask("GET", "/nodes")
        assert status == 200, nodes
        return list(nodes)

    def see_both_work(self) -> None:
        for name, node in self.nodes.items():
            node.wait_line("^ready ")
            wait_for(partial(node.events, "run.ended", subject="quick"), what=f"{name} works")

    def hold_a_run(self, name: str) -> None:
        """A run that goes on until its node is drained."""
        self.nodes[name].cli("jobs", "run", "holder")
        wait_for(lambda: self.nodes[name].events("run.started", subject="holder"), what="a run is under way")

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def talk(self, name: str, text: str) -> None:
        """Say something to that node, and wait for the answer."""
        client = ApiClient(self.nodes[name])
        status, ended = client.ask("POST", self._messages(client), {"text": text, "message_key": text, "wait": True})
        assert status == 202, ended
        assert (ended["state"], ended["text"]) == ("done", f"answer to {text}"), ended
        self.said.append(text)

    def begin_to_talk(self, name: str, text: str) -> None:
        """Say something whose answer is held, and see it begin."""
        client, held = ApiClient(self.nodes[name]), self.model.held
        assert client.ask("POST", self._messages(client), {"text": text, "message_key": text})[0] == 202
        wait_for(lambda: self.model.held > held, what="the model has begun to answer")
        self.said.append(text)

    def _messages(self, client: ApiClient) -> str:
        status, conversation = client.ask("POST", "/conversations", {"key": "talk", "may": []})
        assert status == 201, conversation
        return f"/conversations/{conversation['id']}/messages"

    def history(self, name: str) -> list[tuple[str, str]]:
        client = ApiClient(self.nodes[name])
        _, record = client.ask("GET", self._messages(client).removesuffix("/messages"))
        return [(message["role"], message["text"]) for message in record["messages"]]

    def wait_history(self, name: str) -> None:
        """All that was said has one answer, in order."""
        expected = [
            (role, text) for said in self.said for role, text in (("user", said), ("assistant", f"answer to {said}"))
        ]
        wait_for(lambda: len(self.history(name)) >= len(expected), what="each message has its answer")
        assert self.history(name) == expected

    def upgrade(self, name: str, to: Path, *, other: str) -> None:
        """Drain, wait, stop, start the new one, undrain."""
        node = self.nodes[name]
        self.nodes[other].cli("nodes", "drain", name)
        wait_for(lambda: self.status(name, asked=other)["state"] == "drained", what=f"{name} is drained")
        self.let_go()
        wait_for(lambda: not self.status(name, asked=other)["running"], what=f"{name} has nothing to do")
        self.begin_to_talk(name, f"hold this while {name} stops")
        node.stop()
        self.wait_history(other)
        node.up(PYTHONPATH=str(to))
        node.cli("nodes", "undrain", name)
        wait_for(lambda: self.status(name, asked=other)["state"] == "up", what=f"{name} is back")
        wait_for(lambda: node.events("run.ended", subject="quick"), what=f"{name} works")

    def rows(self, what: str, where: str) -> list[tuple[Any, ...]]:
        database = self.url.text.rpartition("/")[2]
        return self.server.admin(f"SELECT {what} FROM run WHERE {where} ORDER BY slot, id", database=database)

    def finish(self) -> None:
        """Each slot has one outcome, none is missing, and nothing was done twice."""
        self.nodes["one"].cli("jobs", "pause", "quick")
        is_open = "state IN ('queued', 'running')"
        wait_for(lambda: not self.rows("id", is_open), what="all runs have ended")
        runs = self.rows("slot, state", "job = 'quick'")
        assert {state for _, state in runs} == {"ran"}, runs
        assert all(after - before == 1_000_000 for (before, _), (after, _) in pairwise(runs)), runs
        assert {path.read_text() for path in self.evidence.iterdir()} == {"1\n"}
        assert len(list(self.evidence.iterdir())) == len(runs)
        assert self.rows("state, attempt", "job = 'holder'") == [("ran", 1)]
        for node in self.nodes.values():
            node.stop()
            assert "Traceback" not in node.output()


@pytest.fixture
def cluster(tmp_path: Path, postgres: PostgresServer) -> Iterator[Cluster]:
    with scripted_model() as model:
        made = Cluster(tmp_path, postgres.url(postgres.new_database()), postgres, model)
        try:
            yield made
        finally:
            for node in made.nodes.values():
                node.close()


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    return next_patch(tmp_path / "newer")


def test_nodes_are_upgraded_one_after_the_other(cluster: Cluster, newer: Path) -> None:
    """The first that is upgraded migrates while the other, which knows nothing of it, goes on."""
    old, new = sexton.__version__, neighbour(patch=+1)
    for name in ("one", "two"):
        cluster.node(name, holds="one").start()
    cluster.see_both_work()
    cluster.hold_a_run("one")
    cluster.talk("one", "to the old one")
    assert cluster.versions() == {old}

    cluster.upgrade("one", newer, other="two")
    assert cluster.versions() == {old, new}
    cluster.talk("one", "to the new one")
    cluster.talk("two", "to the old one that is left")

    cluster.upgrade("two", newer, other="one")
    assert cluster.versions() == {new}
    cluster.wait_history("two")
    cluster.finish()
    assert {release for (release,) in cluster.rows("release", "job = 'quick'")} == {None, new}


def test_an_older_node_joins_where_a_newer_one_has_migrated(cluster: Cluster, newer: Path) -> None:
    old, new = sexton.__version__, neighbour(patch=+1)
    cluster.node("one", holds="two").up(PYTHONPATH=str(newer))
    cluster.talk("one", "to the new one")
    cluster.node("two", holds="two").up()
    cluster.see_both_work()
    cluster.hold_a_run("two")
    assert cluster.versions() == {old, new}
    cluster.talk("two", "to the old one")

    cluster.talk("one", "to the new one again")
    cluster.wait_history("two")
    cluster.let_go()
    cluster.finish()


def test_an_older_minor_release_refuses(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.url(postgres.new_database())
    anyio.run(_migrate, url)
    node = GatewayProcess(tmp_path)
    node.database = url.text
    try:
        node.write("").start(PYTHONPATH=str(minor_before(tmp_path / "older")))
        assert node.wait_exit(within=60) == 1
        node.wait_read()
        told = " ".join(node.output().split())
        assert re.search(r"was written by a newer Sexton \(schema \w+; this one knows up to \w+\)", told), told
        assert "Traceback" not in told
        node.wait_nothing_left()
    finally:
        node.close()


async def _migrate(url: PostgresUrl) -> None:
    async with Database.open(url):
        pass
