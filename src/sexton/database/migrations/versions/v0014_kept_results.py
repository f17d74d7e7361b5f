"""Results that were too long for a model at once, in parts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "kept_result",
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("holder", "name", "part", name="pk_kept_result"),
    )
    op.create_index("ix_kept_result_at", "kept_result", ["at"])


def downgrade() -> None:
    op.drop_table("kept_result")
