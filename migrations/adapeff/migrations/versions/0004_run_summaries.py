"""A row per succeeded training run with its headline figures, so that a report of many runs reads no measurements.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from alembic import op

from adapeff.service.measured import Key, Measured
from adapeff.service.store.run_summaries import SUMMARISED, summarise_run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_CHUNK = 500
_JOBS = sa.table("jobs", *map(sa.column, ("id", "kind", "state")), sa.column("spec", sa.JSON))
_RUNS = sa.table(
    "runs",
    *map(sa.column, ("id", "job_id", "outcome", "environment_id")),
    sa.column("resolved", sa.JSON),
    sa.column("finished_at", sa.DateTime(timezone=True)),
)
_ENVIRONMENTS = sa.table("environments", sa.column("id"), sa.column("values", sa.JSON))
_DIMENSIONS = ("name", "statistic", "phase", "language", "split", "batch", "length", "dtype", "variant")
_MEASUREMENTS = sa.table("measurements", *map(sa.column, ("id", "run_id", *_DIMENSIONS, "value", "unit", "reason")))


def upgrade() -> None:
    conditions = op.create_table(
        "run_conditions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_conditions")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_run_conditions_fingerprint")),
    )
    summaries = op.create_table(
        "run_summaries",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("conditions_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("learning_rate", sa.Float(precision=53), nullable=False),
        sa.Column("tuning", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("settings", sa.String(length=16), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("repeat", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(length=64), nullable=False),
        sa.Column("quality", sa.Float(precision=53), nullable=True),
        sa.Column("train_compute_s", sa.Float(precision=53), nullable=True),
        sa.Column("latency_s", sa.Float(precision=53), nullable=True),
        sa.Column("peak_memory_bytes", sa.Float(precision=53), nullable=True),
        sa.Column("stored_bytes", sa.Float(precision=53), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_summaries_run_id_runs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_run_summaries_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["conditions_id"], ["run_conditions.id"], name=op.f("fk_run_summaries_conditions_id_run_conditions")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_summaries")),
    )
    op.create_index(op.f("ix_run_summaries_job_id"), "run_summaries", ["job_id"], unique=False)
    op.create_index(op.f("ix_run_summaries_conditions_id"), "run_summaries", ["conditions_id"], unique=False)
    _fill(op.get_bind(), conditions, summaries)


def downgrade() -> None:
    op.drop_table("run_summaries")
    op.drop_table("run_conditions")


def _fill(connection: sa.Connection, conditions: sa.Table, summaries: sa.Table) -> None:
    """Summarise the existing runs; a later version may summarise more than these columns hold."""
    environments = {row.id: row[1] for row in connection.execute(sa.select(*_ENVIRONMENTS.c))}
    known: dict[str, int] = {}
    for runs in _chunks(connection):
        measured = _measured(connection, [run.id for run in runs])
        rows = []
        for run in runs:
            environment = environments.get(run.environment_id, {})
            summarised = summarise_run(run.spec, run.resolved or {}, environment, measured[run.id])
            if summarised is None:
                continue
            summary, of_run = summarised
            if of_run.fingerprint not in known:
                known[of_run.fingerprint] = len(known) + 1
                new = {"id": len(known), "fingerprint": of_run.fingerprint, "values": of_run.recorded}
                connection.execute(conditions.insert().values(new))
            about = {"run_id": run.id, "job_id": run.job_id, "conditions_id": known[of_run.fingerprint]}
            values = {**about, **asdict(summary), "finished_at": run.finished_at}
            rows.append({column.name: values[column.name] for column in summaries.columns})
        if rows:
            connection.execute(summaries.insert(), rows)
    if connection.dialect.name == "postgresql" and known:
        sequence = sa.func.pg_get_serial_sequence("run_conditions", "id")
        connection.execute(sa.select(sa.func.setval(sequence, len(known))))


def _chunks(connection: sa.Connection) -> Iterator[Sequence[sa.Row[Any]]]:
    """The training runs that count, some at a time."""
    wanted = (
        sa.select(_RUNS.c.id, _RUNS.c.job_id, _RUNS.c.resolved, _RUNS.c.environment_id, _RUNS.c.finished_at)
        .add_columns(_JOBS.c.spec)
        .join(_JOBS, _JOBS.c.id == _RUNS.c.job_id)
        .where(_JOBS.c.kind == "train", _JOBS.c.state == "succeeded", _RUNS.c.outcome == "succeeded")
        .order_by(_RUNS.c.id)
        .limit(_CHUNK)
    )
    runs = connection.execute(wanted).all()
    while runs:
        yield runs
        runs = connection.execute(wanted.where(_RUNS.c.id > runs[-1].id)).all()


def _measured(connection: sa.Connection, run_ids: Sequence[int]) -> dict[int, list[Measured]]:
    of = _MEASUREMENTS.c
    wanted = (
        sa.select(of.run_id, *(of[name] for name in _DIMENSIONS), of.value, of.unit, of.reason)
        .where(of.run_id.in_(run_ids), sa.or_(of.name.in_(SUMMARISED), of.split == "test"))
        .order_by(of.run_id, of.id)
    )
    measured: dict[int, list[Measured]] = {run_id: [] for run_id in run_ids}
    for run_id, *where, value, unit, reason in connection.execute(wanted):
        measured[run_id].append(Measured(Key(**dict(zip(_DIMENSIONS, where, strict=True))), value, unit, reason))
    return measured
