"""Errors as problem details for HTTP (RFC 9457).

Every answer with a status of 400 or more is `application/problem+json`:
`type` (a stable name of the kind of problem), `title`, `status`, `detail`
(what happened, in sentences) and, where there is a next step, `hint`.
"""

from __future__ import annotations

import difflib
import errno
import http.client
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from sexton.agent import ApprovalOver, UnknownApproval, UnknownConversation, UnknownMessage
from sexton.database import DatabaseError
from sexton.errors import SextonError, UsageError
from sexton.gateway.deliveries import UnknownDelivery
from sexton.mcp_servers import CallTimedOut, NoPlace, PoolClosed, ServerUnavailable, ToolDenied, UnknownServer
from sexton.redaction import Redactor
from sexton.scheduler import NodeNotGone, UnknownJob, UnknownNode, UnknownRun

_log = logging.getLogger(__name__)

_STATUSES: Mapping[type[SextonError], tuple[int, str]] = {
    UnknownServer: (404, "not-found"),
    UnknownJob: (404, "not-found"),
    UnknownRun: (404, "not-found"),
    UnknownDelivery: (404, "not-found"),
    UnknownConversation: (404, "not-found"),
    UnknownMessage: (404, "not-found"),
    UnknownApproval: (404, "not-found"),
    UnknownNode: (404, "not-found"),
    ApprovalOver: (409, "over"),
    NodeNotGone: (409, "not-gone"),
    UsageError: (400, "bad-request"),
    ToolDenied: (403, "denied"),
    CallTimedOut: (504, "timed-out"),
    ServerUnavailable: (503, "unavailable"),
    NoPlace: (503, "unavailable"),
    PoolClosed: (503, "stopping"),
    DatabaseError: (503, "database"),
}


class Problem(SextonError):
    """An error with its HTTP status and the stable name of its kind; `more` are further members of the document."""

    def __init__(
        self,
        *,
        status: int,
        kind: str,
        what: str,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        self.kind = kind
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def response(self) -> Response:
        document = {
            "type": f"urn:sexton:problem:{self.kind}",
            "title": http.client.responses.get(self.status, "Refused"),
            "status": self.status,
            "detail": self.what,
            **({"hint": self.hint} if self.hint else {}),
            **self.more,
        }
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
        return Response(body, self.status, self.headers, media_type="application/problem+json")


class WrongRequest(Problem, UsageError):
    """The request itself was wrong: a name that does not exist, a body of another shape."""


def not_found(noun: str, name: str, known: Iterable[str], *, listing: str) -> WrongRequest:
    """There is no such thing; names the nearest one that there is.  `listing` is the command that shows them all."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return WrongRequest(
        status=404,
        kind="not-found",
        what=f"There is no {noun} {name!r}.",
        hint=f"did you mean {nearest[0]!r}?  All of them: {listing}" if nearest else f"see them all with: {listing}",
        more={"nearest": nearest[0]} if nearest else {},
    )


def bad_request(what: str, *, hint: str | None = None, more: Mapping[str, Any] | None = None) -> WrongRequest:
    return WrongRequest(status=400, kind="bad-request", what=what, hint=hint, more=more)


def problem_of(error: SextonError) -> Problem:
    """The problem that tells of an error which a part of the gateway raised."""
    if isinstance(error, Problem):
        return error
    for known, (status, kind) in _STATUSES.items():
        if isinstance(error, known):
            return Problem(status=status, kind=kind, what=error.what, hint=error.hint)
    return Problem(status=502, kind="failed", what=error.what, hint=error.hint)


async def answer_sexton_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SextonError)
    return redacted(problem_of(error), request.app.state.redactor).response()


def redacted(problem: Problem, redactor: Redactor) -> Problem:
    """The same, without what its words quote of secrets."""
    return Problem(
        status=problem.status,
        kind=problem.kind,
        what=redactor.text(problem.what),
        hint=problem.hint and redactor.text(problem.hint),
        headers=problem.headers,
        more=redactor.document(problem.more),
    )


def answer_edge(connection: Scope, error: Exception) -> Response:
    """For an application that is not ours, at the outermost edge of its request."""
    if isinstance(error, SextonError):
        return problem_of(error).response()
    return _defect(connection["method"], connection["path"], error)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such route, no such method."""
    assert isinstance(error, HTTPException)
    kind = {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "refused")
    what = f"{request.method} {request.url.path}: {error.detail}."
    return Problem(status=error.status_code, kind=kind, what=what, headers=error.headers).response()


MORE_DESCRIPTORS = "raise the limit of open files (ulimit -n, LimitNOFILE= in its unit), or hold fewer servers at once"
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}


async def answer_shortage(_: Request, error: Exception) -> Response:
    """Out of descriptors, which is nobody's defect; any other OSError is one, and raised again."""
    if not isinstance(error, OSError) or error.errno not in _NO_DESCRIPTOR:
        raise error
    what = f"The gateway could not do it: {error.strerror}."
    return Problem(status=503, kind="unavailable", what=what, hint=MORE_DESCRIPTORS).response()


async def answer_defect(request: Request, error: Exception) -> Response:
    """The outermost edge of a request: a defect of ours, told without its insides and logged with its traceback."""
    return _defect(request.method, request.url.path, error)


def _defect(method: str, path: str, error: Exception) -> Response:
    _log.error("%s %s failed", method, path, exc_info=error)
    return Problem(
        status=500,
        kind="defect",
        what=f"The gateway met an error of its own ({type(error).__name__}); the request was not finished.",
        hint="the traceback is in the gateway's log; please report it",
    ).response()
