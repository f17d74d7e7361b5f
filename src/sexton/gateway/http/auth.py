"""Who may come in: a caller who proves who they are, by our own name, and is not a web page of somebody else.

The gates, in this order, before any route is looked up:

1. `Host` names this machine.  A web page whose own name was re-pointed at
   127.0.0.1 (DNS rebinding) still sends its own name here.
2. `Origin`, which browsers send and programs do not, is this very server.
3. The caller: `Authorization: Bearer …` is the token in the data folder or one
   that `sexton token` made; or the session cookie of a browser that was
   logged in by a link.  Secrets are compared in constant time.
4. A change that is asked for by cookie carries the session's CSRF token.
5. The caller has the scope, and is not confined to something else.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from sexton.clock import Clock
from sexton.errors import SextonError
from sexton.gateway.address import TOKEN_FILE, write_private
from sexton.gateway.http.caller import OWNER, Caller, Scope
from sexton.gateway.http.endpoint import WayIn
from sexton.gateway.http.limits import Buckets, HttpLimits, Places, TooMany, bounded, too_large, too_many
from sexton.gateway.http.listening import LOOPBACK_NAMES
from sexton.gateway.http.logins import Logins, Session
from sexton.gateway.http.open_requests import OpenRequests
from sexton.gateway.http.pages import login_needed
from sexton.gateway.http.parts import Keyring
from sexton.gateway.http.problem import Problem, answer_edge, problem_of

CSRF_HEADER = "x-csrf-token"
_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
LOGIN_PATH = "/login"
_HEALTH = frozenset({"/healthz", "/readyz"})
_PUBLIC_FOLDER = "/static/"
_FOR_PROGRAMS = ("/api/", "/mcp", "/v1/", "/metrics")


def load_token(data_dir: Path) -> str:
    """The API's token: made once, 256 bits, in a file that only its user can read.

    Raises `SextonError` if the file exists and others can read it, or it is not ours to read.
    """
    path = data_dir / TOKEN_FILE
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _make_token(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SextonError(
            f"The token file {path} cannot be read: {error}.", hint=f"remove {path} and start again"
        ) from error
    if not token:
        return _make_token(path)
    if (mode := path.stat().st_mode & 0o777) & 0o077:
        raise SextonError(
            f"The token file {path} can be read by other users (mode {mode:04o}), so it protects nothing.",
            hint=f"remove {path} (a new token is made at the next start)",
        )
    return token


def _make_token(path: Path) -> str:
    token = secrets.token_urlsafe(32)
    write_private(path, token + "\n")
    return token


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The local owner's token, and the names under which this server may be asked (pure)."""

    token: str
    host_names: frozenset[str] = frozenset(LOOPBACK_NAMES)

    def refusal(self, headers: Headers) -> Problem | None:
        """Why a request is refused whoever makes it, or None if it may go on."""
        return self._wrong_host(headers) or self._foreign_origin(headers)

    def is_owner(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def _wrong_host(self, headers: Headers) -> Problem | None:
        hosts = headers.getlist("host")
        if len(hosts) == 1 and _host_name(hosts[0]) in self.host_names:
            return None
        said = ", ".join(repr(host) for host in hosts) or "nothing"
        return Problem(
            status=421,
            kind="wrong-host",
            what=f"This server answers only to its own names; the Host header says {said}.",
            hint=f"use http://{min(self.host_names)}:PORT",
        )

    def _foreign_origin(self, headers: Headers) -> Problem | None:
        origins = headers.getlist("origin")
        own = {f"http://{headers['host']}", f"https://{headers['host']}"}
        if all(origin in own for origin in origins):
            return None
        return Problem(
            status=403, kind="foreign-origin", what=f"A page from {', '.join(origins)!r} may not use this server."
        )


@final
class Guard:
    """ASGI middleware that lets only known callers reach the application and the other ways in, and says who it is.

    A request that passed has `request.state.caller` and `request.state.csrf_token` (empty but for a cookie).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: Gate,
        logins: Logins,
        keyring: Keyring | None,
        ways: Sequence[WayIn],
        limits: HttpLimits,
        clock: Clock,
        open_requests: OpenRequests,
    ) -> None:
        self._app = app
        self._open = open_requests
        self._limits = limits
        self._requests = Buckets(clock, rate=limits.rate, burst=limits.burst)
        self._failures = Buckets(clock, rate=limits.failures, burst=limits.failures_burst)
        self._places = Places(limits.at_once)
        self._gate = gate
        self._logins = logins
        self._keyring = keyring
        self._ways = tuple(ways)

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        if connection["type"] != "http":
            await self._app(connection, receive, send)
            return
        headers = Headers(scope=connection)
        if problem := self._gate.refusal(headers):
            await self._refusal(connection, problem)(connection, receive, send)
            return
        try:
            app = await self._admit(connection, headers)
        except SextonError as error:
            problem = self._slowed_down(connection, problem_of(error))
            if _is_a_browsers(connection, headers, problem):
                await login_needed(problem)(connection, receive, send)
            else:
                await self._refusal(connection, problem)(connection, receive, send)
            return
        try:
            caller: Caller | None = connection["state"].get("caller")
            with self._places.one(_limited(caller)):
                if caller is None or caller.token is None:
                    await self._answer(app, connection, receive, send)
                else:
                    await self._answer_while_valid(caller.token, app, connection, receive, send)
        except TooMany as problem:
            await self._refusal(connection, problem)(connection, receive, send)

    def _refusal(self, connection: Connection, problem: Problem) -> Response:
        """In the form of the way in that was asked."""
        for way in self._ways:
            if way.takes(connection["path"]):
                return way.refuse(problem)
        return problem.response()

    async def _answer(self, app: ASGIApp, connection: Connection, receive: Receive, send: Send) -> None:
        limit = self._body_limit(connection["path"])
        within = bounded(receive, limit=limit, seconds=self._limits.body_seconds)
        if app is self._app:
            await app(connection, within, send)
        else:
            await _at_the_edge(app, connection, within, send)

    async def _answer_while_valid(
        self, token: str, app: ASGIApp, connection: Connection, receive: Receive, send: Send
    ) -> None:
        """End the answer when the token is revoked, or has expired."""
        answer = _Begun(send)
        with self._open.one(token) as scope:
            await self._answer(app, connection, receive, answer)
        if scope.cancelled_caught:
            problem = _unauthorized("The token in the request is no longer valid.")
            await answer.end(self._refusal(connection, problem), connection, receive)

    def _slowed_down(self, connection: Connection, problem: Problem) -> Problem:
        """Who tries tokens is told to wait; one that is right is still let in."""
        if problem.status != 401:
            return problem
        client = connection.get("client")
        wait = self._failures.take(client[0] if client else "")
        return too_many(wait) if wait else problem

    async def _admit(self, connection: Connection, headers: Headers) -> ASGIApp:
        """The application that is to answer.  Raises `Problem`."""
        path: str = connection["path"]
        connection.setdefault("state", {})
        if path == LOGIN_PATH or path.startswith(_PUBLIC_FOLDER):
            return self._app
        if path in _HEALTH and "authorization" not in headers:
            return self._app
        caller, session = await self._identify(connection, headers)
        self._check_limits(caller, headers, limit=self._body_limit(path))
        connection["state"]["caller"] = caller
        connection["state"]["csrf_token"] = session.csrf_token if session else ""
        if session is not None and connection["method"] not in _HARMLESS:
            _require_csrf_token(session, headers)
        for way in self._ways:
            if way.takes(path):
                _require(caller, way.scope, for_profiles=way.for_profiles)
                connection["root_path"] = connection.get("root_path", "") + way.path
                return way.app
        _require(caller, Scope.READ)
        return self._app

    async def _identify(self, connection: Connection, headers: Headers) -> tuple[Caller, Session | None]:
        if said := headers.get("authorization"):
            return await self._bearer(said), None
        secret = _cookie(headers, cookie_name(connection))
        session = self._logins.session(secret) if secret else None
        if session is None:
            raise _unauthorized("This server needs a token and the request has none.")
        if not await self._is_still_valid(session.caller.token):
            raise _unauthorized("The token by which this browser was logged in is no longer valid.")
        return session.caller, session

    async def _is_still_valid(self, token: str | None) -> bool:
        return token is None or self._keyring is None or await self._keyring.caller_of_id(token) is not None

    def _body_limit(self, path: str) -> int:
        way = next((way for way in self._ways if way.takes(path)), None)
        return self._limits.body if way is None or way.max_body is None else way.max_body

    def _check_limits(self, caller: Caller, headers: Headers, *, limit: int) -> None:
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large(limit)
        if (key := _limited(caller)) is not None and (wait := self._requests.take(key)):
            raise too_many(wait)

    async def _bearer(self, said: str) -> Caller:
        scheme, _, token = said.partition(" ")
        if scheme.lower() != "bearer" or not (token := token.strip()):
            raise _unauthorized("This server needs a token, as `Authorization: Bearer TOKEN`.")
        if self._gate.is_owner(token):
            return OWNER
        caller = await self._keyring.caller(token) if self._keyring else None
        if caller is None:
            raise _unauthorized("The token in the request is not one of this server's, or no longer.")
        return caller


@final
class _Begun:
    """Sends, and knows how far an answer has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last: Message | None = None

    async def __call__(self, message: Message) -> None:
        self._last = message
        await self._send(message)

    async def end(self, refusal: Response, connection: Connection, receive: Receive) -> None:
        """Refuse if nothing was said yet; else say no more, as far as HTTP allows that."""
        if self._last is None:
            await refusal(connection, receive, self._send)
        elif self._last["type"] == "http.response.start" or self._last.get("more_body"):
            with suppress(RuntimeError):  # the answer had promised a length: its connection is closed
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _limited(caller: Caller | None) -> str | None:
    """The key by which a caller is counted; None for who is not: the local owner's own token, and strangers, who get
    nothing that lasts."""
    return None if caller is None or caller is OWNER else f"{caller.token or caller.name}:{caller.way}"


async def _at_the_edge(app: ASGIApp, connection: Connection, receive: Receive, send: Send) -> None:
    """An application beside ours: what it lets through becomes a problem, as long as it has not begun to answer."""
    has_begun = False

    async def watched(message: Message) -> None:
        nonlocal has_begun
        has_begun = True
        await send(message)

    try:
        await app(connection, receive, watched)
    except Exception as error:  # noqa: BLE001 the outermost edge of a request; `answer_edge` logs it
        answer = answer_edge(connection, error)
        if not has_begun:
            await answer(connection, receive, send)


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raise `Problem` 403 if the caller may not do what needs `scope`."""
    if not caller.may(scope):
        raise Problem(
            status=403,
            kind="scope",
            what=f"This needs the scope '{scope}', and {caller.name!r} has: {', '.join(sorted(caller.scopes))}.",
            hint=f"make a token that may: sexton token create NAME --scope {scope}",
            more={"needed": str(scope)},
        )


def cookie_name(connection: Connection) -> str:
    """The session's cookie.  Cookies do not tell ports apart, and there may be a gateway on each (RFC 6265, 8.5)."""
    server = connection.get("server")
    return f"sexton_{server[1] if server else 0}"


def _require(caller: Caller, scope: Scope, *, for_profiles: bool = False) -> None:
    if caller.profiles is not None and not for_profiles:
        raise Problem(
            status=403,
            kind="confined",
            what=f"The token {caller.name!r} is only for the MCP endpoint, with the profiles: "
            f"{', '.join(sorted(caller.profiles))}.",
        )
    require_scope(caller, scope)


def _require_csrf_token(session: Session, headers: Headers) -> None:
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Problem(status=403, kind="foreign-origin", what="Another site's page may not change anything here.")
    if not session.has_csrf_token(headers.get(CSRF_HEADER, "")):
        raise Problem(
            status=403,
            kind="csrf",
            what="A change that a browser asks for needs its session's CSRF token, and it is missing or wrong.",
            hint="load the page again; programs use a token instead of the cookie",
        )


def _unauthorized(what: str) -> Problem:
    return Problem(
        status=401,
        kind="unauthorized",
        what=what,
        hint=f"send `Authorization: Bearer TOKEN` with the content of the file {TOKEN_FILE!r} in the data folder, "
        "or with one that `sexton token create` printed; in a browser: sexton open",
        headers={"www-authenticate": 'Bearer realm="sexton"'},
    )


def _is_a_browsers(connection: Connection, headers: Headers, problem: Problem) -> bool:
    return (
        problem.status == 401
        and "text/html" in headers.get("accept", "")
        and not connection["path"].startswith(_FOR_PROGRAMS)
    )


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie("; ".join(headers.getlist("cookie"))).get(name)
    except CookieError:
        return None
    return found.value if found else None


def _host_name(host: str) -> str | None:
    """The name in a Host header without its port; None if it is not one."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
