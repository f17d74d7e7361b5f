"""`/tokens`: who else may call."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator
from starlette.requests import Request
from starlette.responses import Response

from sexton.gateway.documents import NewTokenDocument, TokenDocument
from sexton.gateway.http.answers import json_response
from sexton.gateway.http.audit import about
from sexton.gateway.http.body import RequestBody, read_body
from sexton.gateway.http.caller import Scope, caller_of
from sexton.gateway.http.parts import Gateway
from sexton.gateway.http.problem import Problem, bad_request
from sexton.gateway.http.tokens import Token, Tokens

MOST_PROFILES = 100
LONGEST = 100 * 365 * 86400.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class TokenRequest(RequestBody):
    """`scope` contains the lesser ones; `profiles` confine the token to the MCP endpoint; `lasts` is in seconds."""

    name: str
    scope: Annotated[Scope, Field(strict=False)] = Scope.READ
    profiles: list[Annotated[str, StringConstraints(min_length=1, max_length=64)]] | None = Field(
        default=None, min_length=1, max_length=MOST_PROFILES
    )
    lasts: float | None = Field(default=None, gt=0, le=LONGEST)

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or name == "owner":
            raise ValueError(
                f"{name!r} is no usable name: a letter, digit or '_', then letters, digits, '.', '-' and '_', "
                "not longer than 64, and not 'owner'"
            )
        return name


async def list_tokens(gateway: Gateway, _: Request) -> Sequence[TokenDocument]:
    """Every token that was made, the oldest first, also those that are no longer valid; never their text."""
    return [token_document(gateway, token) for token in await _tokens(gateway).all()]


async def create_token(gateway: Gateway, request: Request) -> Response:
    """Make a token.  Its text is in this answer and nowhere else.  409 if a valid one has that name.

    A profile that is not there is refused: it would be one more name to mistype, and a token that opens nothing.
    """
    asked = await read_body(request, TokenRequest)
    about(request, asked.name)
    _require_known(gateway, asked.profiles or ())
    token, text = await _tokens(gateway).create(
        asked.name, scope=asked.scope, profiles=asked.profiles, lasts=asked.lasts, by=caller_of(request).name
    )
    document = NewTokenDocument(token=text, **token_document(gateway, token))
    return json_response(document, status=201)  # as it is: no redactor may come near


async def revoke_token(gateway: Gateway, request: Request) -> TokenDocument:
    """Make a token, by its name or id, invalid at once, with the browsers that were logged in by it."""
    return token_document(gateway, await _tokens(gateway).revoke(request.path_params["token"]))


def token_document(gateway: Gateway, token: Token) -> TokenDocument:
    times = (token.expires_at, token.last_used_at, token.revoked_at)
    expires, used, revoked = (time.isoformat() if time else None for time in times)
    return TokenDocument(
        id=token.id,
        name=token.name,
        scopes=[scope for scope in Scope if scope in token.scopes],
        profiles=None if token.profiles is None else sorted(token.profiles),
        valid=token.is_valid(gateway.clock.now()),
        created_at=token.created_at.isoformat(),
        created_by=token.created_by,
        expires_at=expires,
        last_used_at=used,
        revoked_at=revoked,
    )


def _require_known(gateway: Gateway, profiles: Sequence[str]) -> None:
    """Raise `Problem` 400 for a profile that there is none of."""
    if gateway.profiles is None:
        return
    known = sorted(gateway.profiles())
    for name in profiles:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            others = f"those of sexton.toml are: {', '.join(known)}" if known else f"write [profiles.{name}] first"
            raise bad_request(
                f"There is no profile {name!r}.",
                hint=f"did you mean {nearest[0]!r}?" if nearest else others,
                more={"nearest": nearest[0]} if nearest else None,
            )


def _tokens(gateway: Gateway) -> Tokens:
    if gateway.tokens is None:
        raise Problem(status=503, kind="unavailable", what="This gateway keeps no tokens.")
    return gateway.tokens
