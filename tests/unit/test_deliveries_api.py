"""Deliveries over the API and by the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import httpx2
import pytest

from cli_bench import Served, serving
from delivering import FakeTarget
from fake_clock import settle
from gateway_bench import GatewayBench, client_of, gateway_bench
from sexton.cli.main import run
from sexton.gateway.deliveries import SendFailed


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path) as bench:
        bench.gateway.deliveries.add_target("chat", FakeTarget(answers=[SendFailed("no such room")]))
        yield bench


@pytest.fixture
async def client(bench: GatewayBench) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(bench.gateway) as client:
        yield client


@pytest.mark.anyio
async def test_a_message_by_the_api(client: httpx2.AsyncClient, bench: GatewayBench) -> None:
    made = await client.post("deliveries", json={"target": "chat:me", "text": "x" * 3000, "title": "t", "key": "k"})
    assert made.status_code == 201, made.text
    again = await client.post("deliveries", json={"target": "chat:me", "text": "other", "key": "k"})
    assert again.json()["id"] == made.json()["id"]
    shown = (await client.get(f"deliveries/{made.json()['id']}")).json()
    assert (shown["state"], shown["characters"], len(shown["text"])) == ("waiting", 3000, 2000)
    assert (await client.get(f"deliveries/{shown['id']}/text")).text == "x" * 3000
    listed = (await client.get("deliveries", params={"state": "waiting", "target": "chat"})).json()
    assert [one["id"] for one in listed] == [shown["id"]]
    assert (await client.get("deliveries", params={"target": "cha"})).json() == []
    cancelled = (await client.post(f"deliveries/{shown['id']}/cancel")).json()
    assert (cancelled["state"], cancelled["next_attempt"]) == ("cancelled", None)
    assert (await client.post(f"deliveries/{shown['id']}/retry")).json()["state"] == "waiting"


@pytest.mark.anyio
async def test_wrong_requests(client: httpx2.AsyncClient) -> None:
    assert (await client.get("deliveries/99")).status_code == 404
    assert (await client.get("deliveries/x")).status_code == 400
    assert (await client.get("deliveries", params={"state": "lost"})).status_code == 400
    answer = await client.post("deliveries", json={"target": "chta", "text": "x"})
    assert (answer.status_code, answer.json()["hint"]) == (400, "did you mean 'chat'?")
    job = {"name": "brief", "action": {"kind": "command", "argv": ["true"]}, "deliver": ["nowhere"]}
    answer = await client.post("jobs", json=job)
    assert (answer.status_code, answer.json()["detail"]) == (400, "There is no target 'nowhere' to deliver to.")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("SEXTON_DATA", str(tmp_path))
    monkeypatch.delenv("SEXTON_CONFIG", raising=False)
    with serving(tmp_path) as served:
        served.portal.call(served.bench.gateway.deliveries.add_target, "chat", FakeTarget())
        yield served


def test_by_the_command_line(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    def sexton(*arguments: str) -> str:
        assert run(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert sexton("deliveries") == "No deliveries yet.\n"
    assert "It is delivery 1." in sexton("deliveries", "send", "chat:me", "hello\nthere", "--title", "news")
    listing = sexton("deliveries", "list", "--state", "waiting").splitlines()
    assert listing[0].split() == ["ID", "TARGET", "STATE", "WHEN", "ABOUT"]
    assert listing[1].split()[:3] == ["1", "chat:me", "waiting"]
    assert listing[1].endswith("news: hello (+1 line)")
    shown = sexton("deliveries", "show", "1")
    assert "1 to chat:me" in shown
    assert "hello\nthere" in shown
    assert sexton("deliveries", "show", "1", "--text") == "hello\nthere\n"
    assert sexton("deliveries", "cancel", "1") == "1 is cancelled.\n"
    assert sexton("deliveries", "retry", "1") == "1 is tried again.\n"
    assert json.loads(sexton("deliveries", "--json"))[0]["state"] == "waiting"
    served.portal.call(_send_all, served.bench)
    assert "1 was sent already" in sexton("deliveries", "retry", "1")
    sexton("jobs", "add", "brief", "--command", "--deliver", "chat:me", "--deliver-on", "failure", "--", "true")
    assert "tells" in (said := sexton("jobs", "show", "brief"))
    assert "chat:me, if it failed" in said
    assert run(["deliveries", "show", "99"]) == 2


async def _send_all(bench: GatewayBench) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.gateway.deliveries.run)
        await settle()
        tasks.cancel_scope.cancel()
