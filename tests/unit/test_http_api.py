"""The API's routes, with the application in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from fake_clock import settle
from gateway_bench import HEADERS, TOKEN, FakeTool, GatewayBench, client_of, gateway_bench
from sexton.errors import SextonError
from sexton.gateway.http import Gate, create_app, load_token
from sexton.gateway.http.app import ENDPOINTS
from sexton.gateway.http.disconnect import while_connected
from sexton.gateway.http.problem import Problem
from sexton.redaction import Redactor
from sexton.scheduler import CallState, Outcome, RunContext
from waiting import PATIENCE

pytestmark = pytest.mark.anyio

CLOCK = {"name": "clock", "schedule": {"every": 30}, "action": {"kind": "call", "server": "time", "tool": "now"}}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path) as bench:
        yield bench


@pytest.fixture
async def client(bench: GatewayBench) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(bench.gateway) as client:
        yield client


# Who may call


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": f"bearer {TOKEN}"}, 200),
        (HEADERS | {"host": "evil.example"}, 421),
        (HEADERS | {"host": "127.0.0.1.evil.example:7390"}, 421),
        (HEADERS | {"host": "[::1"}, 421),
        (HEADERS | {"host": "localhost:1"}, 200),
        (HEADERS | {"host": "[::1]:7390"}, 200),
        (HEADERS | {"origin": "http://evil.example"}, 403),
        (HEADERS | {"origin": "null"}, 403),
        (HEADERS | {"origin": "http://127.0.0.1:7391"}, 403),
        (HEADERS | {"origin": "http://127.0.0.1:7390"}, 200),
        (HEADERS | {"host": "evil.example", "origin": "http://evil.example"}, 421),
    ],
)
async def test_only_a_local_caller_with_the_token_gets_in(
    bench: GatewayBench, headers: dict[str, str], status: int
) -> None:
    async with client_of(bench.gateway, headers=headers) as client:
        for endpoint in (item for item in ENDPOINTS if item.method == "GET" and "{" not in item.path and item.scope):
            if endpoint.path == "/events" and status == 200:
                continue  # an open stream has no end for this transport
            answer = await client.get(f"http://127.0.0.1:7390{endpoint.full_path}")
            assert answer.status_code == status, (endpoint.path, answer.text)
            expected = endpoint.media if status == 200 else "application/problem+json"
            assert answer.headers["content-type"].partition(";")[0] == expected
            assert TOKEN not in answer.text


async def test_a_stranger_learns_nothing_about_which_routes_exist(bench: GatewayBench) -> None:
    async with client_of(bench.gateway, headers={}) as client:
        assert (await client.get("no-such-thing")).status_code == 401
        assert (await client.post("calls", content=b"{")).status_code == 401
    assert bench.pool.calls == []


def test_the_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    token = load_token(tmp_path)
    assert len(token) >= 40
    assert load_token(tmp_path) == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(SextonError, match="can be read by other users"):
        load_token(tmp_path)


# Errors


async def test_every_error_is_a_problem_document(client: httpx2.AsyncClient) -> None:
    for answer in (
        await client.get("nowhere"),
        await client.delete("status"),
        await client.get("jobs/nope"),
        await client.post("calls", json={"server": "time", "tool": "bug"}),
    ):
        document = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert document["status"] == answer.status_code >= 400
        assert {"type", "title", "detail"} <= set(document)
    assert "secret" not in answer.text


async def test_an_unknown_name_is_answered_with_the_nearest_one(client: httpx2.AsyncClient) -> None:
    await client.post("jobs", json=CLOCK)
    answers = [
        await client.get("servers/tiem/tools"),
        await client.post("servers/tiem/restart"),
        await client.post("servers/tiem/check"),
        await client.post("calls", json={"server": "tiem", "tool": "now"}),
        await client.post("calls", json={"server": "time", "tool": "nwo"}),
        await client.get("jobs/clok"),
        await client.delete("jobs/clok"),
        await client.get("jobs/clok/next"),
        await client.get("runs", params={"job": "clok"}),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert [answer.json()["nearest"] for answer in answers] == ["time"] * 4 + ["now"] + ["clock"] * 4


# Bodies


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b"{", {}, 400, "line 1, column 2"),
        (b"[]", {}, 400, "the body"),
        (b'"x"', {}, 400, "the body"),
        (b"", {}, 400, "/server"),
        (b'{"server": "time"}', {}, 400, "/tool"),
        (b'{"server": 1, "tool": "now"}', {}, 400, "/server"),
        (b'{"server": "time", "tool": "now", "argumens": {}}', {}, 400, "did you mean 'arguments'?"),
        (b'{"server": "time", "tool": "now", "timeout": -1}', {}, 400, "/timeout"),
        (b'{"server": "time", "tool": "now", "timeout": NaN}', {}, 400, "NaN"),
        (b"\xff\xfe{", {}, 400, "JSON"),
        (b"[" * 100_000, {}, 400, "JSON"),
        (b"server=time", {"content-type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        (b"{}", {"content-type": "text/plain"}, 415, "text/plain"),
        (b'{"a": "' + b"x" * (16 << 20) + b'"}', {}, 413, "larger"),
    ],
)
async def test_a_body_that_is_not_right_is_refused_with_its_place(
    client: httpx2.AsyncClient, bench: GatewayBench, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    answer = await client.post("calls", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert said in json.dumps(answer.json(), ensure_ascii=False)
    assert bench.pool.calls == []


async def test_a_body_without_a_declared_length_is_bounded_too(client: httpx2.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 65536

    answer = await client.post("calls", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


async def test_a_nul_is_refused_wherever_it_stands(client: httpx2.AsyncClient) -> None:
    for path in ("conversations/search?q=a%00b", "runs?job=%00", "jobs/%00", "runs?%00=1"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:sexton:problem:bad-request"), path


# Calls


async def test_a_call_answers_with_the_result_whatever_the_tool_says(
    client: httpx2.AsyncClient, bench: GatewayBench
) -> None:
    answer = (await client.post("calls", json={"server": "time", "tool": "now", "arguments": {"a": 1}})).json()
    assert (answer["text"], answer["is_error"]) == ("called now", False)
    sad = await client.post("calls", json={"server": "time", "tool": "sad"})
    assert (sad.status_code, sad.json()["is_error"]) == (200, True)
    assert bench.pool.calls == [("time", "now", {"a": 1}), ("time", "sad", {})]
    assert bench.pool.holders == []


async def test_a_call_that_fails_tells_the_words_and_the_next_step(client: httpx2.AsyncClient) -> None:
    answer = await client.post("calls", json={"server": "time", "tool": "fail"})
    assert answer.status_code == 502
    assert (answer.json()["detail"], answer.json()["hint"]) == ("server 'time' died.", "look at its log")


async def test_a_client_that_goes_away_ends_its_call_and_nobody_elses(bench: GatewayBench) -> None:
    """Force the order: both calls are under way at the server before one client's connection is closed."""
    app = create_app(bench.gateway, gate=Gate(token=TOKEN))
    body = json.dumps({"server": "time", "tool": "wait"}).encode()
    leave = [anyio.Event(), anyio.Event()]
    cancelled_first = anyio.Event()

    async def call(number: int) -> None:
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            if message := next(messages, None):
                return message
            await leave[number].wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        headers = [(b"host", b"127.0.0.1"), (b"authorization", HEADERS["authorization"].encode())]
        scope = {"type": "http", "method": "POST", "path": "/api/v1/calls", "headers": headers, "query_string": b""}
        await app(scope, receive, send)
        if number == 0:
            cancelled_first.set()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, 0)
            tasks.start_soon(call, 1)
            await anyio.wait_all_tasks_blocked()
            assert len(bench.pool.calls) == 2
            leave[0].set()
            await cancelled_first.wait()
            assert bench.pool.call_cancelled.is_set()
            assert len(bench.pool.holders) == 1
            leave[1].set()
    assert bench.pool.holders == []


async def test_a_call_that_fails_because_the_gateway_ends_is_not_blamed_on_its_server(bench: GatewayBench) -> None:
    """Force the order: the server is gone before the request notices that everything ends."""

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    async def ended_with_its_server() -> None:
        bench.gateway.cutting_off.set()
        raise SextonError("server 'time' died.")

    with pytest.raises(Problem, match="gateway is stopping") as caught:
        await while_connected(bench.gateway, receive, ended_with_its_server())
    assert (caught.value.status, caught.value.kind) == (503, "stopping")


# Jobs and runs


async def test_a_job_is_added_shown_paused_run_and_removed(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    added = await client.post("jobs", json=CLOCK)
    assert added.status_code == 201
    job = added.json()
    assert (job["schedule"], job["origin"], job["resources"]) == ({"every": 30}, "runtime", ["server:time"])
    assert [one["name"] for one in (await client.get("jobs")).json()] == ["clock"]
    assert (await client.post("jobs/clock/pause")).json()["paused"] is True
    assert (await client.post("jobs/clock/resume")).json()["paused"] is False
    times = (await client.get("jobs/clock/next", params={"count": 2})).json()["times"]
    assert times == ["2026-11-01T12:00:30+00:00", "2026-11-01T12:01:00+00:00"]
    started = await client.post("jobs/clock/run")
    assert started.status_code == 202
    await bench.clock.advance(0)
    record = (await client.get(f"runs/{started.json()['id'][-8:]}")).json()
    assert (record["run"]["state"], record["output"]) == ("ran", "did clock")
    assert (await client.get(f"runs/{started.json()['id']}/output")).text == "did clock"
    assert (await client.delete("jobs/clock")).json()["name"] == "clock"
    assert (await client.get("jobs")).json() == []
    assert len((await client.get("runs", params={"job": "clock"})).json()) == 1


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"name": "a b"}, 400, "/name"),
        ({"name": "a__b"}, 400, "'__'"),
        ({"schedule": {"every": 0.5}}, 400, "/schedule/every"),
        ({"schedule": {}}, 400, "exactly one"),
        ({"schedule": {"every": 5, "cron": "@daily"}}, 400, "exactly one"),
        ({"schedule": {"cron": "61 * * * *"}}, 400, "61"),
        ({"schedule": {"at": "tomorrow"}}, 400, "tomorrow"),
        ({"timezone": "Mars/Phobos"}, 400, "Mars/Phobos"),
        ({"overlap": "maybe"}, 400, "/overlap"),
        ({"retrys": 3}, 400, "did you mean 'retries'?"),
        ({"action": {"kind": "call", "server": "tiem", "tool": "now"}}, 404, "did you mean 'time'?"),
        ({"name": "a b"}, 400, "'a b' is no usable name"),
        ({"action": {"kind": "command", "argv": []}}, 400, "/action"),
        ({"action": {"kind": "dance"}}, 400, "/action"),
    ],
)
async def test_a_job_that_cannot_be_meant_is_refused(
    client: httpx2.AsyncClient, change: dict[str, Any], status: int, said: str
) -> None:
    answer = await client.post("jobs", json=CLOCK | change)
    assert answer.status_code == status, answer.text
    assert said in json.dumps(answer.json(), ensure_ascii=False)
    assert (await client.get("jobs")).json() == []


@pytest.mark.parametrize(
    ("tool", "said"), [("convert_tiem", "did you mean 'convert_time'?"), ("denied", "no usable tool")]
)
async def test_a_tool_that_its_server_is_known_not_to_give_is_refused(
    client: httpx2.AsyncClient, bench: GatewayBench, tool: str, said: str
) -> None:
    call = {"action": {"kind": "call", "server": "time", "tool": tool}}
    assert (await client.post("jobs", json=CLOCK | call | {"name": "early"})).status_code == 201
    bench.pool.catalogue["time"] = (FakeTool(), FakeTool(name="convert_time"), FakeTool(name="denied"))
    answer = await client.post("jobs", json=CLOCK | call)
    assert answer.status_code == 404
    assert said in answer.text


async def test_a_name_that_is_taken_is_a_conflict_and_put_replaces(client: httpx2.AsyncClient) -> None:
    await client.post("jobs", json=CLOCK)
    assert (await client.post("jobs", json=CLOCK)).status_code == 409
    replaced = await client.put("jobs/clock", json=CLOCK | {"retries": 2})
    assert replaced.json()["retries"] == 2
    assert (await client.put("jobs/other", json=CLOCK)).status_code == 400


async def test_a_job_of_the_configuration_is_changed_there(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    job = (await client.post("jobs", json=CLOCK)).json()
    await client.delete("jobs/clock")
    from sexton.scheduler import from_document

    keys = {key: job[key] for key in ("name", "schedule", "action", "timezone")}
    await bench.scheduling.scheduler.replace_config_jobs([from_document(keys)])
    assert (await client.delete("jobs/clock")).status_code == 409
    assert "sexton.toml" in (await client.put("jobs/clock", json=CLOCK)).text
    assert (await client.post("jobs/clock/pause")).status_code == 200


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"limit": "9999999999"}, {"state": "dancing"}])
async def test_a_query_that_cannot_be_meant_is_refused(client: httpx2.AsyncClient, query: dict[str, str]) -> None:
    assert (await client.get("runs", params=query)).status_code == 400


# Servers, processes, status


async def test_the_state_of_servers_and_processes_is_told(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    assert [server["name"] for server in (await client.get("servers")).json()] == ["notes", "time"]
    assert [tool["name"] for tool in (await client.get("servers/time/tools")).json()] == [
        "get_current_time",
        "convert_time",
    ]
    assert (await client.post("servers/time/check")).json()["ok"] is True
    assert (await client.post("servers/time/restart")).json()["name"] == "time"
    assert bench.pool.restarted == ["time"]
    processes = (await client.get("processes")).json()
    assert processes["trees"][0]["holders"] == ["run:0194"]
    assert processes["trees"][0]["age"] == 125.0
    status = (await client.get("status")).json()
    assert (status["servers"], status["boundary"]) == ({"running": 1, "broken": 1}, "cgroup")


async def test_the_calls_of_a_run_are_kept_and_told(bench_of_calls: httpx2.AsyncClient) -> None:
    client = bench_of_calls
    run = (await client.get("runs")).json()[0]["id"]
    record = (await client.get(f"runs/{run}")).json()
    first, second, *_ = record["calls"]
    assert (first["number"], first["server"], first["tool"], first["state"]) == (1, "time", "now", "ok")
    assert (second["arguments"], second["text"]) == ({"password": "•••", "zone": "a•••"}, "it is •••")
    assert len(record["calls"]) == 100
    rest = (await client.get(f"runs/{run}/calls", params={"after": 998})).json()
    assert [call["number"] for call in rest] == [999, 1000]
    assert len((await client.get(f"runs/{run}/calls", params={"limit": 3})).json()) == 3
    assert rest[0]["arguments"] == {"left_out": 20_012}
    assert (await client.get(f"runs/{run}/log")).json()[0]["text"] == "with •••"
    assert record["output"] == "done with •••"
    assert (await client.get("runs/nope/calls")).status_code == 404
    assert (await client.get(f"runs/{run}/calls", params={"after": "x"})).status_code == 400


@pytest.fixture
async def bench_of_calls(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A run that made 1,003 calls and knows a secret."""

    async def perform(context: RunContext) -> Outcome:
        context.log("with hunter2hunter2")
        context.record_call("time", "now", {}, state=CallState.OK, text="noon", seconds=0.5)
        arguments: dict[str, Any] = {"password": "short", "zone": "ahunter2hunter2"}
        context.record_call("time", "now", arguments, state=CallState.OK, text="it is hunter2hunter2", seconds=0.5)
        for _ in range(1001):
            context.record_call("time", "big", {"text": "x" * 20_000}, state=CallState.ERROR, text="no", seconds=0.1)
        return Outcome(output="done with hunter2hunter2")

    redactor = Redactor(["hunter2hunter2"])
    async with (
        gateway_bench(tmp_path, perform=perform, redactor=redactor) as bench,
        client_of(bench.gateway) as client,
    ):
        await client.post("jobs", json=CLOCK)
        await client.post("jobs/clock/run")
        await bench.clock.advance(0)
        yield client


async def test_reaping_spares_what_is_in_use_unless_told(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    dry = (await client.post("reap", json={"dry_run": True})).json()
    assert [tree["id"] for tree in dry["would_end"]] == ["t-0"]
    everything = await client.post("reap", json={"dry_run": True, "include_active": True})
    assert [tree["id"] for tree in everything.json()["would_end"]] == ["t-0", "t-1"]
    assert bench.containment.sweeps == []
    await client.post("reap", json={})
    assert (await client.post("reap", json={"include_active": True})).json()["ended"] == ["t-1"]
    assert bench.containment.sweeps == [False, True]


def test_every_route_stands_once_in_the_table() -> None:
    routes = [(endpoint.method, endpoint.path) for endpoint in ENDPOINTS]
    assert len(routes) == len(set(routes))


# What pages ask for


async def test_a_schedule_is_tried_on_without_a_job(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    tried = {"cron": "0 7 * * mon", "timezone": "Europe/Amsterdam", "count": "2"}
    assert (await client.get("schedules/next", params=tried)).json() == {
        "times": ["2026-11-02T06:00:00+00:00", "2026-11-09T06:00:00+00:00"]
    }
    assert len((await client.get("schedules/next", params={"every": "90"})).json()["times"]) == 5
    assert (await client.get("schedules/next")).json() == {"times": []}
    for wrong in ({"every": "soon"}, {"every": "0"}, {"cron": "never"}, {"at": "noon"}, tried | {"every": "5"}):
        assert (await client.get("schedules/next", params=wrong)).status_code == 400, wrong
    assert (await client.get("jobs")).json() == []


async def test_runs_are_counted_by_job_and_state(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    await client.post("jobs", json=CLOCK | {"schedule": None})
    made = (await client.post("jobs/clock/run")).json()["created_at"]
    await settle()
    assert (await client.get("runs/counts")).json() == [{"job": "clock", "state": "ran", "runs": 1, "slots": 1}]
    assert len((await client.get("runs", params={"since": made})).json()) == 1
    await bench.clock.advance(60)
    later = bench.clock.now().isoformat()
    assert (await client.get("runs", params={"since": later})).json() == []
    assert (await client.get("runs/counts", params={"since": later})).json() == []
    assert (await client.get("runs", params={"since": "2026-11-01T12:00:00"})).status_code == 400


async def test_past_events_are_found_by_kind_subject_and_text(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    for number in range(3):
        bench.gateway.journal.append("server.note", subject="time", text=f"Number {number}")
    bench.gateway.journal.append("run.note", subject="clock")
    found = (await client.get("journal", params={"kind": "server.", "subject": "time"})).json()
    assert [event["data"]["text"] for event in found] == ["Number 2", "Number 1", "Number 0"]
    assert [event["id"] for event in (await client.get("journal", params={"text": "number 1"})).json()] == [
        found[1]["id"]
    ]
    older = (await client.get("journal", params={"kind": "server.", "before": found[0]["id"], "limit": 1})).json()
    assert [event["id"] for event in older] == [found[1]["id"]]


async def test_what_trees_used_is_kept_for_a_while(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    bench.gateway.memory.record(bench.containment.trees(), now=bench.clock.now())
    (series,) = (await client.get("processes/memory", params={"name": "time"})).json()
    assert series["samples"] == [[bench.clock.now().isoformat(), 81_000_000]]
    assert (await client.get("processes/memory", params={"name": "notes"})).json() == []
