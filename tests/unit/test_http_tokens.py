"""Tokens for others, the limits on what they may ask, and the audit of what they changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.responses import PlainTextResponse

from fake_clock import FakeClock
from gateway_bench import HEADERS, TOKEN, GatewayBench, client_of, gateway_bench
from sexton.gateway.http import Gate, HttpLimits, Logins, Scope, Tokens, WayIn, create_app
from sexton.gateway.http.limits import Buckets, Places, TooMany
from sexton.gateway.http.open_requests import WATCH_EVERY
from sexton.gateway.http.tokens import REMEMBERED
from sexton.redaction import Redactor
from waiting import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_database")]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path, redactor=Redactor(["hunter2hunter2"])) as bench:
        yield bench


@pytest.fixture
async def owner(bench: GatewayBench) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(bench.gateway) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def make(owner: httpx2.AsyncClient, name: str, **more: Any) -> str:
    answer = await owner.post("tokens", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


async def test_a_token_opens_what_its_scope_says_until_it_is_revoked(
    bench: GatewayBench, owner: httpx2.AsyncClient
) -> None:
    token = await make(owner, "editor", scope="run")
    async with client_of(bench.gateway, headers=bearer(token)) as editor:
        assert (await editor.get("status")).status_code == 200
        assert (await editor.post("calls", json={"server": "time", "tool": "now"})).status_code == 200
        assert (await editor.get("tokens")).status_code == 403
        assert (await editor.post("tokens", json={"name": "mine", "scope": "admin"})).status_code == 403
        revoked = await owner.delete("tokens/editor")
        assert (revoked.json()["valid"], revoked.json()["revoked_at"] is None) == (False, False)
        assert (await editor.get("status")).status_code == 401
    assert (await owner.delete("tokens/editor")).status_code == 404
    [listed] = (await owner.get("tokens")).json()
    assert (listed["name"], listed["scopes"], listed["valid"]) == ("editor", ["read", "run"], False)
    assert listed["last_used_at"] is not None
    assert token not in str(listed)


async def test_a_token_expires(bench: GatewayBench, owner: httpx2.AsyncClient) -> None:
    token = await make(owner, "guest", lasts=60)
    async with client_of(bench.gateway, headers=bearer(token)) as guest:
        assert (await guest.get("status")).status_code == 200
        await bench.clock.advance(59)
        assert (await guest.get("status")).status_code == 200
        await bench.clock.advance(1)
        assert (await guest.get("status")).status_code == 401


async def test_the_database_has_the_hash_and_not_the_token(
    bench: GatewayBench, owner: httpx2.AsyncClient, tmp_path: Path
) -> None:
    token = await make(owner, "editor")
    secret = token.rpartition("_")[2]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert secret.encode() not in kept
    assert all(secret not in str(event.data) for event in bench.scheduling.journal.since(0))


async def test_half_a_token_and_somebody_elses_secret_are_nothing(
    bench: GatewayBench, owner: httpx2.AsyncClient
) -> None:
    first, second = await make(owner, "one"), await make(owner, "two")
    for wrong in (first[:-1], first[:12] + second[12:], first.upper(), f"{first}x", "sxt_", "sxt_aaaaaaaa_" + "x" * 43):
        async with client_of(bench.gateway, headers=bearer(wrong)) as client:
            assert (await client.get("status")).status_code == 401, wrong


async def test_a_token_that_another_gateway_revoked_is_refused_soon(
    bench: GatewayBench, owner: httpx2.AsyncClient
) -> None:
    token = await make(owner, "editor")
    async with client_of(bench.gateway, headers=bearer(token)) as editor:
        assert (await editor.get("status")).status_code == 200
        assert (await editor.get("status")).status_code == 200
        elsewhere = Tokens(bench.scheduling.database, clock=bench.clock, logins=Logins(bench.clock))
        await elsewhere.revoke("editor")
        await bench.clock.advance(REMEMBERED + 0.1)
        assert (await editor.get("status")).status_code == 401


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "/name"),
        ({"name": "a b"}, "no usable name"),
        ({"name": "owner"}, "not 'owner'"),
        ({"name": "a", "scope": "root"}, "/scope"),
        ({"name": "a", "profiles": []}, "/profiles"),
        ({"name": "a", "lasts": 0}, "/lasts"),
        ({"name": "a", "lasts": 1e300}, "/lasts"),
        ({"name": "a", "scopes": ["run"]}, "did you mean 'scope'"),
    ],
)
async def test_a_token_that_is_asked_for_wrongly(owner: httpx2.AsyncClient, body: Any, said: str) -> None:
    answer = await owner.post("tokens", json=body)
    assert answer.status_code == 400
    assert said in answer.text


async def test_names_are_free_again_after_revoking(owner: httpx2.AsyncClient) -> None:
    await make(owner, "editor")
    assert (await owner.post("tokens", json={"name": "editor"})).status_code == 409
    await owner.delete("tokens/editor")
    await make(owner, "editor")


async def test_a_revoked_token_ends_its_browsers(bench: GatewayBench, owner: httpx2.AsyncClient) -> None:
    token = await make(owner, "editor")
    async with client_of(bench.gateway, headers=bearer(token)) as editor, client_of(bench.gateway, headers={}) as page:
        link = (await editor.post("login-links")).json()["path"]
        spare = (await editor.post("login-links")).json()["path"]
        assert (await page.get(f"http://127.0.0.1:7390{link}")).status_code == 200
        assert (await page.get("status")).status_code == 200
        await owner.delete("tokens/editor")
        assert (await page.get("status")).status_code == 401
        assert (await page.get(f"http://127.0.0.1:7390{spare}")).status_code == 401


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing, for ever."""
    await anyio.sleep_forever()


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    """Begins an answer that has no end."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"news", "more_body": True})
    await anyio.sleep_forever()


@pytest.mark.parametrize(("way", "answered"), [(silent, (401, b"")), (streaming, (200, b"news"))])
@pytest.mark.parametrize("why", ["revoked here", "revoked by another gateway", "expired"])
async def test_an_answer_that_lasts_ends_with_the_token_behind_it(
    bench: GatewayBench, owner: httpx2.AsyncClient, why: str, way: Any, answered: tuple[int, bytes]
) -> None:
    token = await make(owner, "editor", scope="run", lasts=600)
    other = await make(owner, "other", scope="run")
    app = create_app(bench.gateway, gate=Gate(token=TOKEN), ways=[WayIn(path="/way", app=way, scope=Scope.RUN)])
    gateway, keyring = bench.gateway, bench.gateway.keyring
    assert keyring is not None
    ended: dict[str, httpx2.Response] = {}

    async def ask(said: str) -> None:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7390") as client:
            ended[said] = await client.get("/way", headers=bearer(said), timeout=None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(gateway.open_requests.keep_watch, keyring.caller_of_id, clock=bench.clock))
        for said in (token, other, TOKEN):
            tasks.start_soon(ask, said)
        await bench.clock.advance(REMEMBERED + WATCH_EVERY)
        assert ended == {}
        match why:
            case "revoked here":
                await owner.delete("tokens/editor")
            case "revoked by another gateway":
                tokens = Tokens(bench.scheduling.database, clock=bench.clock, logins=Logins())
                await tokens.revoke("editor")
            case "expired":
                await bench.clock.advance(600)
        with anyio.fail_after(PATIENCE):
            while not ended:
                await bench.clock.advance(WATCH_EVERY)
        assert list(ended) == [token]
        answer = ended[token]
        assert (answer.status_code, answer.content if answer.status_code == 200 else b"") == answered
        tasks.cancel_scope.cancel()


async def test_a_token_is_made_only_for_profiles_that_there_are(bench: GatewayBench) -> None:
    bench.gateway = replace(bench.gateway, profiles=lambda: {"coding": 1, "notes": 2})
    async with client_of(bench.gateway) as owner:
        assert await make(owner, "good", scope="run", profiles=["coding", "notes"])
        for wrong, hint in (("codin", "did you mean 'coding'?"), ("zzz", "those of sexton.toml are: coding, notes")):
            answer = await owner.post("tokens", json={"name": "bad", "profiles": ["notes", wrong]})
            assert (answer.status_code, answer.json()["hint"]) == (400, hint)
            assert answer.json()["detail"] == f"There is no profile {wrong!r}."
        assert [token["name"] for token in (await owner.get("tokens")).json()] == ["good"]


# Limits


def limited(bench: GatewayBench, **limits: Any) -> None:
    bench.gateway = replace(bench.gateway, limits=HttpLimits(**limits))


async def test_a_caller_who_asks_too_often_is_told_to_wait(bench: GatewayBench, owner: httpx2.AsyncClient) -> None:
    token, other = await make(owner, "busy"), await make(owner, "calm")
    limited(bench, rate=2, burst=3)
    app = create_app(bench.gateway, gate=Gate(token=TOKEN))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1:7390/api/v1"
    ) as client:
        answers = [await client.get("status", headers=bearer(token)) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].headers["retry-after"] == "1"
        assert (await client.get("status", headers=bearer(other))).status_code == 200
        for _ in range(10):
            assert (await client.get("status", headers=HEADERS)).status_code == 200
        await bench.clock.advance(0.5)
        assert (await client.get("status", headers=bearer(token))).status_code == 200
        assert (await client.get("status", headers=bearer(token))).status_code == 429


async def test_who_tries_tokens_is_slowed_down_and_who_has_one_is_not(bench: GatewayBench) -> None:
    limited(bench, failures=1, failures_burst=3)
    app = create_app(bench.gateway, gate=Gate(token=TOKEN))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1:7390/api/v1"
    ) as client:
        tried = [(await client.get("status", headers=bearer(f"guess-{n}"))).status_code for n in range(5)]
        assert tried == [401, 401, 401, 429, 429]
        assert (await client.get("status", headers=HEADERS)).status_code == 200


async def test_a_caller_has_only_so_many_answers_under_way(bench: GatewayBench, owner: httpx2.AsyncClient) -> None:
    """Force the order: two calls hang before the third comes; when one has ended there is a place again."""
    token = await make(owner, "busy", scope="run")
    limited(bench, at_once=2)
    async with client_of(bench.gateway, headers=bearer(token)) as busy, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: busy.post("calls", json={"server": "time", "tool": "wait"}))
        await anyio.wait_all_tasks_blocked()
        assert len(bench.pool.calls) == 2
        refused = await busy.get("status")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        tasks.cancel_scope.cancel()
    async with client_of(bench.gateway, headers=bearer(token)) as busy:
        assert (await busy.get("status")).status_code == 200


def test_places_are_given_back_whatever_happens() -> None:
    places = Places(1)
    for _ in range(3):
        with suppress(ZeroDivisionError), places.one("a"):
            raise ZeroDivisionError
    with places.one("a"), places.one("b"), places.one(None), pytest.raises(TooMany), places.one("a"):
        pass


def test_a_bucket_fills_up_to_its_burst_and_tells_how_long_to_wait() -> None:
    clock = FakeClock()
    buckets = Buckets(clock, rate=0.5, burst=2)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 2.0]
    assert buckets.take("b") == 0


@pytest.mark.parametrize("declares", [True, False])
async def test_a_body_is_bounded_whoever_reads_it(bench: GatewayBench, declares: bool) -> None:
    limited(bench, body=1000)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with client_of(bench.gateway) as client:
        answer = await client.post("calls", content=b" " * 2000 if declares else endless())
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert bench.pool.calls == []


async def test_a_way_in_has_a_limit_of_its_own_which_it_need_not_know(bench: GatewayBench) -> None:
    limited(bench, body=1000)

    async def read_all(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await PlainTextResponse(str(size))(scope, receive, send)

    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b" " * 100

    ways = [WayIn(path="/mcp", app=read_all, scope=Scope.RUN, max_body=2000)]
    app = create_app(bench.gateway, gate=Gate(token=TOKEN), ways=ways)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=HEADERS) as client:
        assert (await client.post("/mcp", content=chunks(20))).text == "2000"
        assert (await client.post("/mcp", content=chunks(21))).status_code == 413
        assert (await client.post("/mcp", content=b" " * 2001)).status_code == 413


async def test_a_body_that_never_ends_is_given_up(bench: GatewayBench) -> None:
    limited(bench, body_seconds=0.05)
    app = create_app(bench.gateway, gate=Gate(token=TOKEN))
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b'{"server"', "more_body": True}])

    async def receive() -> Any:
        message = next(messages, None)
        if message is None:
            await anyio.sleep_forever()
        return message

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"authorization", HEADERS["authorization"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/calls", "headers": headers, "query_string": b""}
    with anyio.fail_after(PATIENCE):
        await app(scope, receive, send)
    assert sent[0]["status"] == 408


# Audit


async def test_every_change_leaves_a_line_with_who_and_what_and_how(
    bench: GatewayBench, owner: httpx2.AsyncClient
) -> None:
    token = await make(owner, "editor", scope="run")
    async with client_of(bench.gateway, headers=bearer(token)) as editor:
        await editor.post("calls", json={"server": "time", "tool": "now"})
        await editor.post("calls", json={"server": "time", "tool": "fail"})
        await editor.post("servers/time/restart")
        await editor.get("jobs")
        await editor.post("calls", content=b"{")
    lines = [event for event in bench.scheduling.journal.since(0) if event.kind.startswith("audit.")]
    told = [(line.kind, line.subject, line.data["caller"], line.data["outcome"]) for line in lines]
    assert told == [
        ("audit.create_token", "editor", "owner", "done"),
        ("audit.call_tool", "time.now", "editor", "done"),
        ("audit.call_tool", "time.fail", "editor", "failed"),
        ("audit.restart_server", "time", "editor", "refused"),
        ("audit.call_tool", "gateway", "editor", "refused"),
    ]
    assert "scope 'admin'" in str(lines[3].data["why"])
    assert lines[3].data["way"] == "token"


# Secrets


async def test_no_answer_holds_a_secret_that_we_know(bench: GatewayBench, owner: httpx2.AsyncClient) -> None:
    notes = replace(bench.pool.servers[1], last_error='it said "hunter2hunter2" and Bearer abcdefghijklmnopqrstuvwx')
    bench.pool.servers[1] = notes
    answer = await owner.get("servers")
    assert "hunter2hunter2" not in answer.text
    assert "•••" in answer.json()[0]["last_error"]
    wrong = await owner.get("servers/hunter2hunter2/tools")
    assert (wrong.status_code, "hunter2" in wrong.text) == (404, False)
