"""How nodes that are gone ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "past_node",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("how", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("settled", sa.Integer, nullable=False),
        sa.Column("rerun", sa.Integer, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("offers", sa.JSON),
        sa.PrimaryKeyConstraint("name", name="pk_past_node"),
    )


def downgrade() -> None:
    op.drop_table("past_node")
