"""For which minor release the schema was last changed, so that its other versions know that they can use it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schema_line",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("line", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schema_line"),
    )


def downgrade() -> None:
    op.drop_table("schema_line")
