"""Summarise profile jobs: a table of training steps and one of forward passes, both relative to the reference."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from adapeff.service import measurements as m
from adapeff.service.measured import Definition, Dimensions, Measured, canonical_variant
from adapeff.service.reporting.reruns import Spread
from adapeff.service.reporting.runs import ALIKE
from adapeff.service.specs.job import STORED
from adapeff.service.specs.profile import ProfileSpec
from adapeff.service.store import job_queries, results
from adapeff.service.store.tables import Job, Run


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval, if it has one; None with the reason if it could not be measured."""

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    reason: str = ""
    problems: str = ""
    """Disturbances of this figure only; `ProfileRow.problems` has those of the whole row."""


@dataclass(frozen=True)
class ProfileRow:
    """A method, or one of its inference variants."""

    label: str
    figures: dict[str, Figure]
    """By column; a variant has no figures for columns it shares with its method."""
    problems: str
    """Disturbances of its times; empty if there were none."""


@dataclass(frozen=True)
class ProfileTable:
    """The results of a profile job."""

    job_id: int
    model: str
    random_weights: bool
    reference: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    training: tuple[ProfileRow, ...]
    training_columns: tuple[str, ...]
    latency: tuple[ProfileRow, ...]
    latency_columns: tuple[str, ...]
    device_peaks: dict[str, float]
    """The device's peaks by measurement: FLOP/s of matrix products, bytes/s of copies."""
    measurement_versions: Mapping[str, int] = field(default_factory=dict)
    """The versions of the figures whose meaning has changed; others are of version 1."""
    reruns: dict[str, dict[str, Spread]] = field(default_factory=dict)
    """Row -> column -> values of all runs of this profile under the same conditions, if there are several."""


_STEP_PHASES = {"step": "", "forward": "forward", "backward": "backward", "optimizer": "optimizer"}
_FIGURES: dict[str, tuple[Definition, Dimensions]] = {
    "FLOPs": (m.STEP_FLOPS, {"phase": ""}),
    "FLOPs forward": (m.STEP_FLOPS, {"phase": "forward"}),
    "FLOPs backward": (m.STEP_FLOPS, {"phase": "backward"}),
    "achieved": (m.ACHIEVED_FLOPS, {}),
    "utilisation": (m.FLOPS_UTILISATION, {}),
    "trained: method": (m.TRAINABLE_PARAMETERS_METHOD, {}),
    "trained: head": (m.TRAINABLE_PARAMETERS_HEAD, {}),
    "peak allocated": (m.PEAK_MEMORY_ALLOCATED, {}),
    "peak process": (m.PEAK_MEMORY_PROCESS, {}),
    "energy": (m.STEP_ENERGY_J, {}),
    "largest batch": (m.LARGEST_BATCH, {}),
    "saturated": (m.THROUGHPUT_SATURATED, {}),
}
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer state": "optimizer",
    "activations": "activations",
    "cast weights": "cast weights",
}


class _Run:
    """The measurements of a run, by name and variant."""

    def __init__(self, measurements: Sequence[Measured]) -> None:
        self.measurements = measurements
        self._by_name: dict[tuple[str, str], list[Measured]] = {}
        for measured in measurements:
            self._by_name.setdefault((measured.key.name, measured.key.variant), []).append(measured)

    def figure(self, definition: Definition, of: Mapping[str, Any], where: Dimensions) -> Figure | None:
        for measured in self._by_name.get((definition.name, canonical_variant(of)), ()):
            if all(getattr(measured.key, key) == value for key, value in where.items()):
                return Figure(measured.value, measured.unit, reason=measured.reason)
        return None

    def ratio(self, definition: Definition, of: Mapping[str, Any], reference: str, where: Dimensions) -> Figure | None:
        paired = {**of, "reference": reference}
        middle, low, high = (
            self.figure(definition, paired, {**where, "statistic": side}) for side in ("ratio", "low", "high")
        )
        if middle is None or low is None or high is None:
            return None
        return Figure(middle.value, "x", low.value, high.value)

    def inference_variants(self) -> list[dict[str, Any]]:
        """Every method and inference variant whose latency was measured."""
        variants = dict.fromkeys(variant for name, variant in self._by_name if name == m.LATENCY_S.name and variant)
        decoded = (json.loads(variant) for variant in variants)
        return [variant for variant in decoded if "method" in variant]

    def latency_cells(self) -> list[tuple[int, int]]:
        """The (batch, length) pairs of the latency grid."""
        ratios = (measured.key for measured in self.measurements if measured.key.name == m.LATENCY_RATIO.name)
        return list(dict.fromkeys((key.batch, key.length) for key in ratios))


def build_profiles(
    session: Session, *, sweep_ids: Sequence[int] | None = None, models: Container[str] | None = None
) -> tuple[ProfileTable, ...]:
    """Build a table for each finished profile of some submissions, or of all; the newest of its repeats.

    Args:
        sweep_ids: only profiles of these submissions; None: all.
        models: only profiles of these models; None: of every model.
    """
    found = job_queries.list_jobs(session, sweep_ids=sweep_ids, states=("succeeded",), kinds=("profile",))
    selected = [job for job in found if models is None or job.model in models]
    if not selected:
        return ()
    profiled = list({job.train_hash for job in selected})
    repeats = job_queries.list_jobs(session, states=("succeeded",), train_hashes=profiled)
    runs = job_queries.list_runs(session, [job.id for job in repeats])
    counted = [(job, run) for job in repeats for run in runs[job.id] if run.outcome == "succeeded"]
    measured = results.list_measurements(session, [run.id for _, run in counted], task="")
    environments = results.list_environments(session, [run.environment_id for _, run in counted if run.environment_id])
    groups: dict[str, list[ProfileTable]] = {}
    for job, run in counted:
        table = _table(job, run, measured[run.id], environments.get(run.environment_id or 0, {}))
        groups.setdefault(f"{job.train_hash} {job.spec['settings']}", []).append(table)
    selected_ids = {job.id for job in selected}
    newest = [
        replace(chosen[-1], reruns=_reruns(chosen[-1], group))
        for group in groups.values()
        if (chosen := [table for table in group if table.job_id in selected_ids])
    ]
    return tuple(sorted(newest, key=lambda table: table.job_id))


def _reruns(table: ProfileTable, repeats: Sequence[ProfileTable]) -> dict[str, dict[str, Spread]]:
    comparable = [other for other in repeats if _are_alike(other, table)]
    spreads: dict[str, dict[str, Spread]] = {}
    for kind in ("training", "latency"):
        rows = [{row.label: row for row in getattr(other, kind)} for other in comparable]
        for label, row in rows[-1].items() if len(comparable) > 1 else ():
            for column in row.figures:
                figures = [of_run[label].figures.get(column) for of_run in rows if label in of_run]
                values = tuple(figure.value for figure in figures if figure is not None and figure.value is not None)
                if len(values) == len(comparable):
                    spreads.setdefault(label, {})[column] = Spread(values)
    return spreads


def _are_alike(first: ProfileTable, second: ProfileTable) -> bool:
    return first.measurement_versions == second.measurement_versions and all(
        first.environment.get(key) == second.environment.get(key) for key in ALIKE
    )


def _table(job: Job, run: Run, measured: Sequence[Measured], environment: dict[str, Any]) -> ProfileTable:
    spec = ProfileSpec.model_validate(job.spec, context=STORED)
    resolved = run.resolved or {}
    measurements = _Run(measured)
    reference = str(spec.methods[0])
    training = [_training(measurements, str(method), reference) for method in spec.methods]
    latency = [_latency(measurements, of, reference) for of in measurements.inference_variants()]
    settings = spec.settings.model_dump(mode="json", include={"batch", "length", "blocks", "turn_seconds", "compile"})
    return ProfileTable(
        job_id=job.id,
        model=str(spec.model),
        random_weights=bool(resolved.get("random_weights")),
        reference=reference,
        settings=settings,
        environment=environment,
        training=tuple(training),
        training_columns=_columns(training),
        latency=tuple(latency),
        latency_columns=_columns(latency),
        device_peaks={
            measurement.key.name: measurement.value
            for measurement in measured
            if measurement.key.name in (m.PEAK_MATMUL.name, m.PEAK_COPY.name) and measurement.value is not None
        },
        measurement_versions=resolved.get("measurement_versions", {}),
    )


def _training(run: _Run, method: str, reference: str) -> ProfileRow:
    of = {"method": method}
    figures: dict[str, Figure | None] = {}
    for column, phase in _STEP_PHASES.items():
        figures[column] = run.figure(m.STEP_LATENCY_S, of, {"statistic": "p50", "phase": phase})
        figures[f"{column} ratio"] = run.ratio(m.STEP_RATIO, of, reference, {"phase": phase})
    figures |= {column: run.figure(definition, of, where) for column, (definition, where) in _FIGURES.items()}
    figures["energy ratio"] = run.ratio(m.ENERGY_RATIO, of, reference, {})
    figures |= {column: run.figure(m.MEMORY_BYTES, {**of, "part": part}, {}) for column, part in _PARTS.items()}
    disturbance = run.figure(m.DISTURBANCE, of, {"phase": "train"})
    uncounted = run.figure(m.FLOPS_UNCOUNTED, of, {})
    problems = [
        disturbance.reason if disturbance else "",
        f"FLOPs without {uncounted.reason}" if uncounted and uncounted.value else "",
    ]
    present = {column: figure for column, figure in figures.items() if figure is not None}
    return ProfileRow(method, present, "; ".join(filter(None, problems)))


def _latency(run: _Run, of: Mapping[str, Any], reference: str) -> ProfileRow:
    figures = {}
    for batch, length in run.latency_cells():
        cell = f"{batch}x{length}"
        at: Dimensions = {"batch": batch, "length": length}
        middle = run.figure(m.LATENCY_S, of, {**at, "statistic": "p50"})
        if middle is not None:
            low, high = (run.figure(m.LATENCY_S, of, {**at, "statistic": f"p50_{side}"}) for side in ("low", "high"))
            disturbance = run.figure(m.DISTURBANCE, of, {**at, "phase": "inference"})
            figures[cell] = Figure(
                middle.value,
                "s",
                low.value if low else None,
                high.value if high else None,
                problems=disturbance.reason if disturbance else "",
            )
        ratio = run.ratio(m.LATENCY_RATIO, of, reference, at)
        if ratio is not None:
            figures[f"{cell} ratio"] = ratio
    words = [key if value is True else f"{key} {value}" for key, value in of.items() if key != "method"]
    variant = f" ({', '.join(words)})" if words else ""
    return ProfileRow(f"{of['method']}{variant}", figures, "")


def _columns(rows: Sequence[ProfileRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for row in rows for column in row.figures))


def profile_rows(tables: Sequence[ProfileTable]) -> Iterator[dict[str, Any]]:
    """Every figure of every profile in long form, one dictionary each."""
    for table in tables:
        for kind, rows in (("training", table.training), ("latency", table.latency)):
            for row in rows:
                for column, figure in row.figures.items():
                    yield {
                        "job_id": table.job_id,
                        "model": table.model,
                        "device": table.environment.get("device_name"),
                        "precision": table.environment.get("precision"),
                        **{key: table.settings[key] for key in ("batch", "length")},
                        "reference": table.reference,
                        "kind": kind,
                        "method": row.label,
                        "figure": column,
                        "value": figure.value,
                        "low": figure.low,
                        "high": figure.high,
                        "unit": figure.unit,
                        "problems": "; ".join(filter(None, (row.problems, figure.problems))),
                        "reason": figure.reason,
                    }
