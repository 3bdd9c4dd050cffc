"""Measurements, scores by example and curves say which member of a mixture of tasks they are of; '' is the whole job.

Everything stored so far is of whole jobs.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = ("run_id", "name", "statistic", "phase", "language", "split", "batch", "length", "dtype", "variant")
_KEYS = {"example_scores": ("run_id", "language"), "curves": ("run_id", "name")}


def upgrade() -> None:
    with op.batch_alter_table("measurements") as batch:
        batch.add_column(sa.Column("task", sa.Text(), nullable=False, server_default=""))
        batch.drop_constraint("uq_measurements_key", type_="unique")
        batch.create_unique_constraint("uq_measurements_key", [*_KEY, "task"])
    for table, key in _KEYS.items():
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("task", sa.Text(), nullable=False, server_default=""))
            batch.drop_constraint(op.f(f"pk_{table}"), type_="primary")
            batch.create_primary_key(op.f(f"pk_{table}"), [*key, "task"])


def downgrade() -> None:
    """Drop the figures of members, which older tables cannot hold."""
    for table in ("measurements", *_KEYS):
        rows = sa.table(table, sa.column("task"))
        op.execute(rows.delete().where(rows.c.task != ""))
    for table, key in _KEYS.items():
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(op.f(f"pk_{table}"), type_="primary")
            batch.create_primary_key(op.f(f"pk_{table}"), list(key))
            batch.drop_column("task")
    with op.batch_alter_table("measurements") as batch:
        batch.drop_constraint("uq_measurements_key", type_="unique")
        batch.create_unique_constraint("uq_measurements_key", list(_KEY))
        batch.drop_column("task")
