"""What went wrong with the database, in words that say what to do."""

from __future__ import annotations

import enum
import sqlite3

from sexton.errors import SextonError


class Failure(enum.StrEnum):
    LOCKED = "locked"
    READ_ONLY = "read-only"
    CORRUPT = "corrupt"
    FULL = "full"
    CANNOT_OPEN = "cannot open"
    NEWER_SCHEMA = "newer schema"
    OTHER = "other"


class DatabaseError(SextonError):
    """The database could not do what was asked.  `failure` says why; `passing` whether trying again can help."""

    def __init__(self, failure: Failure, what: str, *, hint: str) -> None:
        super().__init__(what, hint=hint)
        self.failure = failure

    @property
    def passing(self) -> bool:
        return self.failure in {Failure.LOCKED, Failure.FULL, Failure.READ_ONLY, Failure.OTHER}


_WORDS: dict[Failure, tuple[str, str]] = {
    Failure.LOCKED: (
        "The database {where} is locked by another program.",
        "close the program that has it open (fuser '{where}' names it)",
    ),
    Failure.READ_ONLY: (
        "The database {where} cannot be written.",
        "make the file and its folder writable for this user, or choose another folder with --data",
    ),
    Failure.CORRUPT: (
        "The database {where} is damaged or is no SQLite database.",
        (
            "stop the gateway, move the file aside and start again: the jobs of the config file come back, the history "
            "does not (`sqlite3 '{where}' .recover` may save it)"
        ),
    ),
    Failure.FULL: (
        "The disk that holds the database {where} is full.",
        "free space there; what waits to be written is tried again by itself",
    ),
    Failure.CANNOT_OPEN: (
        "The database {where} cannot be opened.",
        "check that its folder exists and that this user may write there, or choose another folder with --data",
    ),
    Failure.OTHER: ("The database {where} failed.", "try again; if it stays, report it with this text"),
}

# The low byte of SQLite's extended result codes, https://www.sqlite.org/rescode.html.  A write past a file size limit
# or a quota is reported as an input/output error, so that one is told apart by its extended code.
_BY_CODE = {
    sqlite3.SQLITE_BUSY: Failure.LOCKED,
    sqlite3.SQLITE_LOCKED: Failure.LOCKED,
    sqlite3.SQLITE_READONLY: Failure.READ_ONLY,
    sqlite3.SQLITE_PERM: Failure.READ_ONLY,
    sqlite3.SQLITE_CORRUPT: Failure.CORRUPT,
    sqlite3.SQLITE_NOTADB: Failure.CORRUPT,
    sqlite3.SQLITE_FULL: Failure.FULL,
    sqlite3.SQLITE_CANTOPEN: Failure.CANNOT_OPEN,
}
_NO_ROOM = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
}


def failure_of(error: BaseException | None) -> Failure:
    """Which failure an error of the driver stands for."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(code, int):
        return Failure.OTHER
    return Failure.FULL if code in _NO_ROOM else _BY_CODE.get(code & 0xFF, Failure.OTHER)


def explain(failure: Failure, where: str, cause: BaseException | None) -> DatabaseError:
    what, hint = _WORDS[failure]
    told = f" SQLite says: {cause}." if cause else ""
    return DatabaseError(failure, what.format(where=where) + told, hint=hint.format(where=where))


def newer_schema(where: str, found: str, known: str) -> DatabaseError:
    return DatabaseError(
        Failure.NEWER_SCHEMA,
        f"The database {where} was written by a newer Sexton (schema {found}; this one knows up to {known}).",
        hint="install the newer Sexton again, or choose another folder with --data",
    )
