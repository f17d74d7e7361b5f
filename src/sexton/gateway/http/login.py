"""How a browser logs in and out: a link that works once, made by whoever has a token."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sexton.gateway.documents import LoginLinkDocument
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.audit import about, audit
from sexton.gateway.http.auth import LOGIN_PATH, cookie_name
from sexton.gateway.http.body import RequestBody, read_body
from sexton.gateway.http.caller import caller_of
from sexton.gateway.http.logins import LINK_SECONDS
from sexton.gateway.http.pages import link_spent, logged_in
from sexton.gateway.http.parts import Gateway


class NoOptions(RequestBody):
    """`{}`, or nothing."""


async def make_login_link(gateway: Gateway, request: Request) -> Response:
    """A link that logs one browser in, once, as the caller; `path` is to be put behind the gateway's address."""
    await read_body(request, NoOptions)
    about(request, caller_of(request).name)
    code = gateway.logins.make_code(caller_of(request))
    return json_response(LoginLinkDocument(path=login_path(code), seconds=LINK_SECONDS), status=201)


def login_path(code: str) -> str:
    return f"{LOGIN_PATH}?code={code}"


def login_route(gateway: Gateway) -> Route:
    async def log_in(request: Request) -> Response:
        secret = gateway.logins.log_in(request.query_params.get("code", ""))
        session = gateway.logins.session(secret) if secret else None
        if secret is None or session is None:
            return link_spent()
        audit(gateway, "log_in", session.caller, subject=session.caller.name, outcome="done")
        answer = logged_in("/")
        answer.set_cookie(
            cookie_name(request.scope),
            secret,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path="/",
        )
        return answer

    return Route(LOGIN_PATH, log_in, methods=["GET"], include_in_schema=False)


async def log_out(gateway: Gateway, request: Request) -> Response:
    """End the session of the browser that asks; of a program, none."""
    name = cookie_name(request.scope)
    if secret := request.cookies.get(name):
        gateway.logins.log_out(secret)
    answer = Response(status_code=204)
    answer.delete_cookie(name, path="/", httponly=True, samesite="strict")
    return answer
