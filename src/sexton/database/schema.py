"""Brings a database to the schema of this version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from sexton.database.failures import newer_schema

MIGRATIONS = Path(__file__).with_name("migrations")


def migrate(connection: Connection, where: str) -> None:
    """Run the migrations that are missing, within the transaction of `connection`.

    Raises `DatabaseError` when the schema is newer than this version knows.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    assert head is not None
    found = MigrationContext.configure(connection).get_current_revision()
    if found == head:
        return
    if found is not None and found not in {revision.revision for revision in script.walk_revisions()}:
        raise newer_schema(where, found, head)
    command.upgrade(config, "head")
