"""What one kind of database must be able to do for `Database`."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from sexton.database.failures import DatabaseError, Failure

T = TypeVar("T")


class Access(enum.Enum):
    READ = "read"
    WRITE = "write"
    """In turn with every other such write, of whatever gateway."""
    WRITE_FREELY = "write freely"
    """Beside other writes; harmless if it happens twice."""


class Backend(Protocol):
    """Transactions on one database, in the calling thread."""

    where: str
    """For people: without any password."""
    parallel_reads: int
    parallel_writes: int
    """How many free writes may be under way beside the one that has its turn; 0: they take turns too."""
    errors: tuple[type[BaseException], ...]
    """What `prepare` and `transact` raise when the database fails."""

    def prepare(self) -> None:
        """Before the first transaction: make what can be made, refuse what cannot serve."""
        ...

    def prepare_migration(self, connection: Connection) -> None:
        """At the start of the transaction that migrates."""
        ...

    def transact(self, work: Callable[[Connection], T], access: Access) -> T: ...

    def explain(self, error: BaseException, *, failure: Failure | None = None) -> DatabaseError:
        """`error` in words that say what to do; `failure` where the caller knows what it stands for."""
        ...

    def close(self) -> None: ...
