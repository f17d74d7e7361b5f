"""Messages on chat platforms that say how far a turn is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "progress_note",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("chat", sa.String(255), nullable=False),
        sa.Column("context", sa.JSON, nullable=False),
        sa.Column("message", sa.String(255)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_progress_note"),
    )


def downgrade() -> None:
    op.drop_table("progress_note")
