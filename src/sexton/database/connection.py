"""One database, of whatever kind: its transactions, its lanes, its threads."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, Self, TypeVar, cast

import anyio
from sqlalchemy import Connection

from sexton.database.backend import Access, Backend
from sexton.database.failures import Failure
from sexton.database.location import Location
from sexton.database.schema import check_schema, migrate
from sexton.database.sqlite import BUSY_TIMEOUT, SqliteBackend
from sexton.errors import UsageError
from sexton.threads import in_thread

T = TypeVar("T")
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError)
"""What a row raises that is read and holds what nobody wrote."""


class Offload(Protocol):
    """Runs a blocking function away from the event loop.  The lane is that of writes or of reads."""

    def __call__(self, work: Callable[[], T], *, lane: anyio.CapacityLimiter) -> Awaitable[T]: ...


async def in_worker_thread(work: Callable[[], T], *, lane: anyio.CapacityLimiter) -> T:
    """As many threads at a time as the lane is wide.  A cancelled caller waits for the end of its transaction."""
    return await in_thread(work, limiter=lane)


class Database:
    """Transactions on one SQLite file or one PostgreSQL database, away from the event loop.

    The same on both: a write is one transaction that holds the right to write from its start, so that the writes of
    all gateways are as if they had followed one another; a read sees one committed state; a commit is on disk when it
    returns; every failure is a `DatabaseError` that says what to do.
    """

    def __init__(self, backend: Backend, offload: Offload) -> None:
        self._backend = backend
        self._offload = offload
        self._writes = anyio.CapacityLimiter(1)
        self._reads = anyio.CapacityLimiter(backend.parallel_reads)
        self._free_writes = anyio.CapacityLimiter(backend.parallel_writes) if backend.parallel_writes else self._writes

    @property
    def where(self) -> str:
        """The file or the address, without a password."""
        return self._backend.where

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        location: Location,
        *,
        offload: Offload = in_worker_thread,
        busy_timeout: float = BUSY_TIMEOUT,
        migrates: bool = True,
    ) -> AsyncIterator[Self]:
        """Open the database, and bring it to the schema of this version (else only see that this could be done).

        A path is that of an SQLite file, which is made (mode 0600) if need be; a lock of another program is waited for
        up to `busy_timeout` seconds at each transaction.  A PostgreSQL database must be there.
        Raises `DatabaseError`: see `Failure`; `UsageError` when the driver for PostgreSQL is not installed.
        """
        database = cls(backend_of(location, busy_timeout=busy_timeout), offload)
        try:
            await database._offload(database._prepare, lane=database._writes)
            await database.write(database._migrate if migrates else database._check)
            yield database
        finally:
            with anyio.CancelScope(shield=True):
                await database._offload(database._backend.close, lane=database._writes)

    @classmethod
    async def examine(cls, location: Location) -> None:
        """Try whether a gateway could use it, and change nothing.  Raises what `open` would."""
        if isinstance(location, Path) and not location.exists():
            return
        async with cls.open(location, migrates=False):
            pass

    async def write(self, work: Callable[[Connection], T], *, in_turn: bool = True) -> T:
        """Run `work` in one transaction that holds the right to write from its start.  Raises `DatabaseError`.

        With `in_turn=False` it may run beside other writes, where the database can do that: only for work that is
        right whatever happens beside it (because one conditional statement, or the lock of one row, decides) and
        harmless if it happens twice.  `work` may be called again after its transaction was undone.
        """
        lane, access = (self._writes, Access.WRITE) if in_turn else (self._free_writes, Access.WRITE_FREELY)
        return await self._offload(partial(self._transact, work, access), lane=lane)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent state.  Raises `DatabaseError`."""
        return await self._offload(partial(self._transact, work, Access.READ), lane=self._reads)

    def read_here(self, work: Callable[[Connection], T]) -> T:
        """As `read`, in the calling thread: for what is done within a transaction of another database."""
        return self._transact(work, Access.READ)

    def _prepare(self) -> None:
        try:
            self._backend.prepare()
        except self._backend.errors as error:
            raise self._backend.explain(error) from error

    def _migrate(self, connection: Connection) -> None:
        self._backend.prepare_migration(connection)
        migrate(connection, self.where)

    def _check(self, connection: Connection) -> None:
        check_schema(connection, self.where)

    def _transact(self, work: Callable[[Connection], T], access: Access) -> T:
        try:
            return self._backend.transact(work, access)
        except self._backend.errors as error:
            raise self._backend.explain(error) from error
        except _UNREADABLE as error:
            raise self._backend.explain(error, failure=Failure.UNREADABLE) from error


def backend_of(location: Location, *, busy_timeout: float = BUSY_TIMEOUT) -> Backend:
    """Raises `UsageError` when the driver for PostgreSQL is not installed."""
    if isinstance(location, Path):
        return SqliteBackend(location, busy_timeout=busy_timeout)
    try:
        # Only now: who keeps its data in SQLite neither has nor loads the driver.
        kind = importlib.import_module("sexton.database.postgres").PostgresBackend
    except ImportError as error:
        raise UsageError(
            "A database on PostgreSQL needs the driver psycopg, which cannot be loaded.",
            hint=f"install it: pip install 'sexton[postgres]' ({error})",
        ) from error
    return cast("Backend", kind(location))
