"""One database: its connections, its transactions, its threads."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol, Self, TypeVar

import anyio
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from sexton.database.failures import DatabaseError, Failure, explain, failure_of, failure_to_write
from sexton.database.schema import migrate
from sexton.threads import in_thread

T = TypeVar("T")
BUSY_TIMEOUT = 5.0
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError)
"""What a row raises that is read and holds what nobody wrote."""
_PROBE_SIZE = 64 * 1024


class Offload(Protocol):
    """Runs a blocking function away from the event loop.  The lane is that of writes or of reads."""

    def __call__(self, work: Callable[[], T], *, lane: anyio.CapacityLimiter) -> Awaitable[T]: ...


async def in_worker_thread(work: Callable[[], T], *, lane: anyio.CapacityLimiter) -> T:
    """One thread at a time per lane.  A cancelled caller waits for the end of its transaction, which is never torn."""
    return await in_thread(work, limiter=lane)


class Database:
    """Transactions on one SQLite file, away from the event loop.

    Writes follow one another in one lane, reads have a lane of their own and see the last committed state (WAL).
    A commit is on disk when it returns (`synchronous=FULL`).  Every failure is a `DatabaseError` that says what to do.
    """

    def __init__(self, engine: Engine, where: str, offload: Offload) -> None:
        self._engine = engine
        self.where = where
        self._offload = offload
        self._writes = anyio.CapacityLimiter(1)
        self._reads = anyio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, offload: Offload = in_worker_thread, busy_timeout: float = BUSY_TIMEOUT
    ) -> AsyncIterator[Self]:
        """Open the file, or make it (mode 0600), and bring it to the schema of this version.

        A lock of another program is waited for up to `busy_timeout` seconds at each transaction.
        Raises `DatabaseError`: locked, read-only, corrupt, full, cannot open, newer schema.
        """
        database = cls(_engine_for(path, busy_timeout), str(path), offload)
        try:
            await database._offload(partial(_create_private, path), lane=database._writes)
            await database.write(lambda connection: migrate(connection, database.where))
            yield database
        finally:
            with anyio.CancelScope(shield=True):
                await database._offload(database._engine.dispose, lane=database._writes)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that holds the write lock from its start.  Raises `DatabaseError`."""
        return await self._offload(partial(self._transact, work, writes=True), lane=self._writes)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent state.  Raises `DatabaseError`."""
        return await self._offload(partial(self._transact, work, writes=False), lane=self._reads)

    def _transact(self, work: Callable[[Connection], T], *, writes: bool) -> T:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(sexton_writes=writes)
                with connection.begin():
                    return work(connection)
        except DBAPIError as error:
            raise self._explain(error.orig) from error
        except _UNREADABLE as error:
            raise explain(Failure.UNREADABLE, self.where, error) from error
        except sqlite3.Error as error:  # From `_prepare`: SQLAlchemy wraps what its own statements raise only.
            raise self._explain(error) from error

    def _explain(self, cause: BaseException | None) -> DatabaseError:
        failure = failure_of(cause)
        if failure is Failure.CANNOT_OPEN and _is_read_only(Path(self.where)):
            failure = Failure.READ_ONLY  # What cannot be opened then is the WAL beside it.
        if failure is Failure.INPUT_OUTPUT:
            failure = failure_to_write(_try_to_write(Path(self.where)))
        return explain(failure, self.where, cause)


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
