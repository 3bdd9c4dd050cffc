"""Jobs have a kind and the time of their last change; the part of a step is called optimizer.

Until now a profile job was recognized by its task's name, so a user's task called `profile` was taken for one. The
specification has always recorded the kind.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JOBS = sa.table(
    "jobs",
    sa.column("kind", sa.String),
    sa.column("spec", sa.JSON),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("changed_at", sa.DateTime(timezone=True)),
    sa.column("finished_at", sa.DateTime(timezone=True)),
)
_MEASUREMENTS = sa.table(
    "measurements", sa.column("name", sa.String), sa.column("phase", sa.String), sa.column("variant", sa.Text)
)


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("kind", sa.String(length=16), nullable=True))
        batch.add_column(sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True))
    is_profile = _JOBS.c.spec["kind"].as_string() == "profile"
    op.execute(
        _JOBS.update().values(
            kind=sa.case((is_profile, "profile"), else_="train"),
            changed_at=sa.func.coalesce(_JOBS.c.finished_at, _JOBS.c.created_at),
        )
    )
    with op.batch_alter_table("jobs") as batch:
        batch.alter_column("kind", existing_type=sa.String(length=16), nullable=False)
        batch.alter_column("changed_at", existing_type=sa.DateTime(timezone=True), nullable=False)
        batch.create_check_constraint(op.f("ck_jobs_kind"), "kind IN ('train', 'profile', 'deploy')")
    op.create_index(op.f("ix_jobs_changed_at"), "jobs", ["changed_at"], unique=False)
    _rename_part("optimiser", "optimizer")


def downgrade() -> None:
    _rename_part("optimizer", "optimiser")
    op.drop_index(op.f("ix_jobs_changed_at"), "jobs")
    with op.batch_alter_table("jobs") as batch:
        batch.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        batch.drop_column("changed_at")
        batch.drop_column("kind")


def _rename_part(old: str, new: str) -> None:
    """Rename a part of a training step: a phase of its latency, and a part of its memory."""
    measured = _MEASUREMENTS.c
    op.execute(_MEASUREMENTS.update().where(measured.phase == old).values(phase=new))
    old_part, new_part = f'"part":"{old}"', f'"part":"{new}"'
    op.execute(
        _MEASUREMENTS.update()
        .where(measured.name == "memory_bytes", measured.variant.contains(old_part, autoescape=True))
        .values(variant=sa.func.replace(measured.variant, old_part, new_part))
    )
