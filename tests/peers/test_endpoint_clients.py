"""Clients of others at the endpoint, over HTTP and through `sexton mcp`, with servers of others behind it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
SNIPPETS = re.findall(r"\*\*(.+?)\*\*[^\n]*\n```json\n(.*?)```", (ROOT / "docs/endpoint.md").read_text(), re.DOTALL)

pytestmark = pytest.mark.timeout(600)  # the first run installs servers and clients


@pytest.fixture(scope="module")
def gateway(real_servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One gateway for all of them, with one server from PyPI and one from npm.

    At the end no client that was killed in a call holds a server any more, and nothing of the gateway is left.
    """
    servers = {
        "time": [str(real_servers / "python/bin/mcp-server-time")],
        "everything": [str(real_servers / "node/node_modules/.bin/mcp-server-everything")],
    }
    made = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    made.write("\n".join(f"[servers.{name}]\ncommand = {json.dumps(command)}" for name, (command,) in servers.items()))
    try:
        made.up()
        yield made
        wait_for(lambda: not holders(made), within=PATIENCE, what="the calls of killed clients have ended")
        made.stop()
    finally:
        made.close()


def entry(gateway: GatewayProcess, way: str) -> dict[str, Any]:
    """The endpoint as a client's configuration has it."""
    if way == "stdio":
        command, *arguments = gateway.command("mcp")
        return {"command": command, "args": arguments, "env": dict(os.environ)}
    address = gateway.wait_line("^ready ").removeprefix("ready ")
    token = (gateway.data / "token").read_text().strip()
    return {"url": f"{address}/mcp", "headers": {"Authorization": f"Bearer {token}"}}


class ClientProcess:
    """One client, and the steps that it tells."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def step(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"the client ended: {self.process.stderr.read()[-3000:]}")
        step: dict[str, Any] = json.loads(line)
        return step

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@contextmanager
def client(name: str, plan: Mapping[str, Any], installed: Path) -> Iterator[ClientProcess]:
    programs = {
        "sdk": [sys.executable, str(CLIENTS / "sdk_client.py"), "sdk"],
        "fastmcp": [str(installed / "python/bin/python"), str(CLIENTS / "sdk_client.py"), "fastmcp"],
        "typescript": [str(installed / "node"), str(CLIENTS / "typescript_client.mjs")],
    }
    program, _, version = name.partition("-")
    command = [*programs[program], *([version] if version else []), json.dumps(plan)]
    running = ClientProcess([*command, str(installed / "npm")] if version else command)
    try:
        yield running
    finally:
        running.kill()


def holders(gateway: GatewayProcess) -> list[str]:
    real = entry(gateway, "http")
    address = real["url"].removesuffix("/mcp")
    servers = httpx2.get(f"{address}/api/v1/servers", headers=real["headers"], timeout=PATIENCE).json()
    return [str(holder) for server in servers for holder in server["holders"]]


@pytest.mark.parametrize("way", ["http", "stdio"])
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("sdk", "legacy"),
        ("sdk", "2026-07-28"),
        ("fastmcp", "auto"),
        ("typescript-v1", "legacy"),
        ("typescript-v2", "legacy"),
        ("typescript-v2", "auto"),
    ],
)
def test_a_client_lists_calls_hears_cancels_and_is_killed(
    gateway: GatewayProcess, foreign_clients: Path, name: str, mode: str, way: str
) -> None:
    with client(name, {"server": entry(gateway, way), "mode": mode}, foreign_clients) as running:
        tools = running.step()["tools"]
        assert {"time__get_current_time", "everything__echo"} <= set(tools)
        assert "UTC" in running.step()["answer"]
        worked = running.step()
        assert "completed" in worked["answer"]
        assert worked["progress"] == sorted(worked["progress"])
        assert worked["progress"]
        assert running.step() == {"cancelled": True}
        assert "running" in running.step()
        assert holders(gateway)


def test_there_is_a_snippet_for_each_style() -> None:
    titles = " ".join(title for title, _ in SNIPPETS)
    for style in ("Claude Desktop", "Cursor", "VS Code"):
        assert style in titles


@pytest.mark.parametrize(("title", "snippet"), SNIPPETS, ids=[title for title, _ in SNIPPETS])
def test_the_snippets_of_the_page_work(
    gateway: GatewayProcess, foreign_clients: Path, title: str, snippet: str
) -> None:
    """As the programs do that read them: they fill in variables, and start or call what stands there."""
    real = entry(gateway, "http")
    token = real["headers"]["Authorization"].removeprefix("Bearer ")
    filled = re.sub(r"\$\{(env:|input:)?[\w-]+\}", token, snippet).replace("http://127.0.0.1:7390/mcp", real["url"])
    document = json.loads(filled)
    server = (document.get("mcpServers") or document["servers"])["sexton"]
    if "command" in server:
        assert server["command"] == "sexton"
        server["command"] = str(Path(sys.executable).with_name("sexton"))
        server["env"] = {**os.environ, "SEXTON_DATA": str(gateway.data)}
    plan = {"server": server, "mode": "auto", "only": "list"}
    with client("typescript-v2", plan, foreign_clients) as running:
        assert "time__get_current_time" in running.step()["tools"]
        assert running.process.wait(PATIENCE) == 0
