"""The API on a real socket: its address file, event streams, clients that go away, and its end."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from fake_clock import wait_until
from gateway_bench import GatewayBench, gateway_bench
from sexton.errors import SextonError
from sexton.gateway import Address, read_address, write_address
from sexton.gateway.http import Listening, load_token, serve_http
from sexton.gateway.http.server import reserved_port, start_listening
from waiting import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path) as bench:
        yield bench


def client(url: str, folder: Path) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {load_token(folder)}"}
    return httpx2.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=PATIENCE)


async def test_the_address_is_published_while_it_serves_and_no_longer(bench: GatewayBench, tmp_path: Path) -> None:
    async with serve_http(bench.gateway, data_dir=tmp_path) as url:
        address = read_address(tmp_path)
        assert address is not None
        assert (address.url, address.pid, address.is_alive()) == (url, os.getpid(), True)
        assert (tmp_path / "gateway.json").stat().st_mode & 0o777 == 0o600
        async with client(url, tmp_path) as http:
            assert (await http.get("status")).json()["pid"] == os.getpid()
    assert not (tmp_path / "gateway.json").exists()
    with pytest.raises(OSError):  # noqa: PT011 anyio has its own words for "connection refused"
        await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))


async def test_an_address_that_a_crash_left_behind_is_known_for_what_it_is(tmp_path: Path) -> None:
    mine = Address.of_this_process("http://127.0.0.1:1", started_at=datetime.now(UTC))
    for stale in (
        replace(mine, start_ticks=mine.start_ticks + 1),
        replace(mine, boot_id="another"),
        replace(mine, pid=2**22 + 1),
    ):
        assert mine.is_alive()
        assert not stale.is_alive()
        write_address(tmp_path, stale)
        assert read_address(tmp_path) == stale
    for junk in ("", "{", "[]", '{"url": 1}', '{"url": "x", "pid": "y"}'):
        (tmp_path / "gateway.json").write_text(junk)
        assert read_address(tmp_path) is None


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head() -> None:
    """Head and body are sent one after the other; by Nagle's algorithm the second waited for 40 ms."""
    with (
        start_listening(reserved_port("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.recv(1) == b""


async def test_a_port_that_is_taken_is_told_and_nothing_is_left(bench: GatewayBench, tmp_path: Path) -> None:
    with start_listening(reserved_port("127.0.0.1", 0)) as taken, pytest.raises(SextonError, match="cannot listen on"):
        reserved_port("127.0.0.1", taken.getsockname()[1])
    with reserved_port("127.0.0.1", 0) as first, reserved_port("127.0.0.1", first.getsockname()[1]) as second:
        start_listening(first)
        with pytest.raises(SextonError, match="cannot listen on"):
            start_listening(second)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SextonError, match=r"cannot listen on .* port"):
        async with serve_http(bench.gateway, data_dir=tmp_path, listening=Listening(port=taken.getsockname()[1])):
            pass
    assert read_address(tmp_path) is None


async def read_events(answer: httpx2.Response, count: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    with anyio.fail_after(PATIENCE):
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
            if len(events) == count:
                break
    return events


async def test_a_stream_goes_on_where_the_last_one_broke_off(bench: GatewayBench, tmp_path: Path) -> None:
    journal = bench.scheduling.journal
    async with serve_http(bench.gateway, data_dir=tmp_path) as url, client(url, tmp_path) as http:
        first = journal.append("server.started", subject="time", pid=1)
        async with http.stream("GET", "events", params={"after": first.id - 1}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert [event["id"] for event in await read_events(answer, 1)] == [first.id]
        missed = [journal.append("server.shared", subject="time", text=f"line\n{number}") for number in range(3)]
        async with http.stream("GET", "events", headers={"last-event-id": str(first.id)}) as answer:
            resumed = await read_events(answer, 3)
            assert [event["id"] for event in resumed] == [event.id for event in missed]
            assert resumed[0]["data"]["text"] == "line\n0"
            live = journal.append("server.retired", subject="time")
        async with http.stream("GET", "events", params={"after": first.id, "kind": "server.ret"}) as answer:
            assert [event["id"] for event in await read_events(answer, 1)] == [live.id]
        async with http.stream("GET", "events", headers={"last-event-id": "9" * 30}) as answer:
            assert [event["id"] for event in await read_events(answer, 1)] == [1]
        assert (await http.get("events", params={"after": "yesterday"})).status_code == 400


async def test_an_open_stream_does_not_hold_up_the_end(bench: GatewayBench, tmp_path: Path) -> None:
    """The stream ends cleanly, well before the time that a running request would get."""
    stream_is_open, lines = anyio.Event(), []

    async def follow(url: str) -> None:
        async with client(url, tmp_path) as http, http.stream("GET", "events") as answer:
            stream_is_open.set()
            lines.extend([line async for line in answer.aiter_lines()])

    with anyio.fail_after(PATIENCE):
        async with (
            anyio.create_task_group() as tasks,
            serve_http(bench.gateway, data_dir=tmp_path, patience=10 * PATIENCE) as url,
        ):
            tasks.start_soon(follow, url)
            await stream_is_open.wait()
    assert "retry: 1000" in lines


async def test_a_call_without_end_is_cancelled_when_the_server_ends(bench: GatewayBench, tmp_path: Path) -> None:
    answers: list[httpx2.Response] = []

    async def call(url: str) -> None:
        async with client(url, tmp_path) as http:
            answers.append(await http.post("calls", json={"server": "time", "tool": "wait"}))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            async with serve_http(bench.gateway, data_dir=tmp_path, patience=0.1) as url:
                tasks.start_soon(call, url)
                await bench.pool.call_began.wait()
            assert bench.pool.call_cancelled.is_set()
    assert bench.pool.holders == []
    assert [answer.status_code for answer in answers] == [503]


async def test_the_end_of_a_clients_connection_cancels_its_call(bench: GatewayBench, tmp_path: Path) -> None:
    async with serve_http(bench.gateway, data_dir=tmp_path) as url:
        async with anyio.create_task_group() as tasks, client(url, tmp_path) as http:
            tasks.start_soon(lambda: http.post("calls", json={"server": "time", "tool": "wait"}, timeout=None))
            with anyio.fail_after(PATIENCE):
                await bench.pool.call_began.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE):
            await bench.pool.call_cancelled.wait()
        await wait_until(lambda: not bench.pool.holders)


async def test_a_raw_client_cannot_smuggle_or_stall_others(bench: GatewayBench, tmp_path: Path) -> None:
    """Two Host headers, a Content-Length that lies, a half request that never ends: others are still answered."""
    async with serve_http(bench.gateway, data_dir=tmp_path) as url, client(url, tmp_path) as http:
        port = int(url.rpartition(":")[2])
        token = load_token(tmp_path)
        half = await anyio.connect_tcp("127.0.0.1", port)
        await half.send(b"POST /api/v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        answers = []
        for head in (
            f"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nAuthorization: Bearer {token}",
            f"GET /api/v1/status HTTP/1.0\r\nAuthorization: Bearer {token}",
            f"POST /api/v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\nAuthorization: Bearer {token}",
        ):
            async with await anyio.connect_tcp("127.0.0.1", port) as raw:
                await raw.send(f"{head}\r\n\r\n".encode())
                with anyio.fail_after(PATIENCE):
                    answers.append((await raw.receive()).split(b"\r\n")[0].split(b" ")[1])
        assert set(answers) <= {b"400", b"421"}, answers
        assert (await http.get("status")).status_code == 200
        await half.aclose()
