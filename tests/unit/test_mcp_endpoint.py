"""The pure parts of the MCP endpoint: names, profiles, eras, search; and calls that wait for their client."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import anyio
import anyio.lowlevel
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import MCPError
from starlette.types import Receive, Scope, Send

from fake_clock import FakeClock, settle
from fake_servers import NoTrees
from properties import scaled
from sexton.containment import Containment
from sexton.gateway.http.caller import OWNER
from sexton.gateway.mcp_endpoint import Endpoint, EndpointSettings, Profile
from sexton.gateway.mcp_endpoint.eras import (
    legacy_params,
    legacy_result,
    modern_error,
    modern_params,
    modern_result,
)
from sexton.gateway.mcp_endpoint.offers import fits
from sexton.gateway.mcp_endpoint.parked import MAX_PARKED, ParkedCall, ParkedCalls, is_ours
from sexton.gateway.mcp_endpoint.search import search
from sexton.gateway.mcp_endpoint.view import View
from sexton.journal import Journal
from sexton.mcp_servers import ServerPool, ToolFilter
from waiting import PATIENCE

ALL = View(key="all", servers=("git", "time"))
ONE = View(key="server:git", servers=("git",))
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/logLevel": "info",
}


# Names


@given(st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True))
def test_a_name_that_is_shown_leads_back(tool: str) -> None:
    assert ALL.split(ALL.shown("git", tool)) == ("git", tool)
    assert ONE.split(ONE.shown("git", tool)) == ("git", tool)


@pytest.mark.parametrize("name", ["log", "git_log", "nobody__log", "__log", ""])
def test_a_name_of_nobody_leads_nowhere(name: str) -> None:
    assert ALL.split(name) is None


def test_a_profile_speaks_in_the_names_that_clients_see() -> None:
    profile = Profile(name="p", tools=ToolFilter(allow=("git__log", "t*__*", "status"), deny=("*__set_*", "drop")))
    git, time, other = (profile.filter_for(server) for server in ("git", "time", "other"))
    assert [git.admits(tool) for tool in ("log", "status", "push", "drop")] == [True, True, False, False]
    assert [time.admits(tool) for tool in ("now", "set_now", "drop")] == [True, False, False]
    assert [other.admits(tool) for tool in ("status", "log", "now")] == [True, False, False]
    assert Profile(name="q").filter_for("git").admits("anything")
    assert not Profile(name="r", tools=ToolFilter(allow=("time__*",))).filter_for("git").admits("log")


@pytest.mark.parametrize(
    ("uri", "template", "answer"),
    [
        ("page://7", "page://{number}", True),
        ("page://7/8", "page://{number}", True),
        ("note://7", "page://{number}", False),
        ("file:///a/b.txt", "file:///{+path}", True),
        ("a.b", "a+b", False),
        ("x://a?q=1", "x://a{?q}", True),
    ],
)
def test_an_address_fits_a_template(uri: str, template: str, answer: bool) -> None:
    assert fits(uri, template) is answer


# Eras


def test_a_request_loses_its_envelope_on_the_way_to_an_older_server() -> None:
    params = {
        "name": "t",
        "_meta": {**ENVELOPE, "progressToken": 3, "mine": 1},
        "inputResponses": {},
        "requestState": "x",
    }
    assert legacy_params(params) == {"name": "t", "_meta": {"progressToken": 3, "mine": 1}}
    assert legacy_params({"_meta": ENVELOPE}) == {}
    assert legacy_params(None) is None
    assert params["_meta"] == {**ENVELOPE, "progressToken": 3, "mine": 1}


def test_a_request_asks_a_newer_server_for_its_log() -> None:
    asked = modern_params({"name": "t", "_meta": {"progressToken": 3}}, "debug")
    assert asked == {"name": "t", "_meta": {"progressToken": 3, "io.modelcontextprotocol/logLevel": "debug"}}


def test_a_result_is_what_its_reader_knows() -> None:
    info = {"name": "s", "version": "1"}
    new = modern_result("tools/list", {"tools": [], "_meta": {"mine": 1}}, info)
    stamp = {"io.modelcontextprotocol/serverInfo": info}
    assert new == {
        "tools": [],
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"mine": 1, **stamp},
    }
    assert modern_result("tools/call", {"content": []}, info) == {
        "content": [],
        "resultType": "complete",
        "_meta": stamp,
    }
    assert legacy_result(new) == {"tools": [], "_meta": {"mine": 1}}
    assert legacy_result({"content": [], "_meta": stamp}) == {"content": []}


def test_a_resource_that_is_not_there_has_the_code_of_the_era() -> None:
    error = MCPError(-32002, "Resource not found", {"uri": "x"})
    assert modern_error("resources/read", error).error.code == -32602
    assert modern_error("tools/call", error) is error


# Search


def tool(name: str, description: str = "", *parameters: str) -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": {"properties": {each: {} for each in parameters}}}


TOOLS = [
    tool("git__log", "Show the commits of a repository", "path"),
    tool("git__commit", "Record changes", "message"),
    tool("time__getCurrentTime", "Tell what time it is", "timezone"),
    tool("mail__send", "Send a message to somebody", "to", "text"),
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("commit", ["git__commit", "git__log"]),
        ("current time", ["time__getCurrentTime"]),
        ("timezone", ["time__getCurrentTime"]),
        ("send a mail", ["mail__send", "git__log"]),
        ("repos", ["git__log"]),
        ("nothing of the kind!?", ["git__log"]),
        ("zzz", []),
        ("", [each["name"] for each in TOOLS]),
    ],
)
def test_tools_are_found_by_words(query: str, found: list[str]) -> None:
    assert [each["name"] for each in search(TOOLS, query, 10)] == found


def test_no_more_are_found_than_were_asked_for() -> None:
    assert len(search(TOOLS, "", 2)) == 2


# Calls that wait for their client


class Request:
    """A request of the client, and what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, method: str, params: Any) -> None:
        self.told.append(method)


@pytest.mark.anyio
async def test_a_call_goes_on_from_where_it_waited() -> None:
    clock = FakeClock()
    parked = ParkedCalls(clock, 60)

    async def work(call: ParkedCall) -> dict[str, Any]:
        call.tell("first", None)
        name = await call.ask("elicitation/create", {"message": "who?"})
        call.tell("second", None)
        return {"hello": name["content"]}

    async with anyio.create_task_group() as tasks:
        call, first, second = ParkedCall("me", None), Request(), Request()
        tasks.start_soon(call.run, work)
        asked = await call.next_round(first)
        parked.park(call)
        ((key, question),) = asked["inputRequests"].items()
        assert question == {"method": "elicitation/create", "params": {"message": "who?"}}
        assert is_ours(asked["requestState"])
        assert not is_ours("a server's own")
        with pytest.raises(MCPError, match="no call waits"):
            parked.take(asked["requestState"], "somebody else")
        again = parked.take(asked["requestState"], "me")
        again.take_responses({key: {"content": "ada"}, "other": {}})
        assert await again.next_round(second) == {"hello": "ada"}
        assert (first.told, second.told) == (["first"], ["second"])
        with pytest.raises(MCPError, match="no call waits"):
            parked.take(asked["requestState"], "me")


@pytest.mark.anyio
async def test_questions_that_a_server_writes_one_after_the_other_reach_the_client_together() -> None:
    async def work(call: ParkedCall) -> dict[str, Any]:
        async with anyio.create_task_group() as questions:
            for number in range(3):
                questions.start_soon(call.ask, "elicitation/create", {"message": str(number)})
                for _ in range(10):  # the client's request has long heard of the one before
                    await anyio.lowlevel.checkpoint()
        return {}

    async with anyio.create_task_group() as tasks:
        call = ParkedCall("me", None, settled_after=0.5)
        tasks.start_soon(call.run, work)
        asked = await call.next_round(Request())
        assert len(asked["inputRequests"]) == 3
        call.take_responses({key: {} for key in asked["inputRequests"]})
        assert await call.next_round(Request()) == {}


@pytest.mark.anyio
async def test_a_call_whose_client_does_not_come_back_is_ended() -> None:
    clock = FakeClock()
    parked = ParkedCalls(clock, 60)
    ended: list[str] = []

    async def work(call: ParkedCall) -> dict[str, Any]:
        try:
            return await call.ask("roots/list", None)
        finally:
            ended.append(call.owner)

    async with anyio.create_task_group() as tasks:
        for number in range(MAX_PARKED + 1):
            call = ParkedCall(str(number), None, settled_after=0)
            tasks.start_soon(call.run, work)
            await call.next_round(Request())
            parked.park(call)
        await settle()
        assert (len(parked), ended) == (MAX_PARKED, ["0"])
        await clock.advance(59)
        parked.end_overdue()
        assert len(parked) == MAX_PARKED
        await clock.advance(1)
        parked.end_overdue()
        await settle()
        assert (len(parked), len(ended)) == (0, MAX_PARKED + 1)


@pytest.mark.anyio
async def test_a_client_that_goes_while_its_call_runs_ends_it() -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def work(_: ParkedCall) -> dict[str, Any]:
        try:
            began.set()
            await anyio.Event().wait()
        finally:
            ended.set()
        return {}

    async with anyio.create_task_group() as tasks:
        call = ParkedCall("me", None)
        tasks.start_soon(call.run, work)
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_after, began, scope)
            await call.next_round(Request())
        with anyio.fail_after(PATIENCE):
            await ended.wait()


async def cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


# Whatever a client sends


def json_values() -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )


METHODS = st.sampled_from(
    [
        "initialize",
        "ping",
        "tools/list",
        "tools/call",
        "prompts/get",
        "resources/read",
        "resources/subscribe",
        "completion/complete",
        "logging/setLevel",
        "server/discover",
        "notifications/cancelled",
        "notifications/initialized",
        "no/such",
    ]
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "_meta": st.just(ENVELOPE) | json_values(),
        "name": json_values(),
        "uri": json_values(),
        "ref": st.just({"type": "ref/resource", "uri": "x"}) | json_values(),
        "arguments": json_values(),
        "requestId": json_values(),
        "requestState": st.just("sexton:x") | json_values(),
        "protocolVersion": st.just("2025-11-25") | json_values(),
        "capabilities": json_values(),
        "clientInfo": json_values(),
        "level": json_values(),
    },
)
MESSAGES = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={"id": json_values(), "method": METHODS | json_values(), "params": PARAMS | json_values()},
)


@settings(max_examples=scaled(150))
@given(message=MESSAGES | json_values(), modern=st.booleans())
def test_no_message_breaks_the_endpoint(message: Any, modern: bool) -> None:
    """It is answered or refused, and nothing is logged as a defect."""
    for answer in anyio.run(send_to_an_empty_endpoint, message, modern):
        assert 200 <= answer.status_code < 500
        assert "Internal" not in answer.text


async def send_to_an_empty_endpoint(message: Any, modern: bool) -> list[httpx2.Response]:
    """The same message without a session and, in the handshake era, in one."""
    with anyio.fail_after(PATIENCE), TemporaryDirectory() as folder:
        pool = ServerPool(
            {},
            cast("Containment", NoTrees()),
            clock=FakeClock(),
            journal=Journal.open(None),
            data_dir=Path(folder),
        )
        endpoint = Endpoint(pool, EndpointSettings(), clock=FakeClock())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"], scope["root_path"] = {"caller": OWNER}, "/mcp"
            await endpoint(scope, receive, send)

        async with anyio.create_task_group() as tasks:
            await tasks.start(pool.run)
            await tasks.start(endpoint.run)
            answers = await send_twice(httpx2.ASGITransport(app), message, modern)
            tasks.cancel_scope.cancel()
    return answers


async def send_twice(transport: httpx2.ASGITransport, message: Any, modern: bool) -> list[httpx2.Response]:
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as http:
        if modern:
            headers = {"mcp-protocol-version": "2026-07-28", "sexton-client": "x"}
            return [await http.post("/mcp", content=json.dumps(message), headers=headers)]
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        greeting = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
        session = (await http.post("/mcp", json=greeting)).headers["mcp-session-id"]
        first = await http.post("/mcp", content=json.dumps(message))
        return [first, await http.post("/mcp", content=json.dumps(message), headers={"mcp-session-id": session})]
