"""What went wrong with PostgreSQL, in words that say what to do (pure)."""

from __future__ import annotations

import re

from sexton.database.failures import DatabaseError, Failure

_WORDS: dict[Failure, tuple[str, str]] = {
    Failure.AWAY: (
        "The database {where} cannot be reached.",
        "see that the server runs and can be reached from here; what waits to be written is tried again by itself",
    ),
    Failure.ADDRESS: (
        "The address of the database {where} cannot be understood.",
        "write it as libpq takes it: postgresql://USER:PASSWORD@HOST:PORT/NAME?sslmode=require",
    ),
    Failure.LOGIN: (
        "The database {where} does not let us in.",
        "check user and password in `database`, and the server's pg_hba.conf",
    ),
    Failure.NO_DATABASE: (
        "There is no database {where}.",
        "make it, as a user who may: createdb --encoding UTF8 --template template0 NAME",
    ),
    Failure.CROWDED: (
        "The server of the database {where} has no room for us.",
        "raise max_connections (a gateway takes up to 10) or its memory, or end what holds them (pg_stat_activity)",
    ),
    Failure.FORBIDDEN: (
        "The user may not do on the database {where} what the gateway needs.",
        "let the user own the database (ALTER DATABASE … OWNER TO …), or grant it CREATE and USAGE on its schema",
    ),
    Failure.UNFIT: (
        "The database {where} cannot be used.",
        "use PostgreSQL 14 or newer, and a database with the encoding UTF8",
    ),
    Failure.LOCKED: (
        "The database {where} is busy: what was asked had to wait for too long.",
        "look at what holds it (pg_stat_activity, pg_locks); what waits to be written is tried again by itself",
    ),
    Failure.READ_ONLY: (
        "The database {where} cannot be written.",
        "name the primary server in `database`, not a standby (several hosts: target_session_attrs=read-write)",
    ),
    Failure.CORRUPT: (
        "The database {where} is damaged.",
        "look at the server's log; restore it from a backup, or let its administrator see to it",
    ),
    Failure.FULL: (
        "The disk that holds the database {where} is full.",
        "free space on the server; what waits to be written is tried again by itself",
    ),
    Failure.INPUT_OUTPUT: (
        "The disk that holds the database {where} does not take what is written.",
        "look at the server's log and its disk; what waits to be written is tried again by itself",
    ),
    Failure.UNREADABLE: (
        "The database {where} holds something that cannot be read.",
        "if it was edited by hand, put it back; else restore it from a backup",
    ),
    Failure.OTHER: ("The database {where} failed.", "try again; if it stays, report it with this text"),
}

# Appendix A of PostgreSQL's manual, "PostgreSQL Error Codes"; two letters stand for their whole class.
_BY_CODE = {
    "08": Failure.AWAY,
    "57P01": Failure.AWAY,  # admin_shutdown
    "57P02": Failure.AWAY,  # crash_shutdown
    "57P03": Failure.AWAY,  # cannot_connect_now
    "57P05": Failure.AWAY,  # idle_session_timeout
    "28": Failure.LOGIN,
    "3D000": Failure.NO_DATABASE,
    "57P04": Failure.NO_DATABASE,  # database_dropped
    "53100": Failure.FULL,
    "53": Failure.CROWDED,
    "42501": Failure.FORBIDDEN,
    "3F000": Failure.FORBIDDEN,  # no schema has been selected to create in
    "25006": Failure.READ_ONLY,
    "25P03": Failure.LOCKED,  # idle_in_transaction_session_timeout: we were frozen while it was our turn
    "40001": Failure.LOCKED,
    "40P01": Failure.LOCKED,
    "55P03": Failure.LOCKED,
    "57014": Failure.LOCKED,  # query_canceled: the statement timeout
    "58": Failure.INPUT_OUTPUT,
    "XX001": Failure.CORRUPT,
    "XX002": Failure.CORRUPT,
}
# libpq gives no code when a connection cannot be made; servers that speak another language are told as AWAY.
_BY_TEXT = (
    (r"password authentication failed|no password supplied|authentication failed|pg_hba\.conf", Failure.LOGIN),
    (r"role \".*\" (does not exist|is not permitted to log in)|certificate", Failure.LOGIN),
    (r"database \".*\" does not exist|not currently accepting connections", Failure.NO_DATABASE),
    (r"permission denied for database", Failure.FORBIDDEN),
    (r"too many (clients|connections)|remaining connection slots", Failure.CROWDED),
    (r"session is (read-only|not read-only)|server is in hot standby mode", Failure.READ_ONLY),
)


def failure_of_postgres(error: BaseException | None) -> Failure:
    """Which failure an error of psycopg stands for."""
    if code := getattr(error, "sqlstate", None):
        return _BY_CODE.get(code) or _BY_CODE.get(code[:2], Failure.OTHER)
    if type(error).__name__ == "ProgrammingError":
        return Failure.ADDRESS
    if type(error).__name__ not in {"OperationalError", "ConnectionTimeout", "InterfaceError"}:
        return Failure.OTHER
    told = str(error)
    return next((failure for pattern, failure in _BY_TEXT if re.search(pattern, told)), Failure.AWAY)


def explain_postgres(failure: Failure, where: str, told: str) -> DatabaseError:
    """`told` is what the server or the driver said, without any password."""
    what, hint = _WORDS[failure]
    said = " ".join(told.split()).rstrip(".")
    return DatabaseError(failure, what.format(where=where) + (f" It was said: {said}." if said else ""), hint=hint)
