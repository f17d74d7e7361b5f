"""Several nodes: what each offers, which are drained, and runs that an engine distributes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("handed_at", sa.BigInteger))
    op.add_column("node", sa.Column("offers", sa.JSON))
    op.add_column("node", sa.Column("beat_at", sa.BigInteger))
    op.create_table(
        "need",
        sa.Column("queue", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("queue", name="pk_need"),
    )
    op.create_table(
        "drained_node",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_drained_node"),
    )
    op.create_table(
        "job_source",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("job", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("node", "job", name="pk_job_source"),
    )
    if op.get_bind().dialect.name == "postgresql":
        waits = sa.text("state = 'queued' AND handed_at IS NULL")
        active = sa.text("state IN ('queued', 'running')")
        op.create_index("ix_run_to_hand_over", "run", ["priority", "id"], postgresql_where=waits)
        op.create_index("ix_run_active", "run", ["job"], postgresql_where=active)
