"""Store a run's results once, together with its outcome and fenced by its token; read them back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any, TypeVar, cast

from sqlalchemy import insert, or_, select
from sqlalchemy.orm import Session

from adapeff.service.measured import Key, Measured
from adapeff.service.specs.job import canonical_json
from adapeff.service.statistics.packing import packed_bytes
from adapeff.service.store import jobs
from adapeff.service.store.database import insert_ignoring
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.run_summaries import summarise_run
from adapeff.service.store.tables import (
    Artifact,
    Curve,
    Environment,
    ExampleScores,
    Job,
    JobSource,
    Measurement,
    Run,
    RunConditions,
    StoredSummary,
)

_CHUNK = 500
_TYPES: dict[str, dict[str, Any]] = {
    "environment": {"values": Mapping},
    "curve": {"name": str, "points": list, "task": str},
    "artifact": {"name": str, "path": str, "sha256": str, "bytes": int},
    "example_scores": {"language": str, "metric": str, "values": str, "task": str},
}
"""The types of an event's values; measurements are checked by `Measured.from_event`."""


@dataclass
class RunResults:
    """The results collected from a runner's events."""

    environment: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measured] = field(default_factory=list)
    curves: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    """Task and name -> points; the task is a member of a mixture, or '' for the whole job."""
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    example_scores: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    """Task and language -> metric, and the packed score of each test example."""

    def take(self, event: Mapping[str, Any]) -> None:
        """Add one event; events without results are ignored.

        Raises:
            KeyError, TypeError, ValueError: if a value is missing or has the wrong type.
        """
        kind = event.get("event")
        for key, expected in _TYPES.get(str(kind), {}).items():
            if key in event and not isinstance(event[key], expected):
                raise TypeError(f"{key!r} of {kind!r} is {event[key]!r:.100}")
        if kind == "environment":
            self.environment = dict(event["values"])
        elif kind == "resolved":
            self.resolved = {key: value for key, value in event.items() if key != "event"}
        elif kind == "measurement":
            self.measurements.append(Measured.from_event(event))
        elif kind == "curve":
            self.curves[event.get("task", ""), event["name"]] = event["points"]
        elif kind == "artifact":
            self.artifacts.append({key: event[key] for key in ("name", "path", "sha256", "bytes")})
        elif kind == "example_scores":
            where = event.get("task", ""), event["language"]
            self.example_scores[where] = event["metric"], packed_bytes(event["values"])


def finish(session: Session, claim: jobs.Claim, ending: jobs.RunOutcome, run_results: RunResults) -> str:
    """End a run and store its results in one transaction; a failed run's results are stored too.

    Returns:
        The job's new state.

    Raises:
        LeaseLostError: if the run no longer holds the job's lease; nothing is stored then.
    """
    run_results = storable(run_results)
    ending = storable(ending)
    environment_id = store_environment(session, run_results.environment)
    state = jobs.finish_run(session, claim, ending, environment_id=environment_id)
    store_rows(session, claim.run_id, claim.folder, run_results)
    if state == "succeeded":
        store_summary(session, claim.run_id, claim.spec, ending.resolved, run_results)
    return state


def store_rows(session: Session, run_id: int, folder: str, run_results: RunResults) -> None:
    """Store the measurements, curves, scores and artifacts of a run.

    Args:
        folder: of the run; the paths of artifacts are relative to it.
    """
    rows = [
        {
            "run_id": run_id,
            **measured.key._asdict(),
            "value": measured.value,
            "unit": measured.unit,
            "reason": measured.reason,
        }
        for measured in run_results.measurements
    ]
    for start in range(0, len(rows), _CHUNK):
        session.execute(insert(Measurement), rows[start : start + _CHUNK])
    for (task, name), points in run_results.curves.items():
        session.execute(insert(Curve).values(run_id=run_id, task=task, name=name, points=points))
    for (task, language), (metric, packed) in run_results.example_scores.items():
        row = {"run_id": run_id, "task": task, "language": language, "metric": metric, "packed": packed}
        session.execute(insert(ExampleScores).values(row))
    for artifact in run_results.artifacts:
        uri = str(PurePath(folder) / artifact["path"])
        values = {"name": artifact["name"], "uri": uri, "sha256": artifact["sha256"], "bytes": artifact["bytes"]}
        session.execute(insert(Artifact).values(run_id=run_id, **values))


_Stored = TypeVar("_Stored")


def storable(value: _Stored) -> _Stored:
    """Escape what databases cannot store in text: NUL and lone surrogates.

    They come from data and messages, and would make PostgreSQL refuse all results of the run.
    """
    stored: Any = value
    if isinstance(value, str):
        stored = value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    elif isinstance(value, Mapping):
        stored = {storable(key): storable(item) for key, item in value.items()}
    elif isinstance(value, tuple) and hasattr(value, "_make"):
        stored = value._make(storable(item) for item in value)
    elif isinstance(value, list | tuple):
        stored = type(value)(storable(item) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        stored = replace(value, **{part.name: storable(getattr(value, part.name)) for part in fields(value)})
    return cast("_Stored", stored)


def store_environment(session: Session, values: Mapping[str, Any]) -> int | None:
    """The id of the environment with these values, which is stored if it is new; None for an empty one."""
    if not values:
        return None
    fingerprint = hashlib.sha256(canonical_json(values).encode()).hexdigest()
    return _store_once(session, Environment, fingerprint, values)


def _store_once(
    session: Session, table: type[Environment | RunConditions], fingerprint: str, values: Mapping[str, Any]
) -> int:
    """The id of the row with that fingerprint, which is stored if it is new."""
    known = session.scalar(select(table.id).where(table.fingerprint == fingerprint))
    if known is not None:
        return known
    row = insert_ignoring(session, table, "fingerprint")
    session.execute(row.values(fingerprint=fingerprint, values=dict(values)))
    return session.scalars(select(table.id).where(table.fingerprint == fingerprint)).one()


def store_summary(
    session: Session, run_id: int, spec: Mapping[str, Any], resolved: Mapping[str, Any], run_results: RunResults
) -> None:
    """Store the summary of a succeeded run whose results are stored."""
    summarised = summarise_run(spec, resolved, run_results.environment, run_results.measurements)
    if summarised is None:
        return
    summary, conditions = summarised
    run = session.execute(select(Run.job_id, Run.finished_at).where(Run.id == run_id)).one()
    about = {
        "run_id": run_id,
        "job_id": run.job_id,
        "conditions_id": _store_once(session, RunConditions, conditions.fingerprint, conditions.recorded),
        "finished_at": run.finished_at,
    }
    session.execute(insert(StoredSummary).values(**about, **asdict(summary)))


def list_measurements(
    session: Session, run_ids: Sequence[int], *, task: str | None = None
) -> dict[int, list[Measured]]:
    """The measurements of each run, in the order they were stored.

    Args:
        task: only those of this member of a mixture, or of the whole job for ''; None: all.
    """
    measured: dict[int, list[Measured]] = {run_id: [] for run_id in run_ids}
    for run_id, key, value, unit, reason in measurement_rows(session, run_ids):
        if task is None or key.task == task:
            measured[run_id].append(Measured(key, value, unit, reason))
    return measured


def measurement_rows(
    session: Session, run_ids: Sequence[int], names: Iterable[str] | None = None, *, with_scores: bool = False
) -> Iterator[tuple[int, Key, float | None, str, str]]:
    """Run, key, value, unit and reason of each measurement, run by run in the order they were stored.

    Equal keys share one object: a report reads hundreds of thousands of measurements with a few hundred keys.

    Args:
        names: only measurements with these names; None: all.
        with_scores: also all measurements on a split of the data, regardless of their name.
    """
    column = Measurement.__table__.c
    wanted = select(column.run_id, column.value, column.unit, column.reason, *(column[name] for name in Key._fields))
    if names is not None:
        is_wanted = column.name.in_(sorted(names))
        wanted = wanted.where(or_(is_wanted, column.split != "") if with_scores else is_wanted)
    keys: dict[tuple[Any, ...], Key] = {}
    connection = session.connection()  # plain tuples; the session would create an object per row
    for start in range(0, len(run_ids), _CHUNK):
        chunk = wanted.where(column.run_id.in_(run_ids[start : start + _CHUNK])).order_by(column.run_id, column.id)
        for run_id, value, unit, reason, *dimensions in connection.execute(chunk).all():
            where = tuple(dimensions)
            key = keys.get(where)
            if key is None:
                key = keys[where] = Key(*where)
            yield run_id, key, value, unit, reason


def list_environments(session: Session, ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The environments with these ids."""
    wanted = select(Environment).where(is_one_of(session, Environment.id, ids))
    return {row.id: row.values for row in session.scalars(wanted)}


def list_artifacts(session: Session, run_id: int) -> list[Artifact]:
    """The files stored by a run."""
    return list(session.scalars(select(Artifact).where(Artifact.run_id == run_id).order_by(Artifact.name)))


def list_artifacts_of(session: Session, run_ids: Sequence[int]) -> dict[int, list[Artifact]]:
    """The files stored by each of many runs."""
    found: dict[int, list[Artifact]] = {run_id: [] for run_id in run_ids}
    wanted = select(Artifact).where(is_one_of(session, Artifact.run_id, run_ids)).order_by(Artifact.name)
    for artifact in session.scalars(wanted):
        found[artifact.run_id].append(artifact)
    return found


def source_folders(session: Session, job_id: int) -> dict[str, tuple[str, str]]:
    """The weights of a job's sources: job hash -> folder of the run that succeeded, and the weights' SHA-256."""
    wanted = (
        select(Job.job_hash, Artifact.uri, Artifact.sha256)
        .join(JobSource, JobSource.source_id == Job.id)
        .join(Run, Run.job_id == Job.id)
        .join(Artifact, Artifact.run_id == Run.id)
        .where(JobSource.job_id == job_id, Run.outcome == "succeeded", Artifact.name == "weights")
    )
    return {row.job_hash: (str(PurePath(row.uri).parent), row.sha256) for row in session.execute(wanted)}


def list_curves_of(session: Session, run_ids: Sequence[int], names: Iterable[str]) -> dict[int, dict[str, list[Any]]]:
    """The curves with these names of many runs, not of members of mixtures: run -> name -> points."""
    curves: dict[int, dict[str, list[Any]]] = {run_id: {} for run_id in run_ids}
    is_wanted = is_one_of(session, Curve.run_id, run_ids), is_one_of(session, Curve.name, names), Curve.task == ""
    for row in session.scalars(select(Curve).where(*is_wanted)):
        curves[row.run_id][row.name] = row.points
    return curves


def list_member_curves(
    session: Session, run_ids: Sequence[int], names: Iterable[str]
) -> dict[tuple[int, str], dict[str, list[Any]]]:
    """The curves with these names of many runs: run and member -> name -> points; the member '' is the whole job."""
    curves: dict[tuple[int, str], dict[str, list[Any]]] = {}
    is_wanted = is_one_of(session, Curve.run_id, run_ids), is_one_of(session, Curve.name, names)
    for row in session.scalars(select(Curve).where(*is_wanted)):
        curves.setdefault((row.run_id, row.task), {})[row.name] = row.points
    return curves


def list_curves(session: Session, run_id: int) -> dict[str, dict[str, list[Any]]]:
    """The curves of a run: task -> name -> points; the task '' is the whole job, which may have none."""
    curves: dict[str, dict[str, list[Any]]] = {"": {}}
    for row in session.scalars(select(Curve).where(Curve.run_id == run_id)):
        curves.setdefault(row.task, {})[row.name] = row.points
    return curves
