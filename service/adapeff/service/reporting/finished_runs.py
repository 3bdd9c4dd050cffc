"""Finished runs with everything that is stored about them, a few at a time, for exports to other tools."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import PurePath
from typing import Any, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapeff.service.measured import Dimensions, Key, Measured, canonical_variant
from adapeff.service.measurements import LEARNING_RATE, MEASUREMENTS
from adapeff.service.reporting.titles import task_name
from adapeff.service.specs.job import JobSpec, Training
from adapeff.service.specs.profile import AnySpec, read_spec
from adapeff.service.store import job_queries, results, sweeps
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import Job, Run

_CHUNK = 50
"""Runs read at a time; a curve may have a point per training step."""
_DATA_SET = "data_revision:"
_BESIDE_SCORES = ("majority_", "noise_", "ceiling_", "base_")
"""What the names of figures that belong to a score start with."""
Points = Sequence[Sequence[float]]
"""Steps with values."""


@dataclass(frozen=True)
class StoredFile:
    """A file that a run kept."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FinishedRun:
    """A run that succeeded, as stored; names of models and tasks are without the folders of this machine."""

    job_id: int
    job_hash: str
    run_id: int
    spec: AnySpec
    sweeps: tuple[str, ...]
    resolved: Mapping[str, Any]
    environment: Mapping[str, Any]
    host: str
    started_at: datetime
    finished_at: datetime | None
    measured: tuple[Measured, ...]
    """Of the whole job."""
    of_members: tuple[Measured, ...]
    """Of the tasks of a mixture."""
    curves: Mapping[str, Points]
    weights: StoredFile | None
    """The weights of the trained adapter or model, if the job kept them."""

    @cached_property
    def _by_key(self) -> dict[Key, Measured]:
        return {one.key: one for one in self.measured}

    def reading(self, name: str, **where: Unpack[Dimensions]) -> Measured | None:
        """The measurement with that name and exactly these dimensions."""
        dimensions: dict[str, Any] = {**where, "variant": canonical_variant(where.get("variant"))}
        return self._by_key.get(Key(name, **dimensions))

    def value(self, name: str, **where: Unpack[Dimensions]) -> float | None:
        """Its value, in the stored unit; None if it was not measured."""
        found = self.reading(name, **where)
        return found.value if found is not None else None

    def count(self, name: str, **where: Unpack[Dimensions]) -> int | None:
        """A number of things or bytes; None if it was not measured."""
        value = self.value(name, **where)
        return None if value is None else int(value)

    @property
    def model_name(self) -> str:
        """The model's name on the hub or in its package; of a folder, its own name."""
        model = self.spec.model
        is_folder = model.source == "folder" and not model.name.startswith("package:")
        return PurePath(model.name).name if is_folder else model.name

    @property
    def short_model(self) -> str:
        """The model's name without its organisation; of a package, the package's name."""
        name = self.model_name
        return name[len("package:") :].partition("/")[0] if name.startswith("package:") else name.rpartition("/")[2]

    @property
    def task_name(self) -> str:
        """The task's name; of a task file, its own or its folder's; `profile` for a profile."""
        return task_name(self.spec) if isinstance(self.spec, JobSpec) else self.spec.kind

    @property
    def learning_rate(self) -> float | None:
        """The rate of a training, of a search the one it found; None for a profile."""
        found = self.value(LEARNING_RATE.name)
        return self.spec.training.learning_rate if found is None and isinstance(self.spec, JobSpec) else found

    @property
    def data_sets(self) -> dict[str, str]:
        """The data sets of the hub with the commits that were read."""
        found = self.resolved.items()
        return {key.removeprefix(_DATA_SET): str(commit) for key, commit in found if key.startswith(_DATA_SET)}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics measured on the test split, the headline metric first."""
        scores = dict.fromkeys(one.key.name for one in self.measured if _is_score(one.key))
        headline = self.resolved.get("metric")
        return tuple(sorted(scores, key=lambda name: name != headline))

    def member_scores(self) -> Iterator[tuple[str, str, str, float]]:
        """Task, language, metric and score of each task of a mixture on its test split."""
        for one in self.of_members:
            if _is_score(one.key) and one.value is not None:
                yield one.key.task, one.key.language, one.key.name, one.value

    @property
    def test_languages(self) -> tuple[str, ...]:
        """The languages tested in, the source language first."""
        tested = dict.fromkeys(one.key.language for one in self.measured if _is_score(one.key))
        source = self.resolved.get("source_language")
        return tuple(sorted(tested, key=lambda language: language != source))


def _is_score(key: Key) -> bool:
    is_of_test = key.split == "test" and not key.variant
    return is_of_test and key.name not in MEASUREMENTS and not key.name.startswith(_BESIDE_SCORES)


def settings_in_effect(training: Training) -> dict[str, Any]:
    """The settings of a training, without those that another one replaces."""
    replaced = {
        "epochs": training.steps,
        "evaluate_every_epochs": training.evaluate_every_steps,
        "batch_size": training.batch_tokens,
    }
    settings = training.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in settings.items() if replaced.get(name) is None}


def slug(text: str) -> str:
    """The text as part of a file's name: letters, digits, dots, hyphens and underscores, at most 40."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40] or "unnamed"


def finished_runs(
    session: Session, sweep_ids: Sequence[int] | None = None, *, kinds: Sequence[str] = ("train",)
) -> Iterator[FinishedRun]:
    """Yield the runs that count of succeeded jobs, by job id; they are read while the session is open.

    Args:
        sweep_ids: only jobs of these submissions; None: all.
        kinds: of jobs.
    """
    wanted = select(Job.id).where(Job.state == "succeeded", Job.kind.in_(kinds)).order_by(Job.id)
    if sweep_ids is not None:
        wanted = wanted.where(Job.id.in_(job_queries.ids_of_sweeps(session, sweep_ids)))
    ids = session.scalars(wanted).all()
    for start in range(0, len(ids), _CHUNK):
        yield from _read(session, ids[start : start + _CHUNK])


def _read(session: Session, job_ids: Sequence[int]) -> Iterator[FinishedRun]:
    rows = session.execute(
        select(Job, Run)
        .join(Run, Run.job_id == Job.id)
        .where(is_one_of(session, Job.id, job_ids), Run.outcome == "succeeded")
        .order_by(Job.id, Run.id)
    ).all()
    run_ids = [run.id for _, run in rows]
    measured = results.list_measurements(session, run_ids)
    environments = results.list_environments(session, {run.environment_id for _, run in rows if run.environment_id})
    files = results.list_artifacts_of(session, run_ids)
    names = sweeps.names_of(session, job_ids)
    for job, run in rows:
        weights = next((file for file in files[run.id] if file.name == "weights"), None)
        yield FinishedRun(
            job_id=job.id,
            job_hash=job.job_hash,
            run_id=run.id,
            spec=read_spec(job.spec),
            sweeps=tuple(names[job.id]),
            resolved=run.resolved or {},
            environment=environments.get(run.environment_id or 0, {}),
            host=run.worker.rsplit("-", 2)[0],
            started_at=run.started_at,
            finished_at=run.finished_at,
            measured=tuple(one for one in measured[run.id] if not one.key.task),
            of_members=tuple(one for one in measured[run.id] if one.key.task),
            curves=results.list_curves(session, run.id)[""],
            weights=StoredFile(PurePath(weights.uri).name, weights.bytes, weights.sha256) if weights else None,
        )
