"""How often the clock was set back under a job's interval."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("lap", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("job", "lap")
