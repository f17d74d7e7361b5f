"""What comes in over chat platforms, and who may talk to us there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("chat", sa.String(255), nullable=False),
        sa.Column("thread", sa.String(255), nullable=False),
        sa.Column("sender", sa.String(255), nullable=False),
        sa.Column("author", sa.String(255), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("context", sa.JSON, nullable=False),
        sa.Column("conversation", sa.String(400)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
        sa.UniqueConstraint("channel", "key", name="uq_inbox_channel_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_inbox_state_id", "inbox", ["state", "id"])
    op.create_table(
        "channel_cursor",
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("cursor", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_channel_cursor"),
    )
    op.create_table(
        "channel_person",
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("sender", sa.String(255), nullable=False),
        sa.Column("author", sa.String(255), nullable=False),
        sa.Column("standing", sa.String(16), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("told_at", sa.BigInteger),
        sa.Column("code", sa.String(16)),
        sa.Column("by", sa.String(255)),
        sa.Column("wrong_codes", sa.Integer, nullable=False),
        sa.Column("wrong_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("channel", "sender", name="pk_channel_person"),
    )
    op.create_table(
        "channel_thread",
        sa.Column("conversation", sa.String(400), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("conversation", name="pk_channel_thread"),
    )
    op.create_table(
        "pairing_code",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk_pairing_code"),
    )


def downgrade() -> None:
    for table in ("pairing_code", "channel_thread", "channel_person", "channel_cursor", "inbox"):
        op.drop_table(table)
