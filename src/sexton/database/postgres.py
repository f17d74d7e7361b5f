"""One PostgreSQL database, which several gateways may share.

A write takes one advisory lock at its start, as `BEGIN IMMEDIATE` does on SQLite, so that the writes of all gateways
follow one another; a read sees one snapshot (REPEATABLE READ, READ ONLY).  A connection that breaks is replaced and
what was begun on it is done again, unless it may have been committed: then the server is asked whether it was.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar, final

import psycopg
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import set_json_dumps
from psycopg.types.string import StrDumper, StrDumperUnknown
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import String

from sexton.database.backend import Access
from sexton.database.failures import DatabaseError, Failure
from sexton.database.location import PostgresUrl
from sexton.database.postgres_failures import explain_postgres, failure_of_postgres

T = TypeVar("T")
OLDEST_SERVER = 140000
"""As `server_version_num` tells it: what PostgreSQL's own project still maintained when this was written."""
ATTEMPTS = 4
DOUBT_LASTS = 20.0
"""For how many seconds a server that went away at a commit is asked what became of it."""
_ASK_EVERY = 0.2
WRITE_LOCK = 0x5E47_0A00
"""The key of the advisory lock of writes; each database has keys of its own."""

# What the address does not say itself.  Seconds, except for tcp_user_timeout (milliseconds): see "Parameter Key Words"
# in PostgreSQL's manual.
_CONNECTION_DEFAULTS = {
    "application_name": "sexton",
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
# A gateway that is frozen or cut off in the middle of a write loses its turn after 10 s, before those that wait for
# theirs give up.  The keepalives are the server's, by which it finds out about us.
_SESSION = {
    "statement_timeout": "30s",
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_SET = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
# Whoever chose `off` for the server as a whole did not mean ours, whose commits must be on disk when they return.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_TAKE_TURN = text(f"SELECT pg_advisory_xact_lock({WRITE_LOCK}), CAST(pg_current_xact_id() AS text) AS transaction")
_OUTCOME = text("SELECT pg_xact_status(CAST(CAST(:transaction AS text) AS xid8))")
_TRY_AGAIN = {"40001", "40P01"}
"""serialization_failure, deadlock_detected: the server has undone it and asks to repeat it."""
_OPTIONS: dict[Access, dict[str, Any]] = {
    Access.READ: {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    # Each statement sees what was committed when it began: after the lock, all that earlier holders have written.
    Access.WRITE: {"isolation_level": "READ COMMITTED"},
    Access.WRITE_FREELY: {"isolation_level": "READ COMMITTED"},
}


class CommitInDoubt(Exception):
    """The connection broke at the commit, and the server could not be asked in time what became of it."""


class UnfitServer(Exception):
    """The server answers and cannot serve us."""


@final
class PostgresBackend:
    """See the module; fulfils `Backend`.

    Of each gateway there are at most `parallel_reads + parallel_writes + 1` connections.
    """

    parallel_reads = 3
    parallel_writes = 2
    errors: tuple[type[BaseException], ...] = (DBAPIError, psycopg.Error, CommitInDoubt, UnfitServer)

    def __init__(self, url: PostgresUrl) -> None:
        self.where = str(url)
        self._secrets = url.secrets()
        self._engine = _engine_for(url, size=self.parallel_reads + self.parallel_writes + 1)

    def prepare(self) -> None:
        with self._engine.connect() as connection:
            version, encoding = connection.execute(
                text("SELECT CAST(current_setting('server_version_num') AS int), current_setting('server_encoding')")
            ).one()
        if version < OLDEST_SERVER:
            raise UnfitServer(
                f"its version is {version // 10000}, and {OLDEST_SERVER // 10000} is the oldest that will do"
            )
        if encoding != "UTF8":
            raise UnfitServer(f"its encoding is {encoding}, and it has to be UTF8")

    def prepare_migration(self, connection: Connection) -> None:
        """A change of a big table takes longer than any other statement may."""
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))

    def transact(self, work: Callable[[Connection], T], access: Access) -> T:
        for _ in range(ATTEMPTS - 1):
            try:
                return self._transact_once(work, access)
            except DBAPIError as error:
                if not (error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _TRY_AGAIN):
                    raise
        return self._transact_once(work, access)

    def _transact_once(self, work: Callable[[Connection], T], access: Access) -> T:
        """Raises DBAPIError with `connection_invalidated` only if it certainly left nothing."""
        with self._engine.connect() as plain:
            connection = plain.execution_options(**_OPTIONS[access])
            with connection.begin() as transaction:
                number = connection.execute(_TAKE_TURN).one().transaction if access is Access.WRITE else None
                result = work(connection)
                try:
                    transaction.commit()
                except DBAPIError as error:
                    if number is None or not error.connection_invalidated or not self._was_committed(number):
                        raise
            return result

    def _was_committed(self, number: str) -> bool:
        """Whether the transaction with that number was.  Raises CommitInDoubt when nobody can tell in time."""
        deadline = time.monotonic() + DOUBT_LASTS
        while time.monotonic() < deadline:
            try:
                with self._engine.connect() as connection:
                    outcome = connection.execute(_OUTCOME, {"transaction": number}).scalar()
            except DBAPIError:
                outcome = "in progress"  # Away, or starting: it will tell.
            if outcome != "in progress":
                return str(outcome) == "committed"
            time.sleep(_ASK_EVERY)
        raise CommitInDoubt

    def explain(self, error: BaseException, *, failure: Failure | None = None) -> DatabaseError:
        if isinstance(error, CommitInDoubt):
            return explain_postgres(Failure.AWAY, self.where, "The connection was lost at a commit")
        if isinstance(error, UnfitServer):
            return explain_postgres(Failure.UNFIT, self.where, str(error))
        cause = error.orig if isinstance(error, DBAPIError) else error
        return explain_postgres(failure or failure_of_postgres(cause), self.where, self._without_secrets(str(cause)))

    def _without_secrets(self, told: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            told = told.replace(secret, "•••")
        return told

    def close(self) -> None:
        self._engine.dispose()


def _engine_for(url: PostgresUrl, *, size: int) -> Engine:
    def connect() -> psycopg.Connection[Any]:
        parameters: dict[str, Any] = {**_CONNECTION_DEFAULTS, **conninfo_to_dict(url.text), "client_encoding": "UTF8"}
        connection: psycopg.Connection[Any] = psycopg.connect(make_conninfo(**parameters))
        _prepare(connection)
        return connection

    engine = create_engine(
        "postgresql+psycopg://", creator=connect, poolclass=QueuePool, pool_size=size, max_overflow=0
    )
    engine.dialect.type_compiler_instance = _Types(engine.dialect)
    return engine


def _prepare(connection: psycopg.Connection[Any]) -> None:
    connection.adapters.register_dumper(str, _AnyTextUnknown)
    connection.adapters.register_dumper(str, _AnyText)
    set_json_dumps(_dump_json, connection)
    connection.execute(_SET)
    connection.execute(_DURABLE)
    connection.commit()


class _Types(PGTypeCompiler):
    """Text as on SQLite: of any length, and ordered by its bytes, whatever the language of the server.

    That the order is ours also means that an upgrade of the server's C library cannot damage an index.
    """

    def visit_VARCHAR(self, type_: String, **kw: Any) -> str:  # noqa: ARG002, N802
        return 'VARCHAR COLLATE "C"' if kw.get("type_expression") is not None else "VARCHAR"

    def visit_TEXT(self, type_: String, **kw: Any) -> str:  # noqa: ARG002, N802
        return 'TEXT COLLATE "C"' if kw.get("type_expression") is not None else "TEXT"


def _storable(said: str) -> bytes:
    """PostgreSQL's text cannot hold U+0000, UTF-8 no lone surrogate; what a program said is kept but for these."""
    return said.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", errors="replace")


class _AnyText(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return _storable(obj)


class _AnyTextUnknown(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer | None:
        return _storable(obj)


def _dump_json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:  # NaN and the infinities, which JSON does not have (RFC 8259, section 6).
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
