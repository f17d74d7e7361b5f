"""Jobs, runs, their output, and the gateways that run them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("next_slot", sa.BigInteger),
        sa.Column("next_start", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_job"),
    )
    op.create_index("ix_job_next_start", "job", ["next_start"])
    op.create_table(
        "run",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("job", sa.String(255), nullable=False),
        sa.Column("slot", sa.BigInteger),
        sa.Column("slot_end", sa.BigInteger),
        sa.Column("slot_count", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("trigger", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("excerpt", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("cancel_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.UniqueConstraint("job", "slot", "attempt", name="uq_run_job_slot_attempt"),
    )
    op.create_index("ix_run_job_id", "run", ["job", "id"])
    op.create_index("ix_run_state_priority", "run", ["state", "priority", "id"])
    op.create_table(
        "run_output",
        sa.Column("run", sa.String(36), nullable=False),
        sa.Column("output", sa.Text),
        sa.Column("log", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("run", name="pk_run_output"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], ondelete="CASCADE", name="fk_run_output_run"),
    )
    op.create_table(
        "node",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("process", sa.JSON, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_node"),
    )


def downgrade() -> None:
    for table in ("node", "run_output", "run", "job"):
        op.drop_table(table)
