"""Many holders over one wire, with the order of everything in the test's hands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, METHOD_NOT_FOUND, PROTOCOL_VERSION_META_KEY

from fake_clock import held_loop_time, settle
from sexton.mcp_servers.multiplexer import Multiplexer
from sexton.mcp_servers.server_errors import CallTimedOut, ConnectionEnd, NotWritten, ServerDied
from sexton.mcp_servers.stdio_transport import OutgoingLine
from sexton.mcp_servers.virtual_connection import VirtualConnection
from waiting import PATIENCE

pytestmark = pytest.mark.anyio


class FakeWire:
    """Keeps what is written.  `blocked`: the pipe is full, nothing gets out."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.withdrawn: list[OutgoingLine] = []
        self.blocked = False

    def write(self, line: bytes) -> OutgoingLine:
        self.sent.append(json.loads(line))
        outgoing = OutgoingLine(line)
        outgoing.started = not self.blocked
        return outgoing

    def withdraw(self, outgoing: OutgoingLine) -> bool:
        if outgoing.started:
            return False
        self.withdrawn.append(outgoing)
        return True

    def requests(self, method: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message.get("method") == method]

    def cancelled(self) -> list[int]:
        return [message["params"]["requestId"] for message in self.requests("notifications/cancelled")]


class Holder:
    """One connection with everything that it heard."""

    def __init__(self, connection: VirtualConnection) -> None:
        self.connection = connection
        self.heard: list[tuple[str, Any]] = []
        self.asked: list[tuple[str, Any]] = []
        self.answer_now = anyio.Event()
        self.answer_now.set()

    async def on_request(self, _context: Any, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        self.asked.append((method, params))
        await self.answer_now.wait()
        return {"answered by": self.connection.holder}

    async def on_notify(self, _context: Any, method: str, params: Mapping[str, Any] | None) -> None:
        self.heard.append((method, params))

    def methods(self) -> list[str]:
        return [method for method, _ in self.heard]


class Stage:
    """A multiplexer with holders that come and go."""

    def __init__(self) -> None:
        self.wire = FakeWire()
        self.changed: list[str] = []
        self.mux = Multiplexer("demo", self.wire, on_list_changed=self.changed.append)

    @asynccontextmanager
    async def holder(self, name: str, *, owner: str | None = None, is_holder: bool = True) -> AsyncIterator[Holder]:
        holder = Holder(VirtualConnection(self.mux, name, owner=owner, is_holder=is_holder))
        async with anyio.create_task_group() as tasks:
            await tasks.start(holder.connection.run, holder.on_request, holder.on_notify)
            yield holder
            tasks.cancel_scope.cancel()

    async def settled(self) -> None:
        """Let every task go as far as it can."""
        await anyio.wait_all_tasks_blocked()


@pytest.fixture
def stage() -> Stage:
    return Stage()


class Calls:
    """Calls that run beside the test, with their outcomes."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.tasks = tasks
        self.outcomes: dict[str, Any] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}

    def start(self, name: str, holder: Holder, method: str = "tools/call", **opts: Any) -> None:
        self.tasks.start_soon(self._run, name, holder, method, opts.pop("params", {"name": name}), opts)

    async def _run(self, name: str, holder: Holder, method: str, params: dict[str, Any], opts: Any) -> None:
        with anyio.CancelScope() as self.scopes[name]:
            try:
                self.outcomes[name] = await holder.connection.send_raw_request(method, params, opts)
            except Exception as error:  # noqa: BLE001 - it is what the test is about
                self.outcomes[name] = error


@asynccontextmanager
async def calls() -> AsyncIterator[Calls]:
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            yield Calls(tasks)
            tasks.cancel_scope.cancel()


async def test_answers_find_their_holders_in_any_order(stage: Stage) -> None:
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("one", a)
        running.start("two", b)
        await stage.settled()
        first, second = stage.wire.requests("tools/call")
        assert first["id"] != second["id"]
        stage.mux.receive({"jsonrpc": "2.0", "id": str(second["id"]), "result": {"for": second["params"]["name"]}})
        stage.mux.receive({"jsonrpc": "2.0", "id": first["id"], "result": {"for": first["params"]["name"]}})
        await stage.settled()
    assert running.outcomes == {"one": {"for": "one"}, "two": {"for": "two"}}


async def test_an_error_answer_is_an_mcp_error_and_a_malformed_one_too(stage: Stage) -> None:
    async with stage.holder("a") as a, calls() as running:
        for name in ("error", "empty", "odd"):
            running.start(name, a)
        await stage.settled()
        ids = [message["id"] for message in stage.wire.requests("tools/call")]
        stage.mux.receive({"id": ids[0], "error": {"code": -5, "message": "no", "data": {"x": 1}}})
        stage.mux.receive({"id": ids[1], "result": "not an object"})
        stage.mux.receive({"id": ids[2], "error": "words"})
        await stage.settled()
    assert (running.outcomes["error"].code, running.outcomes["error"].data) == (-5, {"x": 1})
    assert isinstance(running.outcomes["empty"], MCPError)
    assert isinstance(running.outcomes["odd"], MCPError)


async def test_a_cancelled_call_is_cancelled_at_the_server_by_its_wire_id_and_no_other(stage: Stage) -> None:
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("mine", a)
        running.start("theirs", b)
        await stage.settled()
        mine, theirs = (message["id"] for message in stage.wire.requests("tools/call"))
        running.scopes["mine"].cancel()
        await stage.settled()
        assert stage.wire.cancelled() == [mine]
        stage.mux.receive({"id": mine, "result": {"late": True}})
        stage.mux.receive({"id": theirs, "result": {}})
        await stage.settled()
        assert stage.mux.late_answers == 1
    assert running.outcomes == {"theirs": {}}


async def test_a_request_that_was_not_written_is_taken_back_instead_of_cancelled(stage: Stage) -> None:
    async with stage.holder("a") as a, calls() as running:
        stage.wire.blocked = True
        running.start("mine", a)
        await stage.settled()
        running.scopes["mine"].cancel()
        await stage.settled()
        assert stage.wire.cancelled() == []
        assert len(stage.wire.withdrawn) == 1


async def test_what_must_not_be_cancelled_is_not(stage: Stage) -> None:
    async with stage.holder("a") as a, calls() as running:
        running.start("init", a, "initialize", cancel_on_abandon=False)
        await stage.settled()
        running.scopes["init"].cancel()
        await stage.settled()
        assert stage.wire.cancelled() == []


async def test_a_holder_that_leaves_has_its_calls_cancelled_and_the_rest_live_on(stage: Stage) -> None:
    async with calls() as running, stage.holder("b") as b:
        async with stage.holder("a") as a:
            running.start("left behind", a)
            running.start("theirs", b)
            await stage.settled()
            left, theirs = (message["id"] for message in stage.wire.requests("tools/call"))
        await stage.settled()
        assert stage.wire.cancelled() == [left]
        assert running.outcomes["left behind"].code == CONNECTION_CLOSED
        with pytest.raises(MCPError, match="has left"):
            await a.connection.send_raw_request("tools/list", None)
        stage.mux.receive({"id": theirs, "result": {"fine": True}})
        await stage.settled()
    assert running.outcomes["theirs"] == {"fine": True}


async def test_a_call_that_takes_too_long_ends_and_the_server_is_told(stage: Stage) -> None:
    async with stage.holder("a") as a, calls() as running:
        running.start("slow", a, timeout=0.01)
        while "slow" not in running.outcomes:
            await anyio.lowlevel.checkpoint()
        (call,) = stage.wire.requests("tools/call")
        assert stage.wire.cancelled() == [call["id"]]
    assert isinstance(running.outcomes["slow"], CallTimedOut)
    assert "did not answer tools/call within 0.01 s" in str(running.outcomes["slow"])


async def test_progress_goes_to_its_call_and_extends_its_time(stage: Stage) -> None:
    told: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    with held_loop_time() as move:
        async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
            running.start("mine", a, on_progress=on_progress, timeout=20)
            running.start("theirs", b)
            await stage.settled()
            mine, theirs = stage.wire.requests("tools/call")
            assert mine["params"]["_meta"]["progressToken"] == mine["id"]
            for _ in range(3):  # longer than the timeout, kept alive by progress
                move(15)
                stage.mux.receive(
                    {"method": "notifications/progress", "params": {"progressToken": mine["id"], "progress": 1}}
                )
                await stage.settled()
            assert "mine" not in running.outcomes
            stage.mux.receive({"id": mine["id"], "result": {}})
            await stage.settled()
            assert running.outcomes["mine"] == {}
            assert told
            assert b.heard == []
            assert theirs["params"]["_meta"]["progressToken"] == theirs["id"]


async def test_a_holders_own_progress_tokens_and_ids_may_collide_with_anybodys(stage: Stage) -> None:
    params = {"name": "x", "_meta": {"progressToken": "tok"}}
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("one", a, params=params, request_id="same")
        running.start("two", b, params=params, request_id="same")
        await stage.settled()
        first, second = stage.wire.requests("tools/call")
        tokens = [message["params"]["_meta"]["progressToken"] for message in (first, second)]
        assert tokens == [first["id"], second["id"]]
        stage.mux.receive({"method": "notifications/progress", "params": {"progressToken": tokens[1], "progress": 2}})
        await stage.settled()
        assert b.heard == [("notifications/progress", {"progressToken": "tok", "progress": 2})]
        assert a.heard == []
        await a.connection.notify("notifications/cancelled", {"requestId": "same"})
        assert stage.wire.cancelled() == [first["id"]]


async def test_ping_is_always_answered(stage: Stage) -> None:
    stage.mux.receive({"id": "p", "method": "ping"})
    assert stage.wire.sent[-1] == {"jsonrpc": "2.0", "id": "p", "result": {}}


async def test_a_question_goes_to_the_only_holder_with_a_call_in_flight(stage: Stage) -> None:
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("work", b)
        running.start("listing", a, "tools/list")  # no server asks back because of that
        running.start("listening", a, "subscriptions/listen")  # nor because of that
        await stage.settled()
        stage.mux.receive({"id": 7, "method": "elicitation/create", "params": {"message": "?"}})
        await stage.settled()
        assert stage.wire.sent[-1] == {"jsonrpc": "2.0", "id": 7, "result": {"answered by": "b"}}
        assert a.asked == []


async def test_a_question_that_could_be_about_two_calls_is_declined_in_words(stage: Stage) -> None:
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("one", a)
        running.start("two", b)
        await stage.settled()
        stage.mux.receive({"id": 7, "method": "sampling/createMessage", "params": {}})
        await stage.settled()
        error = stage.wire.sent[-1]["error"]
        assert error["code"] == INVALID_REQUEST
        assert "2 callers have calls in flight" in error["message"]
        assert a.asked == b.asked == []


async def test_of_several_callers_of_one_owner_the_only_one_that_is_not_being_asked_is_asked(stage: Stage) -> None:
    """A person who takes long to answer in one editor must not keep another editor's calls from asking."""
    async with stage.holder("a", owner="me") as a, stage.holder("b", owner="me") as b, calls() as running:
        a.answer_now = anyio.Event()
        running.start("one", a)
        await stage.settled()
        stage.mux.receive({"id": 1, "method": "elicitation/create", "params": {"message": "first"}})
        await stage.settled()
        running.start("two", b)
        await stage.settled()
        stage.mux.receive({"id": 2, "method": "elicitation/create", "params": {"message": "second"}})
        await stage.settled()
        assert [len(each.asked) for each in (a, b)] == [1, 1]
        assert stage.wire.sent[-1] == {"jsonrpc": "2.0", "id": 2, "result": {"answered by": "b"}}
        a.answer_now.set()


async def test_of_callers_that_are_all_being_asked_the_last_one_is_asked_more(stage: Stage) -> None:
    """Some servers ask for several things at a time."""
    async with stage.holder("a", owner="me") as a, stage.holder("b", owner="me") as b, calls() as running:
        for number, holder in enumerate((a, b)):
            holder.answer_now = anyio.Event()
            running.start(f"call {number}", holder)
            await stage.settled()
            stage.mux.receive({"id": number, "method": "elicitation/create", "params": {}})
            await stage.settled()
        stage.mux.receive({"id": 2, "method": "roots/list"})
        await stage.settled()
        assert [len(each.asked) for each in (a, b)] == [1, 2]


async def test_a_question_is_never_passed_to_another_owners_holder_on_a_guess(stage: Stage) -> None:
    async with stage.holder("a", owner="me") as a, stage.holder("b", owner="you") as b, calls() as running:
        a.answer_now = anyio.Event()
        running.start("one", a)
        await stage.settled()
        stage.mux.receive({"id": 1, "method": "elicitation/create", "params": {"message": "first"}})
        await stage.settled()
        running.start("two", b)
        await stage.settled()
        stage.mux.receive({"id": 2, "method": "elicitation/create", "params": {"message": "second, of a or of b"}})
        await stage.settled()
        assert "2 callers have calls in flight" in stage.wire.sent[-1]["error"]["message"]
        assert b.asked == []
        a.answer_now.set()


async def test_a_question_out_of_nowhere_goes_to_the_only_holder_or_to_nobody(stage: Stage) -> None:
    async with stage.holder("sexton", is_holder=False), stage.holder("a") as a:
        stage.mux.receive({"id": 1, "method": "roots/list"})
        await stage.settled()
        assert a.asked == [("roots/list", None)]
        async with stage.holder("b"):
            stage.mux.receive({"id": 2, "method": "roots/list"})
            await stage.settled()
            assert "no call is in flight" in stage.wire.sent[-1]["error"]["message"]


async def test_a_question_is_declined_when_its_holder_leaves_and_dropped_when_the_server_withdraws_it(
    stage: Stage,
) -> None:
    async with calls() as running:
        async with stage.holder("a") as a:
            a.answer_now = anyio.Event()
            running.start("work", a)
            await stage.settled()
            stage.mux.receive({"id": "q1", "method": "elicitation/create", "params": {}})
            await stage.settled()
            stage.mux.receive({"method": "notifications/cancelled", "params": {"requestId": "q1"}})
            await stage.settled()
            assert [message for message in stage.wire.sent if message.get("id") == "q1"] == []
            stage.mux.receive({"id": "q2", "method": "elicitation/create", "params": {}})
            await stage.settled()
        (answer,) = [message for message in stage.wire.sent if message.get("id") == "q2"]
        assert "has left" in answer["error"]["message"]


async def test_a_call_does_not_time_out_while_its_holder_is_asked(stage: Stage) -> None:
    with held_loop_time() as move:
        async with stage.holder("a") as a, calls() as running:
            a.answer_now = anyio.Event()
            running.start("work", a, timeout=20)
            await stage.settled()
            stage.mux.receive({"id": "q", "method": "elicitation/create", "params": {}})
            await stage.settled()
            for _ in range(25):
                move(1)
                await settle()
            assert running.outcomes == {}
            a.answer_now.set()
            await stage.settled()
            move(20.5)
            while "work" not in running.outcomes:
                await anyio.lowlevel.checkpoint()
            assert isinstance(running.outcomes["work"], CallTimedOut)


async def test_log_messages_go_to_those_with_calls_in_flight_at_their_level(stage: Stage) -> None:
    async with stage.holder("a") as a, stage.holder("b") as b, stage.holder("idle") as idle, calls() as running:
        running.start("one", a)
        running.start("two", b)
        running.start("level", b, "logging/setLevel", params={"level": "error"})
        await stage.settled()
        stage.mux.receive({"method": "notifications/message", "params": {"level": "info", "data": "x"}})
        stage.mux.receive({"method": "notifications/message", "params": {"level": "error", "data": "y"}})
        await stage.settled()
        assert [params["data"] for _, params in a.heard] == ["x", "y"]
        assert [params["data"] for _, params in b.heard] == ["y"]
        assert idle.heard == []


async def test_a_new_era_call_hears_logs_only_if_it_asked_for_them(stage: Stage) -> None:
    modern = {PROTOCOL_VERSION_META_KEY: "2026-07-28"}
    async with stage.holder("a") as a, calls() as running:
        running.start("quiet", a, params={"name": "x", "_meta": modern})
        await stage.settled()
        stage.mux.receive({"method": "notifications/message", "params": {"level": "info", "data": "x"}})
        await stage.settled()
        assert a.heard == []


async def test_changed_lists_are_told_to_all_and_resources_to_their_subscribers(stage: Stage) -> None:
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("sub", b, "resources/subscribe", params={"uri": "file:///x"})
        await stage.settled()
        stage.mux.receive({"method": "notifications/tools/list_changed"})
        stage.mux.receive({"method": "notifications/resources/updated", "params": {"uri": "file:///x/part"}})
        await stage.settled()
        assert a.methods() == ["notifications/tools/list_changed"]
        assert b.methods() == ["notifications/tools/list_changed", "notifications/resources/updated"]
    assert stage.changed == ["notifications/tools/list_changed"]
    assert [message["params"]["uri"] for message in stage.wire.requests("resources/unsubscribe")] == ["file:///x"]


async def test_a_subscription_of_the_new_era_is_known_to_its_holder_by_its_own_id(stage: Stage) -> None:
    key = "io.modelcontextprotocol/subscriptionId"
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("one", a, "subscriptions/listen", params={}, request_id="listen-1")
        running.start("two", b, "subscriptions/listen", params={}, request_id="listen-1")
        await stage.settled()
        _, second = stage.wire.requests("subscriptions/listen")
        stage.mux.receive({"method": "notifications/tools/list_changed", "params": {"_meta": {key: second["id"]}}})
        stage.mux.receive({"method": "notifications/cancelled", "params": {"requestId": second["id"]}})
        await stage.settled()
        assert a.heard == []
        assert b.heard == [
            ("notifications/tools/list_changed", {"_meta": {key: "listen-1"}}),
            ("notifications/cancelled", {"requestId": "listen-1"}),
        ]


async def test_the_handshake_is_answered_from_the_record(stage: Stage) -> None:
    stage.mux.remember_handshake("initialize", {"protocolVersion": "2025-06-18"})
    async with stage.holder("a") as a:
        assert await a.connection.send_raw_request("initialize", {}) == {"protocolVersion": "2025-06-18"}
        await a.connection.notify("notifications/initialized", None)
        with pytest.raises(MCPError) as refusal:
            await a.connection.send_raw_request("server/discover", {})
        assert refusal.value.code == METHOD_NOT_FOUND
    assert stage.wire.sent == []


async def test_roots_of_one_of_several_holders_do_not_reach_the_server(stage: Stage) -> None:
    async with stage.holder("a") as a:
        await a.connection.notify("notifications/roots/list_changed", None)
        assert len(stage.wire.sent) == 1
        async with stage.holder("b"):
            await a.connection.notify("notifications/roots/list_changed", None)
            assert len(stage.wire.sent) == 1


async def test_the_end_fails_every_call_at_once_and_says_which_were_not_written(stage: Stage) -> None:
    end = ConnectionEnd(server="demo", what="ended with status 3", returncode=3, last_words="Error: disk full\n")
    async with stage.holder("a") as a, stage.holder("b") as b, calls() as running:
        running.start("written", a)
        running.start("listening", a, "subscriptions/listen", params={})
        await stage.settled()
        stage.wire.blocked = True
        running.start("queued", b)
        await stage.settled()
        stage.mux.end(end)
        await stage.settled()
        written, queued = running.outcomes["written"], running.outcomes["queued"]
        assert type(written) is ServerDied
        assert written.returncode == 3
        assert "Its last words: Error: disk full" in str(written)
        assert type(queued) is NotWritten
        assert isinstance(running.outcomes["listening"], MCPError)  # the only error that its driver in the SDK expects
        with pytest.raises(NotWritten):
            await b.connection.send_raw_request("tools/list", None)


@pytest.mark.parametrize("message", [42, "text", None, {}, {"id": 1}, {"result": {}}, [], [42], {"method": 3}])
async def test_what_is_not_json_rpc_is_said_to_be_junk(stage: Stage, message: Any) -> None:
    assert not stage.mux.receive(message)


@pytest.mark.parametrize(
    "message",
    [
        {"id": None, "error": {"code": -32700, "message": "parse error"}},
        {"id": [1], "result": {}},
        {"id": {}, "method": "ping"},
        {"method": "notifications/progress", "params": {"progressToken": [1]}},
        {"method": "notifications/progress", "params": "words"},
        {"method": "notifications/message"},
        {"method": "notifications/cancelled", "params": {"requestId": None}},
        [{"id": 99, "result": {}}, {"method": "notifications/x"}],
    ],
)
async def test_odd_messages_harm_nobody(stage: Stage, message: Any) -> None:
    async with stage.holder("a") as a, calls() as running:
        running.start("work", a)
        await stage.settled()
        assert stage.mux.receive(message)
        await stage.settled()
        assert running.outcomes == {}


METHODS = st.sampled_from(
    [
        "ping",
        "roots/list",
        "elicitation/create",
        "notifications/progress",
        "notifications/cancelled",
        "notifications/message",
        "notifications/resources/updated",
        "notifications/tools/list_changed",
        "notifications/of/its/own",
    ]
)
KEYS = st.sampled_from(["_meta", "progressToken", "requestId", "uri", "level", "progress", "code", "message", "x"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | METHODS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
PARAMS = st.dictionaries(KEYS, ANYTHING, max_size=5) | ANYTHING
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(0, 2) | ANYTHING,
        "method": METHODS,
        "params": PARAMS,
        "result": PARAMS,
        "error": PARAMS,
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MESSAGES | ANYTHING, max_size=8))
async def test_whatever_a_server_says_holders_live_on(messages: list[Any]) -> None:
    stage = Stage()
    async with stage.holder("a") as a, calls() as running:
        running.start("work", a)
        await stage.settled()
        for message in messages:
            stage.mux.receive(message)
        await stage.settled()
        running.start("more", a)
        await stage.settled()
        (more,) = [sent for sent in stage.wire.requests("tools/call") if sent["params"]["name"] == "more"]
        stage.mux.receive({"id": more["id"], "result": {}})
        await stage.settled()
        assert running.outcomes["more"] == {}


async def test_a_flood_of_notifications_is_bounded(stage: Stage) -> None:
    stuck = anyio.Event()

    async with stage.holder("a") as a:

        async def never(_context: Any, method: str, params: Any) -> None:
            a.heard.append((method, params))
            await stuck.wait()

        a.connection._on_notify = never
        for _ in range(5000):
            stage.mux.receive({"method": "notifications/tools/list_changed"})
        await stage.settled()
        assert len(a.heard) == 1000
