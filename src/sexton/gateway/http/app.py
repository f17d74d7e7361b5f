"""Every route in one table."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sexton.errors import SextonError
from sexton.gateway.http import calls, event_stream, jobs, processes, runs, servers, status
from sexton.gateway.http.auth import Gate, Guard
from sexton.gateway.http.body import RequestBody
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import answer_defect, answer_http_exception, answer_sexton_error

PREFIX = "/api/v1"

Handler: TypeAlias = Callable[[Gateway, Request], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One route: `handler` answers with a document (then `code` is the status) or with a whole response."""

    method: str
    path: str
    handler: Handler
    body: type[RequestBody] | None = None
    code: int = 200


def _get(path: str, handler: Handler) -> Endpoint:
    return Endpoint(method="GET", path=path, handler=handler)


def _post(path: str, handler: Handler, body: type[RequestBody] | None = None, *, code: int = 200) -> Endpoint:
    return Endpoint(method="POST", path=path, handler=handler, body=body, code=code)


ENDPOINTS = (
    _get("/status", status.show_status),
    _get("/events", event_stream.stream_events),
    _get("/servers", servers.list_servers),
    _get("/servers/{server}/tools", servers.list_tools),
    _post("/servers/{server}/check", servers.check_server),
    _post("/servers/{server}/restart", servers.restart_server),
    _post("/calls", calls.call_tool, calls.CallRequest),
    _get("/jobs", jobs.list_jobs),
    _post("/jobs", jobs.add_job, jobs.JobRequest, code=201),
    _get("/jobs/{job}", jobs.show_job),
    Endpoint(method="PUT", path="/jobs/{job}", handler=jobs.replace_job, body=jobs.JobRequest),
    Endpoint(method="DELETE", path="/jobs/{job}", handler=jobs.remove_job),
    _post("/jobs/{job}/pause", jobs.pause_job),
    _post("/jobs/{job}/resume", jobs.resume_job),
    _post("/jobs/{job}/run", jobs.run_job, code=202),
    _get("/jobs/{job}/next", jobs.next_times),
    _get("/runs", runs.list_runs),
    _get("/runs/{run}", runs.show_run),
    _get("/runs/{run}/output", runs.show_output),
    _post("/runs/{run}/cancel", runs.cancel_run),
    _get("/processes", processes.list_processes),
    _post("/reap", processes.reap, processes.ReapRequest),
    _get("/doctor", processes.doctor),
)


def create_app(gateway: Gateway, *, gate: Gate) -> Starlette:
    """The whole application, with the gate before every route, known or not."""
    return Starlette(
        routes=[_route(gateway, endpoint) for endpoint in ENDPOINTS],
        middleware=[Middleware(Guard, gate=gate)],
        exception_handlers={
            SextonError: answer_sexton_error,
            HTTPException: answer_http_exception,
            Exception: answer_defect,
        },
    )


def _route(gateway: Gateway, endpoint: Endpoint) -> Route:
    async def answer(request: Request) -> Response:
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
