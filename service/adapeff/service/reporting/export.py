"""Export what is stored in long form, for other tools: measurements, jobs, curves, and the environments of runs.

Rows are read as they are written, so that an export of any size needs little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Float, Integer, Select, select
from sqlalchemy.orm import Session

from adapeff.service.measured import Key
from adapeff.service.reporting.variation import settings_of, varying_keys
from adapeff.service.specs.job import canonical_json
from adapeff.service.store import job_queries, results, sweeps
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import Curve, Environment, Job, Measurement, Run

What = Literal["measurements", "jobs", "curves", "environments"]
Kind = Literal["integer", "number", "boolean", "text"]
_CHUNK = 500
"""Jobs or runs read at a time."""
_CURVES = 20
"""Curves read at a time; one may have a point per training step."""


class ExportColumn(NamedTuple):
    """A column and the kind of its values; any of them may be None."""

    name: str
    kind: Kind


class Group(NamedTuple):
    """Consecutive rows: the values they share, and those of each row."""

    shared: tuple[Any, ...]
    rows: Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Export:
    """Rows to be written as they are read, which is possible once."""

    shared: tuple[ExportColumn, ...]
    """The first columns: one value for each group."""
    own: tuple[ExportColumn, ...]
    """The other columns: one value for each row."""
    groups: Iterator[Group]

    @property
    def columns(self) -> tuple[ExportColumn, ...]:
        """All columns in order."""
        return (*self.shared, *self.own)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dictionary."""
        names = [column.name for column in self.columns]
        for shared, rows in self.groups:
            for row in rows:
                yield dict(zip(names, (*shared, *row), strict=True))


def open_export(session: Session, what: What = "measurements", *, sweep_ids: Sequence[int] | None = None) -> Export:
    """Start an export; its rows are read while the session is open.

    `measurements` and `curves` are those of succeeded jobs, ordered by job; each setting in which these jobs differ is
    a column of the measurements. If some of the jobs measured the members of a mixture of tasks, the column `member`
    names them; it is empty for figures of the whole job. `jobs` and `environments` (a row per run) include jobs in
    every state. JSON values are text, times ISO 8601.

    Args:
        sweep_ids: only jobs of these submissions; None: all.
    """
    openers: dict[What, Callable[[Session, Sequence[int] | None], Export]] = {
        "measurements": _measurements,
        "jobs": _jobs,
        "curves": _curves,
        "environments": _environments,
    }
    return openers[what](session, sweep_ids)


def _of_kind(kind: Kind, *names: str) -> Iterator[ExportColumn]:
    for name in names:
        yield ExportColumn(name, kind)


_DIMENSIONS = tuple(name for name in Key._fields if name != "task")
_MEMBER = ExportColumn("member", "text")
"""The last dimension of a key, `task`; the column `task` is the job's."""
_ABOUT_A_JOB = (
    *_of_kind("integer", "job_id"),
    *_of_kind("text", "job_hash"),
    *_of_kind("integer", "run_id"),
    *_of_kind("text", "model", "task", "method"),
)


def _measurements(session: Session, sweep_ids: Sequence[int] | None) -> Export:
    job_ids, varied = _succeeded(session, sweep_ids)
    shared = (
        *_ABOUT_A_JOB,
        *_of_kind("text", "method_name", "method_parameters"),
        *_of_kind("integer", "seed", "repeat"),
        *_of_kind("text", "sweep"),
        *(ExportColumn(key, _kind_of(values)) for key, values in varied.items()),
        *_of_kind("number", "learning_rate"),
        *_of_kind("text", "device_name", "environment"),
    )
    sizes = ("batch", "length")
    members = _have_members(session, Measurement, sweep_ids)
    own = (
        *(ExportColumn(name, "integer" if name in sizes else "text") for name in _DIMENSIONS),
        *((_MEMBER,) if members else ()),
        *_of_kind("number", "value"),
        *_of_kind("text", "unit", "reason"),
    )
    return Export(shared, own, _measurement_groups(session, job_ids, list(varied), members))


def _have_members(session: Session, table: type[Measurement | Curve], sweep_ids: Sequence[int] | None) -> bool:
    """Whether the table has rows of succeeded jobs that are of a member of a mixture."""
    wanted = (
        select(Job.id)
        .join(Run, Run.job_id == Job.id)
        .join(table, table.run_id == Run.id)
        .where(table.task != "", Job.state == "succeeded", Run.outcome == "succeeded")
    )
    return session.scalar(_within(session, wanted, sweep_ids).limit(1)) is not None


def _succeeded(session: Session, sweep_ids: Sequence[int] | None) -> tuple[list[int], dict[str, list[Any]]]:
    """The ids of the succeeded jobs, and the settings in which they differ with their values."""
    wanted = select(Job.id, Job.spec).where(Job.state == "succeeded").order_by(Job.id)
    job_ids: list[int] = []
    different: dict[str, dict[str, Any]] = {}
    for job_id, spec in session.execute(_within(session, wanted, sweep_ids).execution_options(yield_per=_CHUNK)):
        job_ids.append(job_id)
        settings = settings_of(spec)
        different.setdefault(repr(settings), settings)
    varied = varying_keys(different.values())
    return job_ids, {key: [_flat(settings.get(key)) for settings in different.values()] for key in varied}


def _measurement_groups(
    session: Session, job_ids: Sequence[int], varied: Sequence[str], members: bool
) -> Iterator[Group]:
    dimensions = len(Key._fields) if members else len(_DIMENSIONS)
    environments: dict[int | None, tuple[Any, Any]] = {None: (None, None)}
    for chunk in _chunks(job_ids):
        wanted = (
            select(Job.id, Job.job_hash, Run.id.label("run_id"), Job.model, Job.task, Job.method, Job.seed, Job.spec)
            .add_columns(Run.environment_id)
            .join(Run, Run.job_id == Job.id)
            .where(is_one_of(session, Job.id, chunk), Run.outcome == "succeeded")
            .order_by(Job.id, Run.id)
        )
        jobs = session.execute(wanted).all()
        new = {job.environment_id for job in jobs} - environments.keys()
        environments |= {
            row.id: (row.values.get("device_name"), row.fingerprint) for row in _environment_rows(session, new)
        }
        sweep_names = sweeps.names_of(session, chunk)
        rows: dict[int, list[tuple[Any, ...]]] = {job.run_id: [] for job in jobs}
        for run_id, key, value, unit, reason in results.measurement_rows(session, list(rows)):
            rows[run_id].append((*key[:dimensions], value, unit, reason))
        for job in jobs:
            method, settings = job.spec.get("method") or {}, settings_of(job.spec)
            shared = (
                *(job.id, job.job_hash, job.run_id, job.model, job.task, job.method),
                *(method.get("name"), canonical_json(method.get("parameters", {}))),
                *(job.seed, job.spec.get("repeat", 0), ", ".join(sweep_names[job.id])),
                *(_flat(settings.get(key)) for key in varied),
                job.spec.get("training", {}).get("learning_rate"),
                *environments[job.environment_id],
            )
            yield Group(shared, rows.pop(job.run_id))


def _jobs(session: Session, sweep_ids: Sequence[int] | None) -> Export:
    columns = (*_columns_of(Job), ExportColumn("sweep", "text"))

    def groups() -> Iterator[Group]:
        job_ids = session.scalars(_within(session, select(Job.id).order_by(Job.id), sweep_ids)).all()
        for chunk in _chunks(job_ids):
            wanted = select(*Job.__table__.columns).where(is_one_of(session, Job.id, chunk)).order_by(Job.id)
            sweep_names = sweeps.names_of(session, chunk)
            for row in session.execute(wanted):
                yield Group((*map(_flat, row), ", ".join(sweep_names[row.id])), ((),))

    return Export(columns, (), groups())


def _curves(session: Session, sweep_ids: Sequence[int] | None) -> Export:
    members = _have_members(session, Curve, sweep_ids)
    shared = (*_ABOUT_A_JOB, *_of_kind("integer", "seed"), *_of_kind("text", "name"), *((_MEMBER,) if members else ()))
    wanted = (
        select(Job.id, Job.job_hash, Run.id, Job.model, Job.task, Job.method, Job.seed, Curve.name)
        .add_columns(*((Curve.task,) if members else ()), Curve.points)
        .join(Run, Run.job_id == Job.id)
        .join(Curve, Curve.run_id == Run.id)
        .where(Job.state == "succeeded", Run.outcome == "succeeded")
        .order_by(Job.id, Run.id, Curve.name, Curve.task)
    )
    stored = session.execute(_within(session, wanted, sweep_ids).execution_options(yield_per=_CURVES))
    groups = (Group(tuple(about), [tuple(point) for point in points]) for *about, points in stored)
    return Export(shared, tuple(_of_kind("number", "step", "value")), groups)


def _environments(session: Session, sweep_ids: Sequence[int] | None) -> Export:
    columns = (*_of_kind("text", "job_hash"), *_columns_of(Run), *_of_kind("text", "environment", "values"))
    wanted = (
        select(Job.job_hash, *Run.__table__.columns, Environment.fingerprint, Environment.values)
        .join(Run, Run.job_id == Job.id)
        .outerjoin(Environment, Environment.id == Run.environment_id)
        .order_by(Job.id, Run.id)
    )
    stored = session.execute(_within(session, wanted, sweep_ids).execution_options(yield_per=_CHUNK))
    return Export(columns, (), (Group(tuple(map(_flat, row)), ((),)) for row in stored))


def _within(session: Session, wanted: Select[Any], sweep_ids: Sequence[int] | None) -> Select[Any]:
    """The query for jobs of some submissions only."""
    return wanted if sweep_ids is None else wanted.where(Job.id.in_(job_queries.ids_of_sweeps(session, sweep_ids)))


def _environment_rows(session: Session, ids: Iterable[int]) -> Iterable[Any]:
    return session.execute(select(*Environment.__table__.columns).where(is_one_of(session, Environment.id, ids)))


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def _columns_of(table: type[Job] | type[Run]) -> Iterator[ExportColumn]:
    for column in table.__table__.columns:
        kind: Kind = "integer" if isinstance(column.type, Integer) else "text"
        yield ExportColumn(column.name, "number" if isinstance(column.type, Float) else kind)


def _kind_of(values: Iterable[Any]) -> Kind:
    """The kind of column that can hold these values."""
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return "boolean"
    if types == {int}:
        return "integer"
    return "number" if types and types <= {int, float} else "text"


def _flat(value: Any) -> Any:
    """A stored value as one value of a column: JSON as text, times as ISO 8601."""
    if isinstance(value, Mapping | list):
        return canonical_json(value)
    return value.isoformat() if isinstance(value, datetime) else value
