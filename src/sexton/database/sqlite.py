"""One SQLite file.

Writes take the lock of the file at their start (BEGIN IMMEDIATE); reads see the last committed state (WAL).  A commit
is on disk when it returns (`synchronous=FULL`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from sexton.database.backend import Access
from sexton.database.failures import DatabaseError, Failure, explain, failure_of, failure_to_write

T = TypeVar("T")
BUSY_TIMEOUT = 5.0
_PROBE_SIZE = 64 * 1024


@final
class SqliteBackend:
    """See the module; fulfils `Backend`."""

    parallel_reads = 1
    parallel_writes = 0
    # sqlite3.Error comes from `_prepare`: SQLAlchemy wraps what its own statements raise only.
    errors: tuple[type[BaseException], ...] = (DBAPIError, sqlite3.Error)

    def __init__(self, path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.where = str(path)
        self._path = path
        self._engine = _engine_for(path, busy_timeout)

    def prepare(self) -> None:
        _create_private(self._path)

    def prepare_migration(self, connection: Connection) -> None:
        """Nothing: the lock of the file is all that it needs."""

    def transact(self, work: Callable[[Connection], T], access: Access) -> T:
        with self._engine.connect() as connection:
            connection.execution_options(sexton_writes=access is not Access.READ)
            with connection.begin():
                return work(connection)

    def explain(self, error: BaseException, *, failure: Failure | None = None) -> DatabaseError:
        cause = error.orig if isinstance(error, DBAPIError) else error
        failure = failure or failure_of(cause)
        if failure is Failure.CANNOT_OPEN and _is_read_only(self._path):
            failure = Failure.READ_ONLY  # What cannot be opened then is the WAL beside it.
        if failure is Failure.INPUT_OUTPUT:
            failure = failure_to_write(_try_to_write(self._path))
        return explain(failure, self.where, cause)

    def close(self) -> None:
        self._engine.dispose()


def _engine_for(path: Path, busy_timeout: float) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=2,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": busy_timeout},
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not open transactions by itself: `_begin` says which kind.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("sexton_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise _cannot_open(path, error) from error


def _try_to_write(path: Path) -> int | None:
    """The errno of a write where the database is, which SQLite does not tell; None if there is nothing wrong (now)."""
    probe = path.with_name(f"{path.name}-probe")
    try:
        for written in (path, path.with_name(f"{path.name}-wal")):
            os.close(os.open(written, os.O_RDWR | os.O_CLOEXEC))
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_SIZE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def _is_read_only(path: Path) -> bool:
    return path.is_file() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def _cannot_open(path: Path, error: OSError) -> DatabaseError:
    driver_error = sqlite3.OperationalError(error.strerror)
    driver_error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    return explain(failure_of(driver_error), str(path), driver_error)
