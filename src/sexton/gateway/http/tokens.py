"""Tokens for others than the local owner: made, listed, revoked, and known again.

A token is `sxt_ID_SECRET`.  The database has its SHA-256 and never the token itself, which is shown once, when it is
made.  A token that was revoked by another gateway on the same database is refused after `REMEMBERED` seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, final

from sqlalchemy import Connection, Row, insert, or_, select, update

from sexton import database as tables
from sexton.clock import Clock
from sexton.database import Database, DatabaseError
from sexton.gateway.http.caller import Caller, Scope, scopes_up_to
from sexton.gateway.http.logins import Logins
from sexton.gateway.http.problem import Problem, not_found

REMEMBERED = 2.0
_USE_WRITTEN_EVERY = timedelta(minutes=1)
_MOST_REMEMBERED = 1_000
_FORM = re.compile(r"sxt_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_token = tables.token
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of one token: everything but the token.  `profiles` None: not confined to MCP profiles."""

    id: str
    name: str
    scopes: frozenset[Scope]
    profiles: frozenset[str] | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def is_valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    token: Token | None
    hash: str
    until: float


@final
class Tokens:
    """The tokens in the database; fulfils `Keyring`.  Raises `DatabaseError` from every method."""

    def __init__(self, database: Database, *, clock: Clock, logins: Logins) -> None:
        self._database = database
        self._clock = clock
        self._logins = logins
        self._remembered: dict[str, _Remembered] = {}

    async def create(
        self, name: str, *, scope: Scope, profiles: Sequence[str] | None, lasts: float | None, by: str
    ) -> tuple[Token, str]:
        """Make a token that is valid for `lasts` seconds (None: until it is revoked).  Returns it with its text.

        Raises `Problem` 409 if a valid one has that name.
        """
        now = self._clock.now()
        token = Token(
            id="".join(secrets.choice(_ALPHABET) for _ in range(8)),
            name=name,
            scopes=scopes_up_to([scope]),
            profiles=None if profiles is None else frozenset(profiles),
            created_at=now,
            created_by=by,
            expires_at=None if lasts is None else now + timedelta(seconds=lasts),
            last_used_at=None,
            revoked_at=None,
        )
        text = f"sxt_{token.id}_{secrets.token_urlsafe(32)}"
        await self._database.write(partial(_add, token=token, text=text, now=now))
        self._remembered.pop(token.id, None)
        return token, text

    async def all(self) -> tuple[Token, ...]:
        """Every token there ever was, the oldest first."""
        return await self._database.read(_all)

    async def revoke(self, name_or_id: str) -> Token:
        """Make it invalid from now on, with the browsers that were logged in by it.  Raises `Problem` 404."""
        token = await self._database.write(partial(_revoke, name_or_id=name_or_id, now=self._clock.now()))
        self._remembered.pop(token.id, None)
        self._logins.end_of_token(token.id)
        return token

    async def caller(self, token: str) -> Caller | None:
        """Whose token it is; None if it is nobody's, revoked or expired."""
        if not (found := _FORM.fullmatch(token)):
            return None
        known = await self._recall(found[1])
        if not hmac.compare_digest(known.hash, _hash(token)) or known.token is None:
            return None
        return await self._used(known.token)

    async def caller_of_id(self, token_id: str) -> Caller | None:
        """The same for a browser that was logged in by the token."""
        known = await self._recall(token_id)
        return None if known.token is None else await self._used(known.token)

    async def _used(self, token: Token) -> Caller | None:
        now = self._clock.now()
        if not token.is_valid(now):
            return None
        if token.last_used_at is None or now - token.last_used_at > _USE_WRITTEN_EVERY:
            await self._note_use(token, now)
        return Caller(name=token.name, scopes=token.scopes, profiles=token.profiles, token=token.id)

    async def _recall(self, token_id: str) -> _Remembered:
        known, now = self._remembered.pop(token_id, None), self._clock.monotonic()
        if known is None or now > known.until:
            token, digest = await self._database.read(partial(_find, token_id=token_id))
            known = _Remembered(token=token, hash=digest, until=now + REMEMBERED)
        while len(self._remembered) >= _MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[token_id] = known
        return known

    async def _note_use(self, token: Token, now: datetime) -> None:
        try:
            # One statement on one row, and no harm if it happens twice.
            await self._database.write(partial(_note_use, token_id=token.id, now=now), in_turn=False)
        except DatabaseError as error:  # a full disk must not lock anybody out
            _log.warning("the use of token %r could not be written down: %s", token.name, error.what)
        self._remembered.pop(token.id, None)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _of(row: Row[Any]) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        scopes=frozenset(map(Scope, row.scopes)),
        profiles=None if row.profiles is None else frozenset(row.profiles),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def _add(connection: Connection, *, token: Token, text: str, now: datetime) -> None:
    same = connection.execute(select(_token).where(_token.c.name == token.name)).all()
    if any(_of(row).is_valid(now) for row in same):
        raise Problem(
            status=409,
            kind="exists",
            what=f"There is a token {token.name!r} already.",
            hint=f"choose another name, or revoke it first: sexton token revoke {token.name}",
        )
    connection.execute(
        insert(_token).values(
            id=token.id,
            name=token.name,
            hash=_hash(text),
            scopes=sorted(token.scopes),
            profiles=None if token.profiles is None else sorted(token.profiles),
            created_at=token.created_at,
            created_by=token.created_by,
            expires_at=token.expires_at,
        )
    )


def _all(connection: Connection) -> tuple[Token, ...]:
    rows = connection.execute(select(_token).order_by(_token.c.created_at, _token.c.id)).all()
    return tuple(map(_of, rows))


def _find(connection: Connection, *, token_id: str) -> tuple[Token | None, str]:
    row = connection.execute(select(_token).where(_token.c.id == token_id)).one_or_none()
    return (None, "") if row is None else (_of(row), row.hash)


def _revoke(connection: Connection, *, name_or_id: str, now: datetime) -> Token:
    named = select(_token).where(or_(_token.c.id == name_or_id, _token.c.name == name_or_id))
    row = connection.execute(named.where(_token.c.revoked_at.is_(None)).order_by(_token.c.created_at.desc())).first()
    if row is None:
        names = connection.execute(select(_token.c.name).where(_token.c.revoked_at.is_(None))).scalars()
        raise not_found("token", name_or_id, list(names), listing="sexton token list")
    connection.execute(update(_token).where(_token.c.id == row.id).values(revoked_at=now))
    return _of(connection.execute(select(_token).where(_token.c.id == row.id)).one())


def _note_use(connection: Connection, *, token_id: str, now: datetime) -> None:
    connection.execute(update(_token).where(_token.c.id == token_id).values(last_used_at=now))
