"""The audit lines in the journal: who asked for which change, and what came of it."""

from __future__ import annotations

from starlette.requests import Request

from sexton.gateway.http.caller import Caller
from sexton.gateway.http.parts import Gateway


def about(request: Request, subject: str) -> None:
    """Name what a request is about, where the path does not."""
    request.state.subject = subject


def audit(gateway: Gateway, what: str, caller: Caller, *, subject: str, outcome: str, why: str | None = None) -> None:
    """Append `audit.<what>`.  `outcome` is done, refused (it may not, or asked wrongly) or failed."""
    told = {"why": why} if why else {}
    gateway.journal.append(
        f"audit.{what}", subject=subject, caller=caller.name, way=caller.way, outcome=outcome, **told
    )


def subject_of(request: Request) -> str:
    """What the request is about: what its handler said, or what its path names."""
    said: str | None = getattr(request.state, "subject", None)
    return said or "/".join(map(str, request.path_params.values())) or "gateway"
