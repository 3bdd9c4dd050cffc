"""What a report of many runs needs of each: one row per run that counts, written when it finishes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from adapeff.service.errors import AdapeffError
from adapeff.service.measured import Measured
from adapeff.service.measurements import (
    LATENCY_S,
    PEAK_MEMORY_ALLOCATED,
    PEAK_MEMORY_PROCESS,
    STORED_BYTES,
    TRAIN_COMPUTE_S,
)
from adapeff.service.plugins import catalog
from adapeff.service.specs.job import STORED, JobSpec, canonical_hash
from adapeff.service.store.conditions import likeness_of, recorded_conditions

SUMMARISED = tuple(
    definition.name
    for definition in (TRAIN_COMPUTE_S, LATENCY_S, PEAK_MEMORY_ALLOCATED, PEAK_MEMORY_PROCESS, STORED_BYTES)
)
"""The measurements a summary is made of, besides the scores on the test split."""
_OF_ROWS_SHOWN_APART = ("learning_rate", "tuning", "test_languages", "device")
"""Settings that do not tell two rows of a table apart, or have a column of their own."""


@dataclass(frozen=True)
class RunSummary:
    """A run's identity in reports and its headline figures, each None if it was not measured; not its conditions."""

    model: str
    task: str
    method: str
    learning_rate: float
    tuning: str
    """The search for the learning rate as JSON, '' for none."""
    label: str
    """The method as a row of the report has it; a learning rate is added where several are shown."""
    settings: str
    """Hash of the settings by which a report splits rows of one method."""
    seed: int
    repeat: int
    metric: str
    quality: float | None
    """The metric on the test split in the source language, as a share or in its unit."""
    train_compute_s: float | None
    latency_s: float | None
    """Seconds, the median at the first batch size and length of the latency grid."""
    peak_memory_bytes: float | None
    """Bytes of the device's allocator, or of the process where there is none."""
    stored_bytes: float | None


@dataclass(frozen=True)
class Conditions:
    """The conditions of runs that may share a table."""

    fingerprint: str
    """SHA-256 of the comparable ones."""
    recorded: dict[str, Any]
    """As `recorded_conditions` gives them, with the `metric` and `source_language` of the quality."""


def summarise_run(
    stored_spec: Mapping[str, Any],
    resolved: Mapping[str, Any],
    environment: Mapping[str, Any],
    measured: Sequence[Measured],
) -> tuple[RunSummary, Conditions] | None:
    """Summarise a succeeded run; None if it is no training run, or of a job this version cannot read.

    Args:
        stored_spec: the job's specification as stored.
        measured: its measurements in the order they were stored, at least `SUMMARISED` and the scores.
    """
    try:
        spec = JobSpec.model_validate(stored_spec, context=STORED)
    except ValidationError:
        return None
    metric, language = headline(spec, resolved)
    recorded = {
        **recorded_conditions(spec, resolved, environment),
        "metric": metric,
        "source_language": language,
    }
    conditions = Conditions(hashlib.sha256(likeness_of(recorded).encode()).hexdigest(), recorded)
    return _summary(spec, metric, language, measured), conditions


def _summary(spec: JobSpec, metric: str, language: str, measured: Sequence[Measured]) -> RunSummary:
    tuning = spec.training.tuning
    parts = (spec.training, spec.measuring)
    settings = {key: value for part in parts for key, value in part.model_dump(mode="json").items()}
    for key in _OF_ROWS_SHOWN_APART:
        settings.pop(key, None)
    settings["keep_weights"] = False  # it changes no figure
    allocated = _first(measured, PEAK_MEMORY_ALLOCATED.name)
    return RunSummary(
        model=str(spec.model),
        task=str(spec.task),
        method=str(spec.method),
        learning_rate=spec.training.learning_rate,
        tuning=tuning.model_dump_json() if tuning else "",
        label=f"{spec.method} (tuned, {tuning.trials} trials)" if tuning else str(spec.method),
        settings=canonical_hash(settings)[:16],
        seed=spec.seed,
        repeat=spec.repeat,
        metric=metric,
        quality=_first(measured, metric, split="test", language=language),
        train_compute_s=_first(measured, TRAIN_COMPUTE_S.name),
        latency_s=_latency(spec, measured),
        peak_memory_bytes=_first(measured, PEAK_MEMORY_PROCESS.name) if allocated is None else allocated,
        stored_bytes=_first(measured, STORED_BYTES.name, dtype=""),
    )


def headline(spec: JobSpec, resolved: Mapping[str, Any]) -> tuple[str, str]:
    """The task's metric and source language: as the run recorded them, else as the task's plug-in declares them."""
    metric, language = resolved.get("metric"), resolved.get("source_language")
    if not (metric and language):
        try:
            task = catalog.get_task(spec.task.name, spec.task.parameters)
            metric, language = metric or task.metric, language or task.source_language
        except AdapeffError:
            pass
    return str(metric or "accuracy"), str(language or "en")


def _latency(spec: JobSpec, measured: Sequence[Measured]) -> float | None:
    if not spec.measuring.latency_batches:
        return None
    where: dict[str, Any] = {"statistic": "p50", "batch": spec.measuring.latency_batches[0]}
    if spec.measuring.latency_lengths:
        where["length"] = spec.measuring.latency_lengths[0]
    return _first(measured, LATENCY_S.name, **where)


def _first(measured: Sequence[Measured], name: str, **where: Any) -> float | None:
    """The value of the first measurement of the whole job as trained with that name and these dimensions."""
    for key, value, _, _ in measured:
        is_of_job = not key.variant and not key.task
        if key.name == name and is_of_job and all(getattr(key, at) == wanted for at, wanted in where.items()):
            return value
    return None
