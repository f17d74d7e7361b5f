"""Run by Alembic: migrates over the connection that `sexton.database.schema` hands in, within its transaction."""

from __future__ import annotations

from alembic import context

from sexton.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
