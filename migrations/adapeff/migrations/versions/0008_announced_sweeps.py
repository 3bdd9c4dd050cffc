"""Sweeps record when their end was announced; those that are there count as announced.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE sweeps SET announced_at = created_at")


def downgrade() -> None:
    op.drop_column("sweeps", "announced_at")
