"""Brings a database to the schema of this version.

Within a minor release (0.1.x) a migration only adds: tables, indexes, and columns that may be left out of an INSERT.
So every version of that release can use the schema of every later one of it, and the gateways on one database can be
replaced one after the other.  Which release changed the schema last stands in `schema_line`; a version of an older
release refuses it.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, insert, inspect, select

from sexton.database.failures import newer_schema
from sexton.database.tables import schema_line

MIGRATIONS = Path(__file__).with_name("migrations")
LINE = "0.1"
"""The minor release that this is; a test compares it with the version."""


def migrate(connection: Connection, where: str) -> None:
    """Run the migrations that are missing, within the transaction of `connection`.

    Raises `DatabaseError` when the schema is that of a newer minor release.
    """
    config = _config()
    if not _is_behind(connection, where, ScriptDirectory.from_config(config)):
        return
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.execute(delete(schema_line))
    connection.execute(insert(schema_line).values(id=1, line=LINE))


def revision_of(connection: Connection) -> str | None:
    """The last migration that was run there; None: none was."""
    return MigrationContext.configure(connection).get_current_revision()


def check_schema(connection: Connection, where: str) -> None:
    """Raises `DatabaseError` when `migrate` would."""
    _is_behind(connection, where, ScriptDirectory.from_config(_config()))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _is_behind(connection: Connection, where: str, script: ScriptDirectory) -> bool:
    head = script.get_current_head()
    assert head is not None
    found = revision_of(connection)
    if found is None or found in {revision.revision for revision in script.walk_revisions()}:
        return found != head
    if _line_of(connection) != LINE:
        raise newer_schema(where, found, head)
    return False


def _line_of(connection: Connection) -> str | None:
    if not inspect(connection).has_table(schema_line.name):
        return None
    found: str | None = connection.execute(select(schema_line.c.line)).scalar()
    return found
