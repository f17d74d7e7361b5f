"""Who may call the API: a caller with the token, from this machine, who is not a web page of somebody else.

Three gates, in this order, before any route is looked up:

1. `Host` names this machine.  A web page whose own name was re-pointed at
   127.0.0.1 (DNS rebinding) still sends its own name here.
2. `Origin`, which browsers send and programs do not, is this very server.
3. `Authorization: Bearer …` is the token in the data folder, compared in
   constant time.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sexton.errors import SextonError
from sexton.gateway.address import TOKEN_FILE, write_private
from sexton.gateway.http.problem import Problem

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


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
    """Decides about one request from its headers alone (pure)."""

    token: str
    host_names: frozenset[str] = frozenset(LOOPBACK_NAMES)

    def refusal(self, headers: Headers) -> Problem | None:
        """Why this request is refused, or None if it may pass."""
        return self._wrong_host(headers) or self._foreign_origin(headers) or self._wrong_token(headers)

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

    def _wrong_token(self, headers: Headers) -> Problem | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return _unauthorized("This server needs its token and the request has none.")
        if not hmac.compare_digest(token.strip().encode(), self.token.encode()):
            return _unauthorized("The token in the request is not this server's.")
        return None


def _unauthorized(what: str) -> Problem:
    return Problem(
        status=401,
        kind="unauthorized",
        what=what,
        hint=f"send `Authorization: Bearer TOKEN` with the content of the file {TOKEN_FILE!r} in the data folder",
        headers={"www-authenticate": 'Bearer realm="sexton"'},
    )


def _host_name(host: str) -> str | None:
    """The name in a Host header without its port; None if it is not one."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class Guard:
    """ASGI middleware that lets only what its gate admits reach the application."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._gate.refusal(Headers(scope=scope))):
            await problem.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)
