"""Browsers that are logged in: links that work once, and the sessions that come of them.

Both live in memory and are known only by the hash of their secret; a restart ends them, and `sexton open` makes a new
link.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from typing import TypeVar, final

from sexton.clock import Clock, SystemClock
from sexton.gateway.http.caller import Caller

LINK_SECONDS = 900.0
SESSION_SECONDS = 7 * 86400.0  # without any request for so long, it ends
MAX_LINKS = 100
MAX_SESSIONS = 100
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One browser; `csrf_token` is what its pages send along with a change, `last_used` in monotonic seconds."""

    caller: Caller
    csrf_token: str
    last_used: float

    def has_csrf_token(self, said: str) -> bool:
        return hmac.compare_digest(said.encode("utf-8", "replace"), self.csrf_token.encode())


@final
class Logins:
    """The codes of links and the sessions, each at most so many: the oldest goes when a new one comes."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._links: dict[bytes, tuple[Caller, float]] = {}
        self._sessions: dict[bytes, Session] = {}

    def make_code(self, caller: Caller) -> str:
        """A code that logs a browser in as `caller`, once, within `LINK_SECONDS`."""
        code = secrets.token_urlsafe(32)
        _make_room(self._links, MAX_LINKS)
        self._links[_hash(code)] = (caller, self._clock.monotonic() + LINK_SECONDS)
        return code

    def log_in(self, code: str) -> str | None:
        """Use a code up; returns the secret of the new session, None if the code is spent, too old or was never one."""
        caller, until = self._links.pop(_hash(code), (None, 0.0))
        if caller is None or self._clock.monotonic() > until:
            return None
        secret = secrets.token_urlsafe(32)
        _make_room(self._sessions, MAX_SESSIONS)
        self._sessions[_hash(secret)] = Session(
            caller=replace(caller, way="cookie"),
            csrf_token=secrets.token_urlsafe(32),
            last_used=self._clock.monotonic(),
        )
        return secret

    def session(self, secret: str) -> Session | None:
        """The session of that secret, which counts as used now."""
        key, now = _hash(secret), self._clock.monotonic()
        session = self._sessions.pop(key, None)
        if session is None or now - session.last_used > SESSION_SECONDS:
            return None
        self._sessions[key] = session = replace(session, last_used=now)  # the most recently used stands last
        return session

    def log_out(self, secret: str) -> None:
        self._sessions.pop(_hash(secret), None)

    def end_of_token(self, token: str) -> None:
        """Forget the links and sessions that were made with a token that is no longer valid."""
        self._links = {key: link for key, link in self._links.items() if link[0].token != token}
        self._sessions = {key: one for key, one in self._sessions.items() if one.caller.token != token}


def _hash(secret: str) -> bytes:
    """The secrets have 256 random bits, so no slow hash is needed, and a look-up by hash tells nothing by its time."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _make_room(kept: dict[bytes, _Kept], most: int) -> None:
    while len(kept) >= most:
        del kept[next(iter(kept))]
