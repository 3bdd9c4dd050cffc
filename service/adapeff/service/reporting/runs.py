"""Finished training runs with their measurements, and the conditions two runs must share to be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Unpack

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from adapeff.service.measured import Dimensions, canonical_variant
from adapeff.service.measurements import (
    DISTURBANCE,
    EXAMPLES,
    FORGETTING,
    LATENCY_S,
    TOTAL_PARAMETERS,
    TRAIN_STEPS,
    WALL_S,
    report_columns,
)
from adapeff.service.reporting.convergence import CURVES, Curves
from adapeff.service.reporting.readings import Reading, Readings, load_readings
from adapeff.service.reporting.variation import settings_of
from adapeff.service.specs.job import STORED, JobSpec
from adapeff.service.store import job_queries, results
from adapeff.service.store.conditions import (
    ALIKE,
    by_readable_name,
    comparable_settings,
    likeness_of,
    recorded_conditions,
)
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import Job, Run

__all__ = ["ALIKE", "comparable_settings"]


@dataclass(frozen=True)
class RunRecord:
    """A finished job's run as the database stores it, with its measurements and curves."""

    job_id: int
    train_hash: str
    run_id: int
    spec: JobSpec
    settings: Mapping[str, Any]
    """The job's settings by name."""
    resolved: Mapping[str, Any]
    environment: Mapping[str, Any]
    host: str
    started_at: datetime
    finished_at: datetime | None
    readings: Readings
    curves: Curves = field(default_factory=dict)

    @cached_property
    def likeness(self) -> str:
        """The run's conditions as text; runs with equal ones may share a table."""
        return likeness_of(self.conditions)

    @property
    def conditions(self) -> dict[str, Any]:
        """All that is recorded of the run's conditions."""
        return recorded_conditions(self.spec, self.resolved, self.environment)


@dataclass(frozen=True)
class Result:
    """A finished run as the report shows it: as trained, or in one of its inference variants."""

    run: RunRecord
    variant: str = ""
    """The inference variant, as canonical JSON; '' for the model as trained."""

    @property
    def spec(self) -> JobSpec:
        """The job's specification."""
        return self.run.spec

    def as_variant(self, variant: str) -> Result:
        """The same run in an inference variant."""
        return replace(self, variant=variant)

    @property
    def members(self) -> tuple[str, ...]:
        """The members of a mixture that have figures of their own; `read` takes one as `task`."""
        return self.run.readings.members

    def read(self, name: str, **where: Unpack[Dimensions]) -> Reading:
        """The first measurement with that name and these dimensions.

        It is in this variant, and of the whole job, unless `where` names another variant or a member as `task`.
        """
        variant = canonical_variant(where["variant"]) if "variant" in where else self.variant
        dimensions: Any = tuple((key, value) for key, value in where.items() if key not in ("variant", "task"))
        found = self.run.readings.find(name, variant, dimensions, where.get("task", ""))
        return found or Reading(None, "not measured")


def load_results(
    session: Session,
    *,
    sweep_ids: Sequence[int] | None = None,
    train_hashes: Sequence[str] | None = None,
    narrowed: Callable[[Select[Any]], Select[Any]] = lambda wanted: wanted,
) -> list[Result]:
    """Load the successful runs of succeeded training jobs, by job id.

    Args:
        sweep_ids: only jobs of these submissions; None: all.
        train_hashes: only jobs with one of these hashes; None: all.
        narrowed: adds further conditions to the query of jobs and runs.
    """
    rows = list(session.execute(narrowed(_wanted_rows(session, sweep_ids, train_hashes))))
    run_ids = [row.run_id for row in rows]
    names = {
        DISTURBANCE.name,
        EXAMPLES.name,
        FORGETTING.name,
        LATENCY_S.name,
        TOTAL_PARAMETERS.name,
        TRAIN_STEPS.name,
        WALL_S.name,
        *(definition.name for definition, _ in report_columns()),
    }
    readings = load_readings(session, run_ids, names)
    layouts = {id(of_run.layout): of_run.layout for of_run in readings.values()}
    validated = {key for layout in layouts.values() for key in layout.keys if key.split == "validation"}
    metrics = {key.name for key in validated if not key.task}
    curves = results.list_curves_of(session, run_ids, [*CURVES, *(f"validation_{metric}" for metric in metrics)])
    environments = results.list_environments(session, {row.environment_id for row in rows if row.environment_id})
    settings: dict[str, Mapping[str, Any]] = {}  # seeds have equal settings: keep one mapping for all of them
    return [
        Result(
            RunRecord(
                job_id=row.job_id,
                train_hash=row.train_hash,
                run_id=row.run_id,
                spec=JobSpec.model_validate(row.spec, context=STORED),
                settings=settings.setdefault(repr(of_job := settings_of(row.spec)), of_job),
                resolved=row.resolved or {},
                environment=environments.get(row.environment_id or 0, {}),
                host=row.worker.rsplit("-", 2)[0],
                started_at=row.started_at,
                finished_at=row.finished_at,
                readings=readings[row.run_id],
                curves=curves[row.run_id],
            )
        )
        for row in rows
    ]


def _wanted_rows(session: Session, sweep_ids: Sequence[int] | None, train_hashes: Sequence[str] | None) -> Select[Any]:
    wanted = (
        select(
            *(Job.id.label("job_id"), Job.train_hash, Job.spec),
            *(Run.id.label("run_id"), Run.resolved, Run.environment_id, Run.worker, Run.started_at, Run.finished_at),
        )
        .join(Run, Run.job_id == Job.id)
        .where(Job.kind == "train", Job.state == "succeeded", Run.outcome == "succeeded")
        .order_by(Job.id)
    )
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(job_queries.ids_of_sweeps(session, sweep_ids)))
    if train_hashes is not None:
        wanted = wanted.where(is_one_of(session, Job.train_hash, train_hashes))
    return wanted


def conditions_of(result: Result) -> dict[str, str]:
    """The conditions that runs must share to be compared, by readable name."""
    return {key: str(value)[:40] for key, value in by_readable_name(result.run.conditions).items()}


def find_differences(runs: Iterable[Result]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Map each (model, task) to the conditions in which its runs differ, with their values."""
    by_conditions: dict[tuple[str, str], dict[str, Result]] = {}
    for result in runs:
        by_conditions.setdefault(model_and_task(result), {}).setdefault(result.run.likeness, result)
    return {cell: _differing(list(different.values())) for cell, different in by_conditions.items()}


def _differing(runs: Sequence[Result]) -> tuple[str, ...]:
    conditions = [conditions_of(result) for result in runs]
    values: dict[str, dict[str, None]] = {}
    for key in dict.fromkeys(key for of_run in conditions for key in of_run):
        values[key] = dict.fromkeys(of_run.get(key, "None") for of_run in conditions)
    return tuple(f"{key}: {' / '.join(seen)}" for key, seen in values.items() if len(seen) > 1)


def model_and_task(result: Result) -> tuple[str, str]:
    """The model and task of a run."""
    return result.spec.model.identity, str(result.spec.task)


def find_side_by_side(runs: Iterable[Result]) -> set[int]:
    """The ids of runs that overlapped in time with another of the given runs on the same host."""
    shared: set[int] = set()
    by_host: dict[str, list[RunRecord]] = {}
    for result in runs:
        by_host.setdefault(result.run.host, []).append(result.run)
    for on_host in by_host.values():
        ordered = sorted(on_host, key=lambda run: run.started_at)
        latest = ordered[0]
        for run in ordered[1:]:
            if latest.finished_at is not None and run.started_at < latest.finished_at:
                shared |= {latest.run_id, run.run_id}
            if run.finished_at is not None and latest.finished_at is not None and run.finished_at > latest.finished_at:
                latest = run
    return shared
