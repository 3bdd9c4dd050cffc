"""Queued jobs can be held.

The column is added without copying the table: it has a default that each database keeps beside the rows.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Held jobs become queued jobs like others."""
    op.drop_column("jobs", "held")
