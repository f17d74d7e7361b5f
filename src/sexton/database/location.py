"""Where a database is: the path of an SQLite file, or the address of a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("postgresql", "postgres")
_SECRET_PARAMETERS = {"password", "sslpassword"}


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A connection URI as libpq takes it (PostgreSQL's manual, "Connection Strings"); it may hold a password."""

    text: str = field(repr=False)

    def __str__(self) -> str:
        """User, hosts and database; neither the password nor parameters."""
        parts = urlsplit(self.text)
        user, at, hosts = parts.netloc.rpartition("@")
        hosts = hosts or dict(parse_qsl(parts.query)).get("host", "")
        return f"postgresql://{user.partition(':')[0]}{at}{hosts}{parts.path}"

    def trouble(self) -> str | None:
        """Why it cannot be an address, as far as its text tells."""
        parts = urlsplit(self.text)
        hosts = parts.netloc.rpartition("@")[2]
        for host in hosts.split(","):
            port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
            if port and not port.isdigit():
                return "has a port that is no number; a special character of a password is written as in %40 for @"
        if not parts.path.strip("/") and "dbname" not in dict(parse_qsl(parts.query)):
            return "names no database; write postgresql://USER@HOST/NAME"
        return None

    def secrets(self) -> frozenset[str]:
        """The passwords in it, as they are written here and as they are meant."""
        written = set(self._passwords())
        return frozenset(written | {unquote(secret) for secret in written}) - {""}

    def _passwords(self) -> Iterator[str]:
        parts = urlsplit(self.text)
        yield parts.netloc.rpartition("@")[0].partition(":")[2]
        for parameter in parts.query.split("&"):
            name, _, value = parameter.partition("=")
            if unquote(name) in _SECRET_PARAMETERS:
                yield value


Location: TypeAlias = Path | PostgresUrl


def is_postgres(text: str) -> bool:
    return text.partition("://")[0] in SCHEMES and "://" in text
