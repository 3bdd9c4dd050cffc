"""The tables.

The database is the source of truth: a job's row records the request and its state, a run's row one attempt at it.
Columns of a measurement's key are never NULL ('' or 0 if they do not apply), because UNIQUE ignores NULLs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JOB_KINDS = ("train", "profile", "deploy")
JOB_STATES = ("queued", "running", "succeeded", "failed", "cancelled")
FINAL_STATES = ("succeeded", "failed", "cancelled")
RUN_OUTCOMES = ("running", "succeeded", "error", "oom", "killed", "timeout", "cancelled", "lost", "released")
IMPORTED = "imported"
"""The stage of a run whose folder belongs to the database that it was imported from."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python; `timestamptz` on PostgreSQL, naive UTC text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; SQLite stores times without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Restore the time zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}


class Sweep(Base):
    """A submitted sweep."""

    __tablename__ = "sweeps"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), index=True)
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    announced_at: Mapped[datetime | None]
    """When the end of its jobs was announced; None: not yet."""


class SweepJob(Base):
    """Which jobs belong to a sweep; a job may belong to several."""

    __tablename__ = "sweep_jobs"

    sweep_id: Mapped[int] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True)


class Job(Base):
    """One cell of a sweep or one profile: the request, and its state."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(_one_of("kind", JOB_KINDS), name="kind"),
        CheckConstraint(_one_of("state", JOB_STATES), name="state"),
        CheckConstraint(
            "(state = 'running') = (lease_owner IS NOT NULL) AND (state = 'running') = (lease_until IS NOT NULL)",
            name="running_has_lease",
        ),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        Index("ix_jobs_queued", "lane", "priority", "id", sqlite_where=text("state = 'queued'"),
              postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_running", "lease_until", sqlite_where=text("state = 'running'"),
              postgresql_where=text("state = 'running'")),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    job_hash: Mapped[str] = mapped_column(String(64), unique=True)
    train_hash: Mapped[str] = mapped_column(String(64), index=True)
    spec: Mapped[dict[str, Any]]
    model: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    seed: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    cause: Mapped[str] = mapped_column(Text, default="")
    lane: Mapped[str] = mapped_column(String(32))
    priority: Mapped[int]
    held: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it stays queued until someone releases it; False in every other state."""
    token: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    max_failures: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime] = mapped_column(index=True)
    """When the state last changed or its cancellation was requested; `job_watch.JobWatch` polls by it."""
    finished_at: Mapped[datetime | None]

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        return (
            f"profile of {self.method}" if self.kind == "profile" else f"{self.method} on {self.task}, seed {self.seed}"
        )


class JobSource(Base):
    """A job whose artifacts another job needs."""

    __tablename__ = "job_sources"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class Environment(Base):
    """The environment of runs: device, driver, versions; one row per distinct environment."""

    __tablename__ = "environments"

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    values: Mapped[dict[str, Any]]


class Run(Base):
    """One attempt at a job by one worker."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("job_id", "token"),
        CheckConstraint(_one_of("outcome", RUN_OUTCOMES), name="outcome"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    token: Mapped[int]
    worker: Mapped[str] = mapped_column(String(200))
    slot: Mapped[str] = mapped_column(String(50))
    folder: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text, default="")
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]
    stage: Mapped[str] = mapped_column(String(32), default="")
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    resolved: Mapped[dict[str, Any]] = mapped_column(default=dict)
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environments.id"), index=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Worker(Base):
    """A worker process that serves the queue, or that runs the jobs of one submission."""

    __tablename__ = "workers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    host: Mapped[str] = mapped_column(String(200))
    device: Mapped[str] = mapped_column(String(32))
    slots: Mapped[list[Any]]
    version: Mapped[str] = mapped_column(String(64))
    sweep_id: Mapped[int | None]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    alive_until: Mapped[datetime]
    stopped_at: Mapped[datetime | None]


class Measurement(Base):
    """One number, in long form."""

    __tablename__ = "measurements"
    __table_args__ = (
        UniqueConstraint(
            "run_id", "name", "statistic", "phase", "language", "split", "batch", "length", "dtype", "variant",
            "task", name="uq_measurements_key",
        ),
        Index("ix_measurements_name_value", "name", "value"),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(64))
    statistic: Mapped[str] = mapped_column(String(16), default="")
    phase: Mapped[str] = mapped_column(String(32), default="")
    language: Mapped[str] = mapped_column(String(32), default="")
    split: Mapped[str] = mapped_column(String(16), default="")
    batch: Mapped[int] = mapped_column(default=0)
    length: Mapped[int] = mapped_column(default=0)
    dtype: Mapped[str] = mapped_column(String(16), default="")
    variant: Mapped[str] = mapped_column(Text, default="")
    task: Mapped[str] = mapped_column(Text, default="", server_default="")
    value: Mapped[float | None] = mapped_column(Float(53))
    unit: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="")


class RunConditions(Base):
    """The conditions of runs that may share a table; one row per distinct set of them."""

    __tablename__ = "run_conditions"

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    values: Mapped[dict[str, Any]]


class StoredSummary(Base):
    """The headline figures of a succeeded training run, as `run_summaries.RunSummary` describes them."""

    __tablename__ = "run_summaries"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    conditions_id: Mapped[int] = mapped_column(ForeignKey("run_conditions.id"), index=True)
    model: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    learning_rate: Mapped[float] = mapped_column(Float(53))
    tuning: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text)
    settings: Mapped[str] = mapped_column(String(16))
    seed: Mapped[int]
    repeat: Mapped[int]
    metric: Mapped[str] = mapped_column(String(64))
    quality: Mapped[float | None] = mapped_column(Float(53))
    train_compute_s: Mapped[float | None] = mapped_column(Float(53))
    latency_s: Mapped[float | None] = mapped_column(Float(53))
    peak_memory_bytes: Mapped[float | None] = mapped_column(Float(53))
    stored_bytes: Mapped[float | None] = mapped_column(Float(53))
    finished_at: Mapped[datetime | None]


class Curve(Base):
    """A series of (step, value) points of a run."""

    __tablename__ = "curves"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(Text, primary_key=True, default="", server_default="")
    points: Mapped[list[Any]]


class ExampleScores(Base):
    """A score per test example of a run, in the data's order, packed by `store.example_scores`."""

    __tablename__ = "example_scores"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    language: Mapped[str] = mapped_column(String(32), primary_key=True)
    task: Mapped[str] = mapped_column(Text, primary_key=True, default="", server_default="")
    metric: Mapped[str] = mapped_column(String(64))
    packed: Mapped[bytes] = mapped_column(LargeBinary)


class Artifact(Base):
    """A file stored by a run."""

    __tablename__ = "artifacts"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    uri: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
