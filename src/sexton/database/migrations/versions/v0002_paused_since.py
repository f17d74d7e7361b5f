"""Since when a job is paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("paused_at", sa.BigInteger))
    op.execute("UPDATE job SET paused_at = changed_at WHERE paused")


def downgrade() -> None:
    op.drop_column("job", "paused_at")
