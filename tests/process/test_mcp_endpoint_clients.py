"""Clients of the endpoint that come and go: what they hold, what they hear, and what ends with them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import MCPError
from mcp_types import (
    CallToolResult,
    ResourceUpdatedNotification,
    TextContent,
    ToolListChangedNotification,
)

from fake_clock import FakeClock
from process.endpoint_bench import ERAS, Caller, EndpointBench, config, endpoint_bench
from sexton.gateway.mcp_endpoint import EndpointSettings, Profile, event_trail, reply
from sexton.mcp_servers import Sharing, ToolFilter
from waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("none_left")]

FRONT = pytest.mark.parametrize("front", ERAS)
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bare", "version": "1"}}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "bare", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


class Bare:
    """A client without an SDK, for what those do not do."""

    def __init__(self, bench: EndpointBench, http: httpx2.AsyncClient, era: str, path: str = "") -> None:
        self._url = bench.url + path
        self._http = http
        self._modern = era != "legacy"
        self.headers: dict[str, str] = {}

    async def greet(self) -> None:
        if not self._modern:
            answer = await self.post("initialize", HELLO)
            self.headers["mcp-session-id"] = answer.headers["mcp-session-id"]

    async def post(self, method: str, params: dict[str, Any] | None = None, request_id: int = 1) -> httpx2.Response:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
        headers = dict(self.headers)
        if self._modern:
            message["params"] = {**message["params"], "_meta": ENVELOPE}
            headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
            if name := message["params"].get("name") or message["params"].get("uri"):
                headers["mcp-name"] = name
        return await self._http.post(self._url, json=message, headers=headers)

    async def call(self, tool: str, **arguments: Any) -> str:
        answer = (await self.post("tools/call", {"name": tool, "arguments": arguments})).json()
        return str(answer["result"]["content"][0]["text"])

    async def delete(self) -> int:
        return (await self._http.delete(self._url, headers=self.headers)).status_code


async def cancelled_at(bench: EndpointBench) -> list[Any]:
    """The requests that the raw server was told to cancel."""
    async with bench.pool.lease("raw", holder="test", returns=False) as lease:
        cancelled: list[Any] = json.loads(text_of(await lease.call_tool("cancelled")))
        return cancelled


async def was_cancelled(bench: EndpointBench) -> bool:
    return len(await cancelled_at(bench)) == 1


@FRONT
async def test_a_client_whose_connection_breaks_takes_its_call_with_it(tmp_path: Path, front: str) -> None:
    async with endpoint_bench(tmp_path, config("raw", "raw_server", tmp_path)) as bench, bench.http() as other_http:
        other = Bare(bench, other_http, front)
        await other.greet()
        async with anyio.create_task_group() as tasks:
            answers: list[str] = []

            async def stay() -> None:
                answers.append(await other.call("raw__sleep", seconds=2, text="stayed"))

            tasks.start_soon(stay)
            async with bench.http() as http:
                leaver = Bare(bench, http, front)
                await leaver.greet()
                with anyio.CancelScope() as scope:
                    tasks.start_soon(cancel_when, lambda: bench.pool.status()[0].calls == 2, scope)
                    await leaver.call("raw__sleep")
            await wait_until(lambda: was_cancelled(bench), seconds=PATIENCE)
        assert answers == ["stayed"]


async def cancel_when(condition: Any, scope: anyio.CancelScope) -> None:
    await wait_until(condition)
    scope.cancel()


KILLED = """
import sys, json, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), json.loads(sys.argv[3]))
urllib.request.urlopen(request)
"""


async def test_a_client_that_is_killed_takes_its_call_with_it(tmp_path: Path) -> None:
    async with endpoint_bench(tmp_path, config("raw", "raw_server", tmp_path)) as bench:
        params = {"name": "raw__sleep", "arguments": {}, "_meta": ENVELOPE}
        message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": "raw__sleep",
        }
        client = subprocess.Popen([sys.executable, "-c", KILLED, bench.url, message, json.dumps(headers)])
        try:
            await wait_until(lambda: bench.pool.status()[0].calls == 1)
            os.kill(client.pid, signal.SIGKILL)
            await wait_until(lambda: was_cancelled(bench), seconds=PATIENCE)
        finally:
            client.kill()
            client.wait(PATIENCE)


@FRONT
async def test_a_call_that_takes_long_is_a_stream_that_is_kept_alive(
    tmp_path: Path, front: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "STREAM_AFTER", 0.1)
    monkeypatch.setattr(event_trail, "KEEP_ALIVE", 0.1)
    async with endpoint_bench(tmp_path, config("raw", "raw_server", tmp_path)) as bench, bench.http() as http:
        client = Bare(bench, http, front)
        await client.greet()
        call = {"name": "raw__sleep", "arguments": {"seconds": 2, "text": "rested"}}
        answer = await client.post("tools/call", call)
        assert answer.headers["content-type"] == "text/event-stream"
        assert ": still here\n\n" in answer.text
        assert '"rested"' in answer.text


@FRONT
async def test_a_server_is_given_back_when_its_client_is_silent_and_serves_it_again(tmp_path: Path, front: str) -> None:
    raw, clock = config("raw", "raw_server", tmp_path, idle_timeout=0.2), FakeClock()
    async with endpoint_bench(tmp_path, raw, clock=clock) as bench, bench.client(front) as client:
        first = text_of(await client.call_tool("raw__pid", {}))
        assert len(bench.holders("raw")) == 1
        await clock.advance(10)
        await wait_until(lambda: bench.pids("raw") == [])
        assert text_of(await client.call_tool("raw__pid", {})) != first


@FRONT
async def test_an_exclusive_server_has_one_process_for_each_client(tmp_path: Path, front: str) -> None:
    raw = config("raw", "raw_server", tmp_path, sharing=Sharing.EXCLUSIVE)
    async with endpoint_bench(tmp_path, raw) as bench, bench.http() as http:
        first, second = Bare(bench, http, front), Bare(bench, http, front)
        second.headers["sexton-client"] = "another"
        for each in (first, second):
            await each.greet()
        pids = [await each.call("raw__pid") for each in (first, second, first)]
        assert pids[0] == pids[2] != pids[1]
        if front == "legacy":
            assert await first.delete() == 200
            await wait_until(lambda: bench.pids("raw") == [int(pids[1])])
            assert (await first.post("ping")).status_code == 404


UPDATED = {"method": "notifications/resources/updated", "params": {"uri": "note://one"}}
CHANGES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "raw_server": [("tell", UPDATED), ("tell", {"method": "notifications/tools/list_changed"})],
    "whole_server": [("change", {"uri": "note://one"}), ("grow", {})],
}


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize("program", CHANGES)
async def test_what_changes_is_told_to_who_sees_it(tmp_path: Path, program: str) -> None:
    """List changes and updates of a resource, from a server of one era, to clients of both."""
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message)

    async with (
        endpoint_bench(tmp_path, config("one", program, tmp_path)) as bench,
        bench.client("legacy", "/one", message_handler=hear) as legacy,
        bench.client("auto", "/one") as modern,
        modern.listen(tools_list_changed=True, resource_subscriptions=["note://one"]) as changes,
    ):
        await legacy.session.subscribe_resource("note://one")
        assert len(bench.holders("one")) == 2
        for tool, arguments in CHANGES[program]:
            await legacy.call_tool(tool, arguments)
        seen: set[str] = set()
        async for change in changes:
            seen.add(type(change).__name__)
            if seen == {"ResourceUpdated", "ToolsListChanged"}:
                break
        await wait_until(lambda: kinds(heard) >= {"update", "tools"})
        if program == "whole_server":
            for client in (legacy, modern):
                assert "add_again" in [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]
        await legacy.session.unsubscribe_resource("note://one")


def kinds(heard: list[Any]) -> set[str]:
    named: dict[type, str] = {ResourceUpdatedNotification: "update", ToolListChangedNotification: "tools"}
    return {named[type(message)] for message in heard if type(message) in named}


async def test_an_abandoned_session_is_ended(tmp_path: Path) -> None:
    clock = FakeClock()
    settings = EndpointSettings(idle_timeout=60, linger=30)
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, raw, settings=settings, clock=clock) as bench, bench.http() as http:
        first, second = Bare(bench, http, "legacy"), Bare(bench, http, "2026-07-28")
        await first.greet()
        assert await first.call("raw__echo", text="a") == await second.call("raw__echo", text="a") == "a"
        assert len(bench.holders("raw")) == 2
        await clock.advance(40)
        assert bench.holders("raw") == ()
        assert (await first.post("ping")).status_code == 200
        await clock.advance(59)
        assert (await first.post("ping")).status_code == 200
        await clock.advance(61)
        assert (await first.post("ping")).status_code == 404
        assert bench.endpoint.core.sessions == {}


async def test_the_session_that_was_idle_longest_makes_room(tmp_path: Path) -> None:
    settings = EndpointSettings(max_sessions=2)
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, raw, settings=settings) as bench, bench.http() as http:
        clients = [Bare(bench, http, "legacy") for _ in range(3)]
        for each in clients[:2]:
            await each.greet()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clients[0].call, "raw__hang")
            await wait_until(lambda: bench.pool.status()[0].calls == 1)
            await clients[2].greet()  # not the first, which has a call under way
            assert [(await each.post("ping")).status_code for each in clients[1:]] == [404, 200]
            tasks.start_soon(clients[2].call, "raw__hang")
            await wait_until(lambda: bench.pool.status()[0].calls == 2)
            assert (await clients[1].post("initialize", HELLO)).status_code == 503
            tasks.cancel_scope.cancel()


@FRONT
async def test_many_tools_are_found_by_words(tmp_path: Path, front: str) -> None:
    settings = EndpointSettings(search_above=5)
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, raw, settings=settings) as bench, bench.client(front) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["search_tools", "call_tool"]
        found = await client.call_tool("search_tools", {"query": "flood"})
        assert isinstance(found.structured_content, dict)
        assert [tool["name"] for tool in found.structured_content["tools"]] == ["raw__flood"]
        result = await client.call_tool("call_tool", {"name": "raw__echo", "arguments": {"text": "found"}})
        assert text_of(result) == "found"
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("call_tool", {"name": "raw"})


@FRONT
async def test_a_profile_shows_and_lets_through_only_what_it_names(tmp_path: Path, front: str) -> None:
    profile = Profile(name="few", servers=("raw",), tools=ToolFilter(allow=("raw__e*", "pid"), deny=("environ",)))
    settings = EndpointSettings(profiles={"few": profile})
    servers = [config(name, "raw_server", tmp_path) for name in ("raw", "other")]
    async with endpoint_bench(tmp_path, *servers, settings=settings) as bench:
        bench.caller = Caller(profiles=frozenset({"few"}))
        async with bench.client(front, "/profile/few") as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"raw__echo", "raw__pid"}
            assert text_of(await client.call_tool("raw__echo", {"text": "in"})) == "in"
            for hidden in ("raw__environ", "raw__die", "other__echo"):
                with pytest.raises(MCPError, match="Unknown tool"):
                    await client.call_tool(hidden, {"text": "out"})
        async with bench.http() as http:
            for path, status in (("", 403), ("/raw", 403), ("/profile/all", 403), ("/profile/few", 200)):
                answer = await Bare(bench, http, "legacy", path).post("initialize", HELLO)
                assert answer.status_code == status


@FRONT
async def test_a_profile_selects_prompts_and_resources_too(tmp_path: Path, front: str) -> None:
    few = Profile(
        name="few",
        prompts=ToolFilter(allow=("whole__p*",)),
        resources=ToolFilter(allow=("note://*", "page://*"), deny=("page://1*",)),
    )
    settings = EndpointSettings(profiles={"few": few, "none": Profile(name="none", resources=ToolFilter(deny=("*",)))})
    whole = config("whole", "whole_server", tmp_path)
    async with endpoint_bench(tmp_path, whole, settings=settings) as bench:
        async with bench.client(front, "/profile/few") as client:
            assert [each.name for each in (await client.list_prompts()).prompts] == ["whole__poem"]
            assert "a poem" in str(await client.get_prompt("whole__poem", {"about": "it"}))
            with pytest.raises(MCPError, match="Unknown prompt"):
                await client.get_prompt("whole__a.name with blanks")
            assert [str(each.uri) for each in (await client.list_resources()).resources] == ["note://one"]
            templates = (await client.list_resource_templates()).resource_templates
            assert [each.uri_template for each in templates] == ["page://{number}"]
            assert "page 2" in str(await client.read_resource("page://2"))
            with pytest.raises(MCPError, match="Resource not found"):
                await client.read_resource("page://10")
        async with bench.client(front, "/profile/none") as client:
            assert (await client.list_resources()).resources == []
            assert len((await client.list_prompts()).prompts) == 2
            with pytest.raises(MCPError, match="Resource not found"):
                await client.read_resource("note://one")


@FRONT
async def test_a_call_is_told_in_the_journal_and_its_arguments_are_not(tmp_path: Path, front: str) -> None:
    async with endpoint_bench(tmp_path, config("raw", "raw_server", tmp_path)) as bench, bench.client(front) as client:
        for _ in range(3):
            await client.call_tool("raw__echo", {"text": "hush"})
        bench.endpoint.core.audit.tell_all()
        events = [event for event in bench.journal.since(0) if event.kind.startswith("audit.")]
        assert [(event.subject, event.data["times"]) for event in events] == [("raw.echo", 1), ("raw.echo", 2)]
        assert dict(events[0].data) == {"caller": "tester", "way": "mcp", "outcome": "done", "times": 1}


async def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    settings = EndpointSettings(max_body=1000)
    raw = config("raw", "raw_server", tmp_path)
    async with endpoint_bench(tmp_path, raw, settings=settings) as bench, bench.http() as http:
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        refused: list[tuple[int, dict[str, Any]]] = [
            (400, {"content": b"{"}),
            (400, {"json": []}),
            (400, {"json": ping}),
            (404, {"json": ping, "headers": {"mcp-session-id": "x"}}),
            (400, {"json": ping, "headers": {"mcp-protocol-version": "2030-01-01"}}),
            (406, {"json": ping, "headers": {"accept": "text/html"}}),
            (413, {"content": b" " * 1001}),
            (415, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
        ]
        for status, request in refused:
            answer = await http.post(bench.url, **request)
            assert (answer.status_code, answer.json()["jsonrpc"]) == (status, "2.0"), request
        assert (await http.post(f"{bench.url}/nobody", json=ping)).status_code == 404
        assert (await http.post(f"{bench.url}/a/b/c", json=ping)).status_code == 404
        assert (await http.put(bench.url, json=ping)).status_code == 405
        other = Bare(bench, http, "legacy")
        await other.greet()
        bench.caller = Caller(name="somebody else")
        assert (await other.post("ping")).status_code == 404


async def test_nothing_is_held_when_everybody_has_gone_in_every_way_at_once(tmp_path: Path) -> None:
    """Calls that end, fail, are cancelled, whose client goes, whose server dies; by clients of both eras."""
    raw = config("raw", "raw_server", tmp_path)
    chance = random.Random(7)
    async with endpoint_bench(tmp_path, raw, settings=EndpointSettings(linger=0.05)) as bench:
        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(live, bench, ERAS[number % 2], random.Random(chance.random()))
            for _ in range(2):
                await wait_until(lambda: bench.pool.status()[0].calls >= 5)
                [pid] = bench.pids("raw")
                os.kill(pid, signal.SIGKILL)
                await wait_until(lambda pid=pid: pid not in bench.pids("raw"))  # type: ignore[misc]
        await wait_until(lambda: bench.holders("raw") == ())
        core = bench.endpoint.core
        assert (core.replies, len(core.parked), core.listeners) == (set(), 0, [])
        assert all(not session.is_busy for session in core.sessions.values())


REFUSAL = {"line": '{"jsonrpc":"2.0","id":#,"error":{"code":-1,"message":"no"}}'}


async def live(bench: EndpointBench, era: str, chance: random.Random) -> None:
    """One client's life: some calls, of which some are given up."""
    async with bench.http() as http:
        client = Bare(bench, http, era)
        with suppress(httpx2.TransportError):
            await client.greet()
            for _ in range(6):
                tool, arguments = chance.choice(
                    [
                        ("echo", {"text": "x"}),
                        ("sleep", {"seconds": 0.05}),
                        ("progress", {"steps": 3}),
                        ("answer_raw", REFUSAL),
                    ]
                )
                with anyio.move_on_after(chance.choice([0.01, 0.05, PATIENCE])):
                    await client.post("tools/call", {"name": f"raw__{tool}", "arguments": arguments})
