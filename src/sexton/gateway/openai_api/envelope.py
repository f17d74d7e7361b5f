"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from sexton.agent import NoModel
from sexton.errors import SextonError
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.problem import Problem, bad_request, problem_of
from sexton.redaction import Redactor

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def wrong(what: str, *, param: str | None = None, code: str | None = None) -> Problem:
    """A request that cannot be answered as it is; `param` is the member that is to blame."""
    return bad_request(what, more={"param": param, "code": code})


def error_document(error: SextonError) -> dict[str, Any]:
    """What went wrong, with what helps as part of the message: clients show nothing else of it."""
    problem = as_problem(error)
    message = f"{problem.what} {problem.hint}" if problem.hint else problem.what
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error"),
            "param": problem.more.get("param"),
            "code": problem.more.get("code") or problem.kind.replace("-", "_"),
        }
    }


def envelope(problem: Problem) -> Response:
    """The answer for a request that was refused."""
    answer = json_response(error_document(problem), status=problem.status)
    answer.headers.update(problem.headers)
    return answer


def as_problem(error: SextonError) -> Problem:
    """No model is a state of the gateway, and not the fault of the request."""
    if isinstance(error, NoModel):
        return Problem(status=503, kind="no-model", what=error.what, hint=error.hint)
    return problem_of(error)


def error_frame(error: SextonError, redactor: Redactor) -> bytes:
    """An error in the middle of a stream of chunks."""
    return data_frame(redactor.document(error_document(error)))


def data_frame(document: dict[str, Any]) -> bytes:
    """One server-sent event without a name."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
