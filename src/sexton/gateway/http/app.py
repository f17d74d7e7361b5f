"""Every route in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from sexton.errors import SextonError
from sexton.gateway.deliveries import DeliveryState
from sexton.gateway.http import calls, deliveries, event_stream, jobs, login, processes, runs, servers, status
from sexton.gateway.http.auth import Gate, Guard, require_scope
from sexton.gateway.http.body import RequestBody
from sexton.gateway.http.caller import Scope, caller_of
from sexton.gateway.http.endpoint import Endpoint, Handler, Query, WayIn
from sexton.gateway.http.headers import SafeHeaders
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import answer_defect, answer_http_exception, answer_sexton_error
from sexton.scheduler import RunState

PREFIX = "/api/v1"


def _get(path: str, handler: Handler, *query: Query, media: str = "application/json") -> Endpoint:
    return Endpoint(method="GET", path=path, handler=handler, scope=Scope.READ, query=query, media=media)


def _count(name: str, about: str, *, default: int, most: int) -> Query:
    return Query(name=name, about=about, shape={"type": "integer", "minimum": 1, "maximum": most, "default": default})


def _post(
    path: str, handler: Handler, body: type[RequestBody] | None = None, *, scope: Scope, code: int = 200
) -> Endpoint:
    return Endpoint(method="POST", path=path, handler=handler, scope=scope, body=body, code=code)


ENDPOINTS = (
    _get("/status", status.show_status),
    _get(
        "/events",
        event_stream.stream_events,
        Query(name="after", about="the id of the last event that is known; 0: all", shape={"type": "integer"}),
        Query(
            name="kind",
            about="only kinds that begin so; may be repeated",
            shape={"type": "array", "items": {"type": "string"}},
        ),
        Query(name="subject", about="only events of this job, server or tree"),
        media="text/event-stream",
    ),
    _get("/servers", servers.list_servers),
    _get("/servers/{server}/tools", servers.list_tools),
    _post("/servers/{server}/check", servers.check_server, scope=Scope.RUN),
    _post("/servers/{server}/restart", servers.restart_server, scope=Scope.ADMIN),
    _post("/calls", calls.call_tool, calls.CallRequest, scope=Scope.RUN),
    _get("/jobs", jobs.list_jobs),
    _post("/jobs", jobs.add_job, jobs.JobRequest, scope=Scope.ADMIN, code=201),
    _get("/jobs/{job}", jobs.show_job),
    Endpoint(method="PUT", path="/jobs/{job}", handler=jobs.replace_job, scope=Scope.ADMIN, body=jobs.JobRequest),
    Endpoint(method="DELETE", path="/jobs/{job}", handler=jobs.remove_job, scope=Scope.ADMIN),
    _post("/jobs/{job}/pause", jobs.pause_job, scope=Scope.ADMIN),
    _post("/jobs/{job}/resume", jobs.resume_job, scope=Scope.ADMIN),
    _post("/jobs/{job}/run", jobs.run_job, scope=Scope.RUN, code=202),
    _get("/jobs/{job}/next", jobs.next_times, _count("count", "how many times", default=5, most=jobs.MAX_NEXT)),
    _get(
        "/runs",
        runs.list_runs,
        Query(name="job", about="only the runs of this job"),
        Query(name="state", about="only runs in this state", shape={"type": "string", "enum": list(RunState)}),
        _count("limit", "how many at most", default=50, most=runs.MAX_LISTED),
        Query(name="before", about="the id of the last run that is known, to go on from there"),
    ),
    _get("/runs/{run}", runs.show_run),
    _get("/runs/{run}/output", runs.show_output, media="text/plain"),
    _get("/runs/{run}/log", runs.show_log),
    _get(
        "/runs/{run}/calls",
        runs.list_calls,
        Query(
            name="after",
            about="the number of the last call that is known",
            shape={"type": "integer", "minimum": 0, "default": 0},
        ),
        _count("limit", "how many at most", default=100, most=runs.MAX_CALLS),
    ),
    _post("/runs/{run}/cancel", runs.cancel_run, scope=Scope.RUN),
    _get(
        "/deliveries",
        deliveries.list_deliveries,
        Query(name="target", about="only those for this NAME or NAME:RECIPIENT"),
        Query(name="state", about="only those in this state", shape={"type": "string", "enum": list(DeliveryState)}),
        Query(name="job", about="only those about this job"),
        Query(name="run", about="only those about this run"),
        _count("limit", "how many at most", default=50, most=deliveries.MAX_LISTED),
        Query(name="before", about="the id of the last one that is known", shape={"type": "integer"}),
    ),
    _post("/deliveries", deliveries.send_message, deliveries.MessageRequest, scope=Scope.RUN, code=201),
    _get("/deliveries/{delivery}", deliveries.show_delivery),
    _get("/deliveries/{delivery}/text", deliveries.show_text, media="text/plain"),
    _post("/deliveries/{delivery}/retry", deliveries.retry_delivery, scope=Scope.RUN),
    _post("/deliveries/{delivery}/cancel", deliveries.cancel_delivery, scope=Scope.RUN),
    _get("/processes", processes.list_processes),
    _post("/reap", processes.reap, processes.ReapRequest, scope=Scope.ADMIN),
    _get("/doctor", processes.doctor),
    _post("/login-links", login.make_login_link, login.NoOptions, scope=Scope.READ, code=201),
    _post("/logout", login.log_out, scope=Scope.READ, code=204),
)


def create_app(
    gateway: Gateway,
    *,
    gate: Gate,
    ways: Sequence[WayIn] = (),
    endpoints: Sequence[Endpoint] = (),
    pages: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """The whole application, with the gate before every route, known or not.

    `ways` are applications beside the API, each below a path of its own (the MCP endpoint at `/mcp`, the
    OpenAI-compatible API at `/v1`); `endpoints` are further routes of the API; `pages` are the routes of the
    dashboard, which a caller needs the scope `read` for, but for what is below `/static/`.
    """
    app = Starlette(
        routes=[
            *(_route(gateway, endpoint) for endpoint in (*ENDPOINTS, *endpoints)),
            login.login_route(gateway.logins),
            *pages,
        ],
        exception_handlers={
            SextonError: answer_sexton_error,
            HTTPException: answer_http_exception,
            Exception: answer_defect,
        },
    )
    # Around Starlette and not within: its own outermost layer answers defects, and those answers pass here too.
    return SafeHeaders(Guard(app, gate=gate, logins=gateway.logins, keyring=gateway.keyring, ways=ways))


def _route(gateway: Gateway, endpoint: Endpoint) -> Route:
    async def answer(request: Request) -> Response:
        require_scope(caller_of(request), endpoint.scope)
        answer = await endpoint.handler(gateway, request)
        return answer if isinstance(answer, Response) else document_response(answer, status=endpoint.code)

    return Route(PREFIX + endpoint.path, answer, methods=[endpoint.method], name=endpoint.handler.__name__)


def document_response(document: Any, *, status: int = 200) -> Response:
    """A document as JSON.  Half a surrogate pair, which some servers send, must not spoil a whole answer."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_plain).encode("utf-8", "replace")
    return Response(body, status, {"cache-control": "no-store"}, media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} does not belong in a document")
