"""Who makes a request, and what they may do (pure)."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request


class Scope(enum.StrEnum):
    """What a caller may do; each contains those before it.

    `read` sees everything but secrets; `run` uses what is there (calls tools, runs jobs, cancels runs, chats); `admin`
    changes what is there and what others use (jobs, servers, processes, tokens).
    """

    READ = "read"
    RUN = "run"
    ADMIN = "admin"


def scopes_up_to(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes with those that they contain."""
    order, granted = list(Scope), set(scopes)
    return frozenset(scope for place, scope in enumerate(order) if granted & set(order[place:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who passed the gate: `request.state.caller`.

    `profiles` are the MCP profiles to which the caller is confined, None: not confined; one that is confined reaches
    the MCP endpoint and nothing else.  `token` is the id of the token behind it, None for the local owner's.
    """

    name: str
    scopes: frozenset[Scope]
    profiles: frozenset[str] | None = None
    way: Literal["token", "cookie"] = "token"
    token: str | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


OWNER = Caller(name="owner", scopes=frozenset(Scope))
"""Whoever can read the token file in the data folder."""


def caller_of(request: Request) -> Caller:
    """The caller of a request that passed the gate."""
    caller: Caller = request.state.caller
    return caller
