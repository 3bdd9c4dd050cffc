"""Finished jobs with what they measured, and what must be equal in two of them for their figures to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from adapeff.service.reporting.convergence import CURVES, Curves
from adapeff.service.specs.job import STORED, JobSpec
from adapeff.service.store import job_queries, results
from adapeff.service.store.tables import Job, Measurement, Run

ALIKE = (
    *("device_name", "device_type", "precision", "driver", "cuda", "cpu_capability", "torch_threads", "cpu_affinity"),
    *("cpu_quota", "attention_kernels"),
    *("adapeff", "git_revision", "git_dirty", "python", "torch", "transformers", "peft"),
)


@dataclass(frozen=True)
class Result:
    job: Job
    run: Run
    spec: JobSpec
    measurements: list[Measurement]
    environment: dict[str, Any]
    curves: Curves = field(default_factory=dict)
    variant: str = ""
    """The way of serving that is looked at; '' is the model as it was trained."""

    def find(self, name: str, **where: Any) -> Measurement | None:
        where["variant"] = self.variant
        for found in self.measurements:
            if found.name == name and all(getattr(found, key) == value for key, value in where.items()):
                return found
        return None


def load_results(session: Session, succeeded: Sequence[Job]) -> list[Result]:
    """The results of jobs that succeeded, in their order."""
    runs = job_queries.list_runs(session, [job.id for job in succeeded])
    counted = {job.id: run for job in succeeded for run in runs[job.id] if run.outcome == "succeeded"}
    measured = results.list_measurements(session, [run.id for run in counted.values()])
    names = {m.name for found in measured.values() for m in found if m.split == "validation"}
    curves = results.list_curves_of(
        session, [run.id for run in counted.values()], [*CURVES, *(f"validation_{name}" for name in names)]
    )
    environments = results.list_environments(session, [r.environment_id for r in counted.values() if r.environment_id])
    return [
        Result(
            job,
            run,
            JobSpec.model_validate(job.spec, context=STORED),
            measured[run.id],
            environments.get(run.environment_id or 0, {}),
            curves[run.id],
        )
        for job in succeeded
        if (run := counted.get(job.id)) is not None
    ]


def comparable_settings(spec: JobSpec) -> dict[str, Any]:
    """The settings that runs of one table share; the learning rate is the method's own."""
    apart = {"learning_rate", "device", "tuning"}
    training = spec.training.model_dump(mode="json", exclude_defaults=True, exclude=apart)
    measuring = spec.measuring.model_dump(mode="json", include={"latency_length", "latency_batches"})
    if spec.measuring.latency_lengths:
        measuring["latency_length"] = list(spec.measuring.latency_lengths)
    return {**training, **measuring}


def likeness(result: Result) -> tuple[Any, ...]:
    """What is equal in runs that may be put into one table."""
    spec = result.spec
    return (
        spec.model.identity,
        str(spec.task),
        spec.data.fingerprint or spec.data.revision,
        spec.data.test_fingerprint,
        tuple(sorted((result.run.resolved or {}).items())),
        repr(sorted(comparable_settings(spec).items())),
        tuple(result.environment.get(key) for key in ALIKE),
    )


def facts_of(result: Result) -> dict[str, str]:
    """What runs must have in common to be compared, in words."""
    spec = result.spec
    facts: dict[str, Any] = {
        "data": spec.data.fingerprint or spec.data.revision,
        "test data": spec.data.test_fingerprint,
        **(result.run.resolved or {}),
        **comparable_settings(spec),
        **{key: result.environment.get(key) for key in ALIKE},
    }
    return {key: str(value)[:40] for key, value in facts.items()}


def find_differences(found: Sequence[Result]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(model, task) -> the facts in which its runs differ, with their values."""
    seen: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for result in found:
        cell = seen.setdefault(model_and_task(result), {})
        for key, value in facts_of(result).items():
            cell.setdefault(key, {})[value] = None
    return {
        cell: tuple(f"{key}: {' / '.join(values)}" for key, values in facts.items() if len(values) > 1)
        for cell, facts in seen.items()
    }


def model_and_task(result: Result) -> tuple[str, str]:
    """What a table is about."""
    return result.spec.model.identity, str(result.spec.task)


def find_side_by_side(found: Sequence[Result]) -> set[int]:
    """The ids of runs that shared their host with another of the given runs for some of their time."""
    shared: set[int] = set()
    by_host: dict[str, list[Run]] = {}
    for result in found:
        host = result.run.worker.rsplit("-", 2)[0]
        by_host.setdefault(host, []).append(result.run)
    for runs in by_host.values():
        ordered = sorted(runs, key=lambda run: run.started_at)
        latest = ordered[0]
        for run in ordered[1:]:
            if latest.finished_at is not None and run.started_at < latest.finished_at:
                shared |= {latest.id, run.id}
            if run.finished_at is not None and latest.finished_at is not None and run.finished_at > latest.finished_at:
                latest = run
    return shared
