"""Who may use the MCP endpoint of a running gateway, and what a change of the configuration does to it."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

import httpx2

from system.api_client import holders
from system.gateway_process import GatewayProcess, wait_for
from waiting import PATIENCE

SETTINGS = """
[servers.small]
@SERVER@

[servers.other]
@SERVER@

[profiles.few]
servers = ["small"]
allow = ["small__echo"]
"""
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


class Client:
    """A client of the handshake era."""

    def __init__(self, gateway: GatewayProcess, token: str, path: str = "") -> None:
        url = json.loads((gateway.data / "gateway.json").read_text())["url"]
        self._url = f"{url}/mcp{path}"
        self._headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}

    def post(self, method: str, params: Any = None, **headers: str) -> httpx2.Response:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        return httpx2.post(
            self._url, json=message, headers={**self._headers, **headers}, timeout=PATIENCE, trust_env=False
        )

    def greet(self) -> int:
        answer = self.post("initialize", HELLO)
        if answer.status_code == 200:
            self._headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        return answer.status_code

    def read_stream(self, ends: dict[str, str]) -> None:
        """Say in `ends` that the GET stream is open, and then how it ended."""
        with httpx2.stream("GET", self._url, headers=self._headers, timeout=PATIENCE, trust_env=False) as answer:
            for _ in answer.iter_lines():
                ends["stream"] = "open"
        ends["stream"] = "ended"

    def listen(self, ends: dict[str, str]) -> None:
        """Say in `ends` each line that a subscription is told; the last one stays."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "subscriptions/listen",
            "params": {"_meta": meta, "notifications": {"toolsListChanged": True}},
        }
        headers = {
            "authorization": self._headers["authorization"],
            "accept": self._headers["accept"],
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "subscriptions/listen",
        }
        with httpx2.stream(
            "POST", self._url, json=message, headers=headers, timeout=PATIENCE, trust_env=False
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    ends["listen"] = line

    def hang(self, ends: dict[str, str]) -> None:
        """Make a call that takes longer than a stop, and say in `ends` how it ended."""
        try:
            answer = self.post("tools/call", {"name": "small__slow", "arguments": {"seconds": 60}})
        except httpx2.TransportError:
            ends["hang"] = "cut off"
        else:
            ends["hang"] = "refused" if answer.status_code == 401 else "ended"

    def tools(self) -> set[str]:
        return {tool["name"] for tool in self.post("tools/list").json()["result"]["tools"]}


def owner(gateway: GatewayProcess) -> str:
    return (gateway.data / "token").read_text().strip()


def test_only_who_may_run_things_comes_in_and_only_to_their_profiles(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up()
    reader = gateway.cli("token", "create", "reader")["token"]
    runner = gateway.cli("token", "create", "runner", "--scope", "run")["token"]
    confined = gateway.cli("token", "create", "confined", "--scope", "run", "--profile", "few")["token"]
    for token, path, status in (
        ("nonsense", "", 401),
        (reader, "", 403),
        (runner, "", 200),
        (runner, "/small", 200),
        (runner, "/nobody", 404),
        (confined, "", 403),
        (confined, "/small", 403),
        (confined, "/profile/few", 200),
        (confined, "/profile/more", 403),
    ):
        assert Client(gateway, token, path).greet() == status, (token, path)
    assert Client(gateway, runner).post("initialize", HELLO, host="evil.example").status_code == 421
    assert Client(gateway, runner).post("initialize", HELLO, origin="http://evil.example").status_code == 403
    gateway.stop()


def test_a_session_of_one_token_is_nothing_to_another(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up()
    mine, other = Client(gateway, owner(gateway)), gateway.cli("token", "create", "other", "--scope", "run")["token"]
    assert mine.greet() == 200
    assert mine.post("ping").status_code == 200
    assert mine.post("ping", authorization=f"Bearer {other}").status_code == 404
    gateway.stop()


def test_a_change_of_the_configuration_reaches_open_sessions(gateway: GatewayProcess) -> None:
    gateway.write(SETTINGS).up()
    client = Client(gateway, owner(gateway), "/profile/few")
    assert client.greet() == 200
    assert client.tools() == {"small__echo"}
    gateway.write(SETTINGS.replace('"small__echo"', '"small__echo", "pid"'))
    gateway.wait_event("settings.reloaded")
    wait_for(lambda: client.tools() == {"small__echo", "small__pid"}, within=PATIENCE, what="the new selection")
    gateway.write(SETTINGS.replace("profiles.few", "profiles.more"))
    gateway.wait_event("settings.reloaded", count=2)
    wait_for(lambda: client.post("ping").status_code == 404, within=PATIENCE, what="the profile is gone")
    gateway.stop()


def test_a_stop_ends_open_streams_in_good_order_and_calls_in_time(gateway: GatewayProcess) -> None:
    """A GET stream, a subscription of 2026-07-28 and a call that never ends: none of them holds the gateway up."""
    gateway.write(SETTINGS).up()
    token, ends = owner(gateway), dict[str, str]()
    client = Client(gateway, token)
    assert client.greet() == 200
    threads = [
        threading.Thread(target=client.read_stream, args=(ends,)),
        threading.Thread(target=client.listen, args=(ends,)),
        threading.Thread(target=client.hang, args=(ends,)),
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: {"stream", "listen"} <= set(ends) and holders(gateway), within=PATIENCE, what="all are open")
    gateway.stop()
    for thread in threads:
        thread.join(PATIENCE)
    assert '"resultType":"complete"' in ends["listen"]
    assert ends["stream"] == "ended"
    assert ends["hang"] in ("ended", "cut off")


def test_what_is_open_ends_when_its_token_is_revoked(gateway: GatewayProcess) -> None:
    """A GET stream and a call; the owner's own stream goes on, and the audit tells of the call."""
    gateway.write(SETTINGS).up()
    token, ends, mine = gateway.cli("token", "create", "guest", "--scope", "run")["token"], dict[str, str](), {"": ""}
    client, other = Client(gateway, token), Client(gateway, owner(gateway))
    assert (client.greet(), other.greet()) == (200, 200)
    threads = [threading.Thread(target=each, args=(ends,)) for each in (client.read_stream, client.hang)]
    mine_too = threading.Thread(target=other.read_stream, args=(mine,))
    for thread in (*threads, mine_too):
        thread.start()
    wait_for(lambda: "stream" in ends and "stream" in mine and holders(gateway), within=PATIENCE, what="all are open")
    gateway.cli("token", "revoke", "guest")
    for thread in threads:
        thread.join(PATIENCE)
    assert (ends["stream"], mine["stream"]) == ("ended", "open")
    assert ends["hang"] in ("refused", "ended")  # after 15 s its answer had begun
    told = gateway.wait_event("audit.call_tool")
    assert (told["subject"], told["data"]["caller"], told["data"]["outcome"]) == ("small.slow", "guest", "failed")
    command = gateway.command("token", "create", "new", "--profile", "fex")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (refused.returncode, "did you mean 'few'" in refused.stderr) == (2, True)
    gateway.stop()
    mine_too.join(PATIENCE)
