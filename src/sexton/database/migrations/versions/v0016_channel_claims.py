"""Which node keeps each channel."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "channel_claim",
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_channel_claim"),
    )


def downgrade() -> None:
    op.drop_table("channel_claim")
