"""One route of the API, and one further way in beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from sexton.gateway.http.body import RequestBody
from sexton.gateway.http.caller import Scope
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import Problem

PREFIX = "/api/v1"
Handler: TypeAlias = Callable[[Gateway, Request], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One parameter in the query: `shape` is its JSON schema."""

    name: str
    about: str
    shape: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One route: `handler` answers with a document (then `code` is the status) or a whole response.

    `scope` is what a caller needs, None: not even a token; `query` what it may add to the path; `media` what a whole
    response is, and `answer` the document in it; `other_codes` have the same form as `code`.  `path` is below `PREFIX`,
    or, with `at_root`, the whole path.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    body: type[RequestBody] | None = None
    code: int = 200
    query: tuple[Query, ...] = ()
    media: str = "application/json"
    answer: Any = None
    other_codes: tuple[int, ...] = ()
    at_root: bool = False

    @property
    def full_path(self) -> str:
        return self.path if self.at_root else PREFIX + self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class WayIn:
    """An application at a path of its own: it gets every request for `path` and what is below it.

    Its callers have passed the gate and have `scope`; one that is confined to MCP profiles comes only where
    `for_profiles` says so, and the application checks which.  `max_body` bytes bound a body, None: as elsewhere;
    `refuse` makes the answer for who is not let in.  It sees the whole path, with `path` as the ASGI `root_path`, so
    that routes of a Starlette application start below it.
    """

    path: str
    app: ASGIApp
    scope: Scope
    for_profiles: bool = False
    max_body: int | None = None
    refuse: Callable[[Problem], Response] = Problem.response

    def takes(self, path: str) -> bool:
        return path == self.path or path.startswith(f"{self.path}/")
