"""Files that came in over channels and that go out with deliveries; and until when a receiver wants us to wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("delivery", sa.Column("not_before", sa.BigInteger))
    op.create_table(
        "inbox_file",
        sa.Column("message", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("content", sa.LargeBinary),
        sa.Column("why", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("message", "place", name="pk_inbox_file"),
        sa.ForeignKeyConstraint(["message"], ["inbox.id"], name="fk_inbox_file_message", ondelete="CASCADE"),
    )
    op.create_table(
        "delivery_file",
        sa.Column("delivery", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("delivery", "place", name="pk_delivery_file"),
        sa.ForeignKeyConstraint(["delivery"], ["delivery.id"], name="fk_delivery_file_delivery", ondelete="CASCADE"),
    )


def downgrade() -> None:
    op.drop_table("delivery_file")
    op.drop_table("inbox_file")
    with op.batch_alter_table("delivery") as table:
        table.drop_column("not_before")
