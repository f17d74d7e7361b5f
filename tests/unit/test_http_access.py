"""Getting in: by token, by a browser's cookie, and everything that must not get in."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fake_clock import FakeClock
from gateway_bench import TOKEN, GatewayBench, gateway_bench
from sexton.gateway.http import Caller, Gate, WayIn, caller_of, create_app
from sexton.gateway.http import Scope as May
from sexton.gateway.http.app import ENDPOINTS
from sexton.gateway.http.caller import OWNER, scopes_up_to
from sexton.gateway.http.logins import LINK_SECONDS, MAX_SESSIONS, SESSION_SECONDS, Logins

pytestmark = pytest.mark.anyio
ORIGIN = "http://127.0.0.1:7390"


class FakeKeyring:
    """Tokens `read`, `run` and `admin` of that scope, and `confined` to one MCP profile."""

    async def caller(self, token: str) -> Caller | None:
        if token == "confined":
            return Caller(name=token, scopes=scopes_up_to([May.RUN]), profiles=frozenset({"notes"}), token=token)
        if token in list(May):
            return Caller(name=token, scopes=scopes_up_to([May(token)]), token=token)
        return None

    async def caller_of_id(self, token_id: str) -> Caller | None:
        return await self.caller(token_id)


async def show_caller(scope: Scope, receive: Receive, send: Send) -> None:
    caller = caller_of(Request(scope))
    await JSONResponse({"name": caller.name, "path": scope["path"], "root": scope["root_path"]})(scope, receive, send)


async def page(request: Request) -> Response:
    return JSONResponse({"csrf": request.state.csrf_token, "way": caller_of(request).way})


async def style(_: Request) -> Response:
    return Response("x {}", media_type="text/css", headers={"content-security-policy": "default-src *"})


WAYS = (
    WayIn(path="/mcp", app=show_caller, scope=May.RUN, for_profiles=True),
    WayIn(path="/v1", app=show_caller, scope=May.RUN),
)
PAGES = (Route("/", page), Route("/static/app.css", style))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[GatewayBench]:
    async with gateway_bench(tmp_path) as bench:
        bench.gateway = replace(bench.gateway, keyring=FakeKeyring())
        yield bench


@asynccontextmanager
async def caller(bench: GatewayBench, token: str | None = None, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(bench.gateway, gate=Gate(token=TOKEN), ways=WAYS, pages=PAGES)
    given = headers | ({"authorization": f"Bearer {token}"} if token else {})
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url=ORIGIN, headers=given) as client:
        yield client


@asynccontextmanager
async def browser(bench: GatewayBench, token: str = TOKEN) -> AsyncIterator[httpx2.AsyncClient]:
    """Logged in by a link, as a person does."""
    async with caller(bench, token) as program:
        link = (await program.post("/api/v1/login-links")).json()
    async with caller(bench) as client:
        answer = await client.get(link["path"])
        assert answer.status_code == 200, answer.text
        yield client


# Scopes


def path_of(path: str) -> str:
    return re.sub(r"\{\w+\}", "nothing", path)


@pytest.mark.parametrize("token", list(May))
async def test_a_token_opens_the_routes_of_its_scopes_and_no_others(bench: GatewayBench, token: str) -> None:
    held = scopes_up_to([May(token)])
    async with caller(bench, token) as client:
        for endpoint in ENDPOINTS:
            if endpoint.path == "/events" or endpoint.scope is None or endpoint.scope in held:
                continue
            answer = await client.request(endpoint.method, path_of(endpoint.full_path), content=b"{}")
            assert answer.status_code == 403, endpoint
            assert answer.json()["type"] == "urn:sexton:problem:scope"
            assert answer.json()["needed"] == endpoint.scope
        assert (await client.get("/api/v1/status")).status_code == 200
        assert (await client.get("/mcp")).status_code == (403 if token == "read" else 200)


def test_a_scope_contains_the_lesser_ones() -> None:
    assert scopes_up_to([May.RUN]) == {May.READ, May.RUN}
    assert scopes_up_to([May.ADMIN]) == set(May)
    assert scopes_up_to([]) == set()


def test_whatever_changes_something_needs_more_than_reading() -> None:
    harmless = {"/login-links", "/logout"}  # a link gives no more than its maker has
    assert all(e.scope is not May.READ for e in ENDPOINTS if e.method != "GET" and e.path not in harmless)


async def test_a_confined_token_reaches_the_endpoint_and_nothing_else(bench: GatewayBench) -> None:
    async with caller(bench, "confined") as client:
        answer = await client.post("/mcp/profile/notes")
        assert answer.json() == {"name": "confined", "path": "/mcp/profile/notes", "root": "/mcp"}
        for path in ("/api/v1/status", "/api/v1/nowhere", "/v1/models", "/", "/mcpx"):
            assert (await client.get(path)).status_code == 403, path
        made = await client.post("/api/v1/login-links")
        assert made.status_code == 403


# Browsers


async def test_a_link_logs_in_one_browser_once(bench: GatewayBench) -> None:
    async with caller(bench, TOKEN) as program:
        path = (await program.post("/api/v1/login-links")).json()["path"]
    async with caller(bench) as client, caller(bench) as thief:
        answer = await client.get(path)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("sexton_7390=")
        assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
        assert (await thief.get(path)).status_code == 401
        assert (await thief.get("/")).status_code == 401
        assert (await thief.get("/login", params={"code": ""})).status_code == 401
        page = (await client.get("/")).json()
        assert page["way"] == "cookie"
        assert len(page["csrf"]) >= 40
        assert (await client.get("/api/v1/status")).status_code == 200


async def test_a_link_gives_no_more_than_its_maker_has(bench: GatewayBench) -> None:
    async with browser(bench, "read") as client:
        csrf = (await client.get("/")).json()["csrf"]
        answer = await client.post("/api/v1/calls", json={}, headers={"x-csrf-token": csrf})
        assert answer.json()["type"] == "urn:sexton:problem:scope"


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({}, 403, "csrf"),
        ({"x-csrf-token": "wrong"}, 403, "csrf"),
        ({"x-csrf-token": "ünsinn"}, 403, "csrf"),
        ({"x-csrf-token": "TRUE", "origin": "http://evil.example"}, 403, "foreign-origin"),
        ({"x-csrf-token": "TRUE", "origin": "http://127.0.0.1:1"}, 403, "foreign-origin"),
        ({"x-csrf-token": "TRUE", "sec-fetch-site": "same-site"}, 403, "foreign-origin"),
        ({"x-csrf-token": "TRUE", "host": "evil.example"}, 421, "wrong-host"),
        ({"x-csrf-token": "TRUE", "origin": ORIGIN, "sec-fetch-site": "same-origin"}, 200, ""),
    ],
)
async def test_a_cookie_changes_nothing_without_its_csrf_token(
    bench: GatewayBench, headers: dict[str, str], status: int, kind: str
) -> None:
    async with browser(bench) as client:
        csrf = (await client.get("/")).json()["csrf"]
        sent = {name: value.replace("TRUE", csrf).encode() for name, value in headers.items()}
        raw: Any = [(name.encode(), value) for name, value in sent.items()]
        answer = await client.post("/api/v1/calls", json={"server": "time", "tool": "now"}, headers=raw)
        assert answer.status_code == status, answer.text
        assert not kind or answer.json()["type"] == f"urn:sexton:problem:{kind}"
        assert len(bench.pool.calls) == (status == 200)


async def test_another_browsers_csrf_token_is_no_use(bench: GatewayBench) -> None:
    async with browser(bench) as client, browser(bench) as other:
        theirs = (await other.get("/")).json()["csrf"]
        answer = await client.post("/api/v1/logout", headers={"x-csrf-token": theirs})
        assert answer.status_code == 403


async def test_a_browser_that_logged_out_is_out(bench: GatewayBench) -> None:
    async with browser(bench) as client:
        csrf = (await client.get("/")).json()["csrf"]
        cookies = dict(client.cookies)
        assert (await client.post("/api/v1/logout", headers={"x-csrf-token": csrf})).status_code == 204
        async with caller(bench, cookie="; ".join(f"{name}={value}" for name, value in cookies.items())) as again:
            assert (await again.get("/")).status_code == 401


async def test_a_browser_that_is_not_logged_in_is_told_how_in_a_page(bench: GatewayBench) -> None:
    async with caller(bench, accept="text/html,*/*") as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert "sexton open" in answer.text
        assert (await client.get("/api/v1/status")).headers["content-type"] == "application/problem+json"
        assert (await client.get("/static/app.css")).status_code == 200


async def test_links_and_sessions_end() -> None:
    clock = FakeClock()
    logins = Logins(clock)
    late = logins.make_code(OWNER)
    await clock.advance(LINK_SECONDS + 1)
    assert logins.log_in(late) is None
    secret = logins.log_in(logins.make_code(OWNER))
    assert secret is not None
    await clock.advance(SESSION_SECONDS - 1)
    assert logins.session(secret) is not None
    await clock.advance(SESSION_SECONDS - 1)
    assert logins.session(secret) is not None
    await clock.advance(SESSION_SECONDS + 1)
    assert logins.session(secret) is None


def test_sessions_are_bounded_and_the_oldest_goes() -> None:
    logins = Logins(FakeClock())
    made = [logins.log_in(logins.make_code(OWNER)) or "" for _ in range(MAX_SESSIONS)]
    assert logins.session(made[0]) is not None  # used just now
    logins.log_in(logins.make_code(OWNER))
    assert logins.session(made[0]) is not None
    assert logins.session(made[1]) is None


def test_a_revoked_token_takes_its_browsers_with_it() -> None:
    logins = Logins(FakeClock())
    theirs, ours = (replace(OWNER, token="t1"), OWNER)
    link, session, other = (
        logins.make_code(theirs),
        logins.log_in(logins.make_code(theirs)) or "",
        logins.log_in(logins.make_code(ours)) or "",
    )
    logins.end_of_token("t1")
    assert logins.log_in(link) is None
    assert logins.session(session) is None
    assert logins.session(other) is not None


# Headers


async def test_every_answer_says_what_a_browser_may_do_with_it(bench: GatewayBench) -> None:
    async with caller(bench, TOKEN) as client:
        for answer in (
            await client.get("/api/v1/status"),
            await client.get("/api/v1/nowhere"),
            await client.get("/static/app.css"),
            await client.get("/mcp"),
            await client.get("/", headers={"host": "evil.example"}),
            await client.get("/login"),
            await client.post("/api/v1/calls", json={"server": "time", "tool": "bug"}),
        ):
            policy = answer.headers.get_list("content-security-policy")
            assert len(policy) == 1, answer.request.url
            assert "default-src 'self'" in policy[0]
            assert "unsafe" not in policy[0]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
