"""What the gateway tells of itself: its description, its health, its figures, the logs of its servers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway_bench import GatewayBench, client_of, gateway_bench
from sexton.database import DatabaseError, Failure
from sexton.gateway.http import load_token, serve_http
from sexton.gateway.http.app import ENDPOINTS
from sexton.gateway.http.openapi import openapi_document
from sexton.gateway.http.server_log import last_lines, news_of
from sexton.redaction import Redactor
from waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anyio
ROOT = "http://127.0.0.1:7390"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path, redactor=Redactor(["hunter2hunter2"])) as bench:
        yield bench


@pytest.fixture
async def client(bench: GatewayBench) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(bench.gateway) as client:
        yield client


# The description


async def test_the_description_is_served_and_names_every_route(client: httpx2.AsyncClient) -> None:
    served = (await client.get("openapi.json")).json()
    assert served["openapi"].startswith("3.1")
    operations = [(method.upper(), path) for path, methods in served["paths"].items() for method in methods]
    assert sorted(operations) == sorted((endpoint.method, endpoint.full_path) for endpoint in ENDPOINTS)


def test_every_operation_says_what_it_does_and_who_may() -> None:
    document = openapi_document(ENDPOINTS)
    names = []
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"], operation["operationId"]
            assert operation["x-sexton-scope"] in {"read", "run", "admin", None}
            names.append(operation["operationId"])
    assert len(names) == len(set(names))


def test_what_is_asked_for_has_the_shape_that_is_checked() -> None:
    schemas = openapi_document(ENDPOINTS)["components"]["schemas"]
    assert schemas["JobRequest"]["additionalProperties"] is False
    assert set(schemas["JobRequest"]["required"]) == {"name", "action"}
    assert {"id", "state", "output"} <= set(schemas["Run"]["required"])
    assert schemas["Job"]["properties"]["last_run"]["anyOf"][0] == {"$ref": "#/components/schemas/Run"}


async def test_the_reference_page_has_every_route_and_shape_and_no_loose_end(client: httpx2.AsyncClient) -> None:
    answer = await client.get("reference")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    document = openapi_document(ENDPOINTS)
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in answer.text
    targets = set(re.findall(r'id="([^"]+)"', answer.text))
    assert set(document["components"]["schemas"]) <= targets
    assert set(re.findall(r'href="#([^"]+)"', answer.text)) <= targets
    assert "<script" not in answer.text
    assert "style=" not in answer.text


# Health


async def test_health_needs_no_token_and_tells_a_stranger_nothing(bench: GatewayBench) -> None:
    async with client_of(bench.gateway, headers={}) as stranger:
        assert (await stranger.get(f"{ROOT}/healthz")).json() == {"alive": True}
        answer = await stranger.get(f"{ROOT}/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "troubles": []})
        assert (await stranger.get(f"{ROOT}/readyz", headers={"authorization": "Bearer wrong"})).status_code == 401


async def test_a_database_that_is_away_is_named(
    bench: GatewayBench, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise DatabaseError(Failure.LOCKED, "The database hunter2hunter2 is away.", hint="look")

    monkeypatch.setattr(type(bench.scheduling.scheduler), "runs", away)
    known = await client.get(f"{ROOT}/readyz")
    assert (known.status_code, known.json()["ready"]) == (503, False)
    assert known.json()["troubles"] == [{"part": "database", "what": "The database ••• is away."}]
    async with client_of(bench.gateway, headers={}) as stranger:
        assert (await stranger.get(f"{ROOT}/readyz")).json()["troubles"] == [{"part": "database", "what": None}]
        assert (await stranger.get(f"{ROOT}/healthz")).status_code == 200


async def test_a_gateway_that_stops_is_not_ready(bench: GatewayBench, client: httpx2.AsyncClient) -> None:
    bench.gateway.closing.set()
    answer = await client.get(f"{ROOT}/readyz")
    assert (answer.status_code, answer.json()["troubles"][0]["part"]) == (503, "gateway")


# Figures


async def figures(client: httpx2.AsyncClient) -> dict[tuple[str, ...], float]:
    answer = await client.get(f"{ROOT}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=1.0.0")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_the_figures_count_what_happened(bench: GatewayBench, client: httpx2.AsyncClient) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(bench.gateway.metrics.follow, bench.scheduling.journal)
        job = {"name": "clock", "action": {"kind": "call", "server": "time", "tool": "now"}}
        await client.post("jobs", json=job)
        await client.post("jobs/clock/run")
        await bench.clock.advance(0)
        await client.post("calls", json={"server": "time", "tool": "fail"})
        for state in ("ok", "error", "failed"):
            bench.gateway.metrics.observe_call("time", state, 0.1)
        journal = bench.scheduling.journal
        journal.append("server.started", subject="time", seconds=0.2)
        journal.append("server.died", subject="time")
        journal.append("server.gone", subject="time")
        journal.append("containment.swept", subject="containment", count=3)
        journal.append("containment.recovered", subject="containment", trees=["a", "b"])
        journal.append("run.missed", subject="clock", state="missed", count=40)
        await bench.clock.advance(0)
        found = await figures(client)
        tasks.cancel_scope.cancel()
    assert found["sexton_runs_total", "clock", "ran"] == 1
    assert found["sexton_runs_total", "clock", "missed"] == 40
    assert found["sexton_run_seconds_count", "clock"] == 1
    assert found["sexton_tool_calls_total", "time", "ok"] == 1
    assert found["sexton_tool_calls_total", "time", "error"] == 1
    assert found["sexton_tool_calls_total", "time", "failed"] == 1
    assert found["sexton_tool_call_seconds_count", "time"] == 3
    assert found["sexton_http_requests_total", "call_tool", "502"] == 1
    assert found["sexton_server_starts_total", "time"] == 1
    assert found["sexton_server_failures_total", "time"] == 1
    assert found["sexton_server_ends_total", "time"] == 1
    assert found["sexton_reaped_trees_total",] == 5
    assert found["sexton_server_state", "time", "running"] == 1
    assert found["sexton_server_memory_bytes", "time"] == 81_000_000
    assert found["sexton_trees", "running"] == 1
    assert found["sexton_jobs",] == 1
    assert found["sexton_runs_running",] == 0


# Servers


async def test_a_server_is_stopped_at_once(bench: GatewayBench, client: httpx2.AsyncClient) -> None:
    assert (await client.post("servers/time/stop")).json()["name"] == "time"
    assert bench.pool.restarted == ["time at once"]
    assert (await client.post("servers/nope/stop")).status_code == 404


async def test_the_last_lines_of_a_servers_log(client: httpx2.AsyncClient, tmp_path: Path) -> None:
    assert (await client.get("servers/time/log")).text == ""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "time.log.1").write_text("1\n2\n")
    (logs / "time.log").write_text("3 hunter2hunter2\n4\n")
    assert (await client.get("servers/time/log")).text == "1\n2\n3 •••\n4\n"
    assert (await client.get("servers/time/log", params={"lines": 3})).text == "2\n3 •••\n4\n"
    assert (await client.get("servers/time/log", params={"lines": 0})).status_code == 400
    assert (await client.get("servers/..%2F..%2Ftoken/log")).status_code == 404


def test_a_log_is_followed_over_its_rotation_and_a_torn_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "time.log"
    path.write_text("old\n")
    _, place = last_lines(path, 10)
    with path.open("a") as file:
        file.write("one\nhal")
    text, place = news_of(path, place)
    assert text == "one\n"
    with path.open("a") as file:
        file.write("f\n")
    path.replace(tmp_path / "time.log.1")
    path.write_text("two\n")
    text, place = news_of(path, place)
    assert text == "half\ntwo\n"
    assert news_of(path, place) == ("", place)
    path.unlink()
    assert news_of(path, place) == ("", place)


def test_a_log_that_is_not_there_yet_is_followed_from_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "time.log"
    text, place = last_lines(path, 10)
    assert text == ""
    path.write_text("first\n")
    assert news_of(path, place)[0] == "first\n"


async def test_a_followed_log_goes_on_until_the_server_ends(bench: GatewayBench, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "time.log").write_text("before\n")
    lines: list[str] = []

    async def follow(url: str) -> None:
        headers = {"authorization": f"Bearer {load_token(tmp_path)}"}
        async with (
            httpx2.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE) as http,
            http.stream("GET", "/api/v1/servers/time/log", params={"follow": "true"}) as answer,
        ):
            async for line in answer.aiter_lines():
                lines.append(line)  # noqa: PERF401 seen as they come

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks, serve_http(bench.gateway, data_dir=tmp_path) as url:
            tasks.start_soon(follow, url)
            await wait_until(lambda: lines == ["before"])
            with (logs / "time.log").open("a") as file:
                file.write("after\n")
            await wait_until(lambda: lines == ["before", "after"])
