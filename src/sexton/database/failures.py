"""What went wrong with the database, in words that say what to do."""

from __future__ import annotations

import enum
import errno
import sqlite3

from sexton.errors import SextonError


class Failure(enum.StrEnum):
    LOCKED = "locked"
    READ_ONLY = "read-only"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"
    """SQLite finds no fault with it, and yet a row holds what nobody wrote."""
    FULL = "full"
    CANNOT_OPEN = "cannot open"
    INPUT_OUTPUT = "input/output"
    """The disk refused, and SQLite does not tell why (no room, over quota, read-only, broken)."""
    NEWER_SCHEMA = "newer schema"
    AWAY = "away"
    """The server cannot be reached, or is starting or stopping."""
    ADDRESS = "address"
    LOGIN = "login"
    """The server does not let us in: user, password, certificate or its list of who may come from where."""
    NO_DATABASE = "no database"
    CROWDED = "crowded"
    """The server has no connection, or no memory, left for us."""
    FORBIDDEN = "forbidden"
    """The user lacks a privilege."""
    UNFIT = "unfit"
    """The server is too old, or keeps this database in an encoding that cannot hold every text."""
    OTHER = "other"


class DatabaseError(SextonError):
    """The database could not do what was asked.  `failure` says why; `passing` whether trying again can help."""

    def __init__(self, failure: Failure, what: str, *, hint: str) -> None:
        super().__init__(what, hint=hint)
        self.failure = failure

    @property
    def passing(self) -> bool:
        return self.failure in {
            Failure.LOCKED,
            Failure.UNREADABLE,
            Failure.FULL,
            Failure.READ_ONLY,
            Failure.INPUT_OUTPUT,
            Failure.AWAY,
            Failure.CROWDED,
            Failure.OTHER,
        }


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
    Failure.UNREADABLE: (
        "The database {where} holds something that cannot be read.",
        "if it was edited by hand, put it back; else it is damaged: stop the gateway, move the file aside, start again",
    ),
    Failure.FULL: (
        "The disk that holds the database {where} is full.",
        "free space there; what waits to be written is tried again by itself",
    ),
    Failure.CANNOT_OPEN: (
        "The database {where} cannot be opened.",
        "check that its folder exists and that this user may write there, or choose another folder with --data",
    ),
    Failure.INPUT_OUTPUT: (
        "The disk that holds the database {where} does not take what is written.",
        "look at the disk and at its quota (dmesg, df, quota); what waits to be written is tried again by itself",
    ),
    Failure.OTHER: ("The database {where} failed.", "try again; if it stays, report it with this text"),
}

# The low byte of SQLite's extended result codes, https://www.sqlite.org/rescode.html.  Of writes that are refused it
# tells only a full disk; quota, limits, a read-only disk and a broken one are all input/output errors.
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
_NOT_WRITTEN = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
}
_BY_ERRNO = {
    errno.ENOSPC: Failure.FULL,
    errno.EDQUOT: Failure.FULL,
    errno.EFBIG: Failure.FULL,
    errno.EROFS: Failure.READ_ONLY,
    errno.EPERM: Failure.READ_ONLY,
    errno.EACCES: Failure.READ_ONLY,
}


def failure_of(error: BaseException | None) -> Failure:
    """Which failure an error of the driver stands for."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(code, int):
        return Failure.OTHER
    return Failure.INPUT_OUTPUT if code in _NOT_WRITTEN else _BY_CODE.get(code & 0xFF, Failure.OTHER)


def failure_to_write(number: int | None) -> Failure:
    """Which failure the errno of a refused write stands for."""
    return _BY_ERRNO.get(number or 0, Failure.INPUT_OUTPUT)


def explain(failure: Failure, where: str, cause: BaseException | None) -> DatabaseError:
    what, hint = _WORDS[failure]
    speaker = "SQLite says" if isinstance(cause, sqlite3.Error) else "It raised"
    told = f" {speaker}: {cause}." if cause else ""
    return DatabaseError(failure, what.format(where=where) + told, hint=hint.format(where=where))


def newer_schema(where: str, found: str, known: str) -> DatabaseError:
    return DatabaseError(
        Failure.NEWER_SCHEMA,
        f"The database {where} was written by a newer Sexton (schema {found}; this one knows up to {known}).",
        hint="install the newer Sexton again, or choose another folder with --data",
    )
