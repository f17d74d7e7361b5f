"""Every route in one table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from sexton.errors import SextonError
from sexton.gateway.deliveries import DeliveryState
from sexton.gateway.documents import LoginLinkDocument, NewTokenDocument, ReadinessDocument
from sexton.gateway.http import (
    calls,
    channels,
    conversations,
    deliveries,
    event_stream,
    health,
    jobs,
    login,
    metrics_route,
    nodes,
    openapi,
    processes,
    reference,
    runs,
    server_log,
    servers,
    status,
    token_routes,
)
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.audit import audit, subject_of
from sexton.gateway.http.auth import Gate, Guard, require_scope
from sexton.gateway.http.body import RequestBody, refuse_nul
from sexton.gateway.http.caller import Scope, caller_of
from sexton.gateway.http.endpoint import Endpoint, Handler, Query, WayIn
from sexton.gateway.http.headers import SafeHeaders
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import (
    answer_defect,
    answer_http_exception,
    answer_sexton_error,
    answer_shortage,
    problem_of,
)
from sexton.scheduler import RunState

_TIME = {"type": "string", "format": "date-time"}
_ID = {"type": "integer", "minimum": 1}

Answer: TypeAlias = Callable[[Request], Awaitable[Response]]


def _get(path: str, handler: Handler, *query: Query, media: str = "application/json") -> Endpoint:
    return Endpoint(method="GET", path=path, handler=handler, scope=Scope.READ, query=query, media=media)


def _count(name: str, about: str, *, default: int, most: int) -> Query:
    return Query(name=name, about=about, shape={"type": "integer", "minimum": 1, "maximum": most, "default": default})


def _post(
    path: str,
    handler: Handler,
    body: type[RequestBody] | None = None,
    *,
    scope: Scope,
    code: int = 200,
    answer: Any = None,
) -> Endpoint:
    return Endpoint(method="POST", path=path, handler=handler, scope=scope, body=body, code=code, answer=answer)


ENDPOINTS = (
    Endpoint(method="GET", path="/healthz", handler=health.show_health, scope=None, at_root=True),
    Endpoint(
        method="GET",
        path="/readyz",
        handler=health.show_readiness,
        scope=None,
        at_root=True,
        answer=ReadinessDocument,
        other_codes=(503,),
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        handler=metrics_route.show_metrics,
        scope=Scope.READ,
        at_root=True,
        media="text/plain",
    ),
    _get("/openapi.json", openapi.show_openapi),
    _get("/reference", reference.show_reference, media="text/html"),
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
        Query(name="unnamed", about="leave the events' names out, for the EventSource of a browser"),
        media="text/event-stream",
    ),
    _get(
        "/journal",
        event_stream.list_events,
        Query(
            name="kind",
            about="only kinds that begin so; may be repeated",
            shape={"type": "array", "items": {"type": "string"}},
        ),
        Query(name="subject", about="only events of this job, server or tree"),
        Query(name="text", about="only events with this text anywhere in them"),
        _count("limit", "how many at most", default=100, most=event_stream.MAX_LISTED),
        Query(name="before", about="the id of the last event that is known, to go on from there", shape=_ID),
    ),
    _get(
        "/journal/all",
        event_stream.list_node_events,
        Query(name="node", about="only events of this node"),
        Query(
            name="kind",
            about="only kinds that begin so; may be repeated",
            shape={"type": "array", "items": {"type": "string"}},
        ),
        Query(name="subject", about="only events of this job, server or tree"),
        Query(name="text", about="only events with this text in their subject or data"),
        Query(name="since", about="only events that happened then or later", shape=_TIME),
        _count("limit", "how many at most", default=100, most=event_stream.MAX_LISTED),
        Query(name="before", about="the id of the last event that is known, to go on from there", shape=_ID),
        Query(
            name="after",
            about="the id of the last event that is known: the first ones after it",
            shape={"type": "integer", "minimum": 0},
        ),
    ),
    _get("/servers", servers.list_servers),
    _get("/servers/{server}/tools", servers.list_tools),
    _get(
        "/servers/{server}/log",
        server_log.show_server_log,
        _count("lines", "how many of the last lines", default=200, most=server_log.MAX_LINES),
        Query(name="follow", about="go on with the lines that come", shape={"type": "boolean", "default": False}),
        media="text/plain",
    ),
    _post("/servers/{server}/check", servers.check_server, scope=Scope.RUN),
    _post("/servers/{server}/restart", servers.restart_server, scope=Scope.ADMIN),
    _post("/servers/{server}/stop", servers.stop_server, scope=Scope.ADMIN),
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
        Query(name="since", about="only runs that were made then or later", shape=_TIME),
    ),
    _get("/runs/counts", runs.count_runs, Query(name="since", about="from when; by default a day ago", shape=_TIME)),
    _get(
        "/schedules/next",
        jobs.try_schedule,
        Query(name="every", about="seconds", shape={"type": "number", "minimum": 1}),
        Query(name="cron", about="a cron expression"),
        Query(name="at", about="a time", shape=_TIME),
        Query(name="timezone", about="an IANA name", shape={"type": "string", "default": "UTC"}),
        _count("count", "how many times", default=5, most=jobs.MAX_NEXT),
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
    _post("/deliveries", deliveries.send_delivery, deliveries.MessageRequest, scope=Scope.RUN, code=201),
    _get("/deliveries/{delivery}", deliveries.show_delivery),
    _get("/deliveries/{delivery}/text", deliveries.show_text, media="text/plain"),
    _post("/deliveries/{delivery}/retry", deliveries.retry_delivery, scope=Scope.RUN),
    _post("/deliveries/{delivery}/cancel", deliveries.cancel_delivery, scope=Scope.RUN),
    _get(
        "/conversations",
        conversations.list_conversations,
        Query(name="way", about="only those of this way in: api, terminal, web, telegram, …"),
        _count("limit", "how many at most", default=50, most=conversations.MAX_LISTED),
        Query(name="before", about="the `changed_at` of the last one that is known, to go on from there"),
    ),
    _post(
        "/conversations",
        conversations.open_conversation,
        conversations.ConversationRequest,
        scope=Scope.RUN,
        code=201,
    ),
    _get(
        "/conversations/search",
        conversations.search_conversations,
        Query(name="q", about="the words"),
        _count("limit", "how many at most", default=50, most=conversations.MAX_LISTED),
    ),
    _get("/conversations/{conversation}", conversations.show_conversation),
    _get(
        "/conversations/{conversation}/export",
        conversations.export_conversation,
        Query(name="form", about="what it is", shape={"type": "string", "enum": ["json", "markdown"]}),
        media="text/markdown",
    ),
    _get("/conversations/{conversation}/events", conversations.stream_turns, media="text/event-stream"),
    Endpoint(
        method="DELETE",
        path="/conversations/{conversation}",
        handler=conversations.delete_conversation,
        scope=Scope.ADMIN,
        code=204,
    ),
    _post(
        "/conversations/{conversation}/messages",
        conversations.send_message,
        conversations.MessageRequest,
        scope=Scope.RUN,
        code=202,
    ),
    _post("/conversations/{conversation}/stop", conversations.stop_turn, scope=Scope.RUN),
    _post(
        "/conversations/{conversation}/retry",
        conversations.retry_message,
        conversations.RetryRequest,
        scope=Scope.RUN,
        code=202,
    ),
    _get(
        "/approvals",
        conversations.list_approvals,
        Query(name="all", about="also those that are answered"),
        _count("limit", "how many at most", default=50, most=conversations.MAX_LISTED),
    ),
    _post("/approvals/{approval}", conversations.answer_approval, conversations.AnswerRequest, scope=Scope.ADMIN),
    _get("/channels", channels.list_channels),
    _get("/channels/{channel}/people", channels.list_people),
    _post("/channels/{channel}/codes", channels.make_code, scope=Scope.ADMIN, code=201),
    _post("/channels/{channel}/approve", channels.approve_person, channels.WhoRequest, scope=Scope.ADMIN),
    _post("/channels/{channel}/refuse", channels.refuse_person, channels.WhoRequest, scope=Scope.ADMIN),
    _post("/channels/{channel}/forget", channels.forget_person, channels.WhoRequest, scope=Scope.ADMIN),
    _get("/nodes", nodes.list_nodes),
    Endpoint(method="DELETE", path="/nodes/{node}", handler=nodes.forget_node, scope=Scope.ADMIN),
    _post("/nodes/{node}/drain", nodes.drain_node, scope=Scope.ADMIN),
    _post("/nodes/{node}/undrain", nodes.undrain_node, scope=Scope.ADMIN),
    _get("/processes", processes.list_processes),
    _get("/processes/memory", processes.list_memory, Query(name="name", about="only trees of this name")),
    _post("/reap", processes.reap, processes.ReapRequest, scope=Scope.ADMIN),
    _get("/doctor", processes.doctor),
    Endpoint(method="GET", path="/tokens", handler=token_routes.list_tokens, scope=Scope.ADMIN),
    _post(
        "/tokens",
        token_routes.create_token,
        token_routes.TokenRequest,
        scope=Scope.ADMIN,
        code=201,
        answer=NewTokenDocument,
    ),
    Endpoint(method="DELETE", path="/tokens/{token}", handler=token_routes.revoke_token, scope=Scope.ADMIN),
    _post("/login-links", login.make_login_link, login.NoOptions, scope=Scope.READ, code=201, answer=LoginLinkDocument),
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
            login.login_route(gateway),
            *pages,
        ],
        exception_handlers={
            SextonError: answer_sexton_error,
            HTTPException: answer_http_exception,
            OSError: answer_shortage,
            Exception: answer_defect,
        },
    )
    app.state.redactor = gateway.redactor
    app.state.endpoints = (*ENDPOINTS, *endpoints)
    # Around Starlette and not within: its own outermost layer answers defects, and those answers pass here too.
    guard = Guard(
        app,
        gate=gate,
        logins=gateway.logins,
        keyring=gateway.keyring,
        ways=ways,
        limits=gateway.limits,
        clock=gateway.clock,
        open_requests=gateway.open_requests,
    )
    return SafeHeaders(guard)


def _route(gateway: Gateway, endpoint: Endpoint) -> Route:
    async def answer(request: Request) -> Response:
        if endpoint.scope is not None:
            require_scope(caller_of(request), endpoint.scope)
        refuse_nul(request)
        answer = await endpoint.handler(gateway, request)
        if isinstance(answer, Response):
            return answer
        return json_response(answer, status=endpoint.code, redactor=gateway.redactor)

    handler = answer if endpoint.method == "GET" else _audited(gateway, endpoint, answer)
    return Route(
        endpoint.full_path,
        _measured(gateway, endpoint, handler),
        methods=[endpoint.method],
        name=endpoint.handler.__name__,
    )


def _measured(gateway: Gateway, endpoint: Endpoint, answer: Answer) -> Answer:
    """The same, with its time and how it ended among the figures; a stream has no time."""
    route = endpoint.handler.__name__

    async def answer_and_measure(request: Request) -> Response:
        began, status = gateway.clock.monotonic(), int(HTTPStatus.INTERNAL_SERVER_ERROR)
        try:
            response = await answer(request)
            status = response.status_code
        except SextonError as error:
            status = problem_of(error).status
            raise
        finally:
            gateway.metrics.observe_request(route, status, gateway.clock.monotonic() - began)
        return response

    return answer_and_measure


def _audited(gateway: Gateway, endpoint: Endpoint, answer: Answer) -> Answer:
    """The same, with a line in the journal of who asked for what and how it went."""
    what = endpoint.handler.__name__

    async def answer_and_tell(request: Request) -> Response:
        outcome, why = "failed", None
        try:
            response = await answer(request)
            outcome = "done"
        except SextonError as error:
            problem = problem_of(error)
            outcome, why = "refused" if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else "failed", problem.what
            raise
        finally:
            audit(gateway, what, caller_of(request), subject=subject_of(request), outcome=outcome, why=why)
        return response

    return answer_and_tell
