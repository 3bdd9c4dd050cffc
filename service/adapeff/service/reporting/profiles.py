"""Sum up profile jobs: a table of what a training step takes and one of forward passes, each beside the reference's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from adapeff.service.reporting.reruns import Spread
from adapeff.service.reporting.runs import ALIKE
from adapeff.service.specs.job import STORED
from adapeff.service.specs.profile import ProfileSpec
from adapeff.service.store import job_queries, results
from adapeff.service.store.tables import Job, Measurement, Run


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval where it has one; None with the reason where it could not be had."""

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    reason: str = ""
    problems: str = ""
    """What is known against it alone; what is known against all of a row's times stands with the row."""


@dataclass(frozen=True)
class ProfileRow:
    """A method, or a way of serving it."""

    label: str
    figures: dict[str, Figure]
    """By column; those a way of serving shares with its method are absent."""
    problems: str
    """What is known against its times; empty if nothing."""


@dataclass(frozen=True)
class ProfileTable:
    """What a profile job found."""

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
    ceilings: dict[str, float]
    again: dict[str, dict[str, Spread]] = field(default_factory=dict)
    """Row -> column -> its values in all runs of this profile under like conditions, if there are several."""


_STEP = {
    "step": ("step_latency_s", {"statistic": "p50", "phase": ""}),
    "forward": ("step_latency_s", {"statistic": "p50", "phase": "forward"}),
    "backward": ("step_latency_s", {"statistic": "p50", "phase": "backward"}),
    "optimizer": ("step_latency_s", {"statistic": "p50", "phase": "optimizer"}),
}
_FIGURES = {
    "FLOPs": ("step_flops", {"phase": ""}),
    "FLOPs forward": ("step_flops", {"phase": "forward"}),
    "FLOPs backward": ("step_flops", {"phase": "backward"}),
    "achieved": ("achieved_flops_per_s", {}),
    "utilisation": ("flops_utilisation", {}),
    "trained: method": ("trainable_parameters_method", {}),
    "trained: head": ("trainable_parameters_head", {}),
    "peak allocated": ("peak_memory_allocated_bytes", {}),
    "peak process": ("peak_memory_process_bytes", {}),
    "energy": ("step_energy_j", {}),
    "largest batch": ("largest_batch", {}),
    "saturated": ("throughput_saturated_samples_per_s", {}),
}
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer state": "optimizer",
    "activations": "activations",
    "cast weights": "cast weights",
}


class _Found:
    """The measurements of a run by what they are and what they are of."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._all = [(m, json.loads(m.variant) if m.variant else {}) for m in measurements]

    def figure(self, name: str, of: dict[str, Any], **where: Any) -> Figure | None:
        for m, variant in self._all:
            if m.name == name and variant == of and all(getattr(m, key) == value for key, value in where.items()):
                return Figure(m.value, m.unit, reason=m.reason)
        return None

    def ratio(self, name: str, of: dict[str, Any], reference: str, **where: Any) -> Figure | None:
        sides = {
            side: self.figure(name, {**of, "reference": reference}, statistic=side, **where)
            for side in ("ratio", "low", "high")
        }
        middle, low, high = sides["ratio"], sides["low"], sides["high"]
        if middle is None or low is None or high is None:
            return None
        return Figure(middle.value, "x", low.value, high.value)

    def served(self) -> list[dict[str, Any]]:
        """Every method and way of serving whose latency was measured."""
        seen: dict[str, dict[str, Any]] = {}
        for m, variant in self._all:
            if m.name == "latency_s" and "method" in variant:
                seen.setdefault(m.variant, variant)
        return list(seen.values())

    def cells(self) -> list[tuple[int, int]]:
        """The shapes of the latency grid, batch x length."""
        return list(dict.fromkeys((m.batch, m.length) for m, _ in self._all if m.name == "latency_ratio"))


def build_profiles(session: Session, *, sweep_ids: Sequence[int] | None = None) -> tuple[ProfileTable, ...]:
    """The tables of a sweep's finished profile jobs, or of all; of the repeats of a profile the newest."""
    asked = job_queries.list_jobs(session, sweep_ids=sweep_ids, states=("succeeded",), kinds=("profile",))
    if not asked:
        return ()
    profiled = list({job.train_hash for job in asked})
    repeats = job_queries.list_jobs(session, states=("succeeded",), train_hashes=profiled)
    runs = job_queries.list_runs(session, [job.id for job in repeats])
    counted = [(job, run) for job in repeats for run in runs[job.id] if run.outcome == "succeeded"]
    measured = results.list_measurements(session, [run.id for _, run in counted])
    environments = results.list_environments(session, [run.environment_id for _, run in counted if run.environment_id])
    groups: dict[str, list[ProfileTable]] = {}
    for job, run in counted:
        table = _table(job, run, measured[run.id], environments.get(run.environment_id or 0, {}))
        groups.setdefault(f"{job.train_hash} {job.spec['settings']}", []).append(table)
    wanted = {job.id for job in asked}
    newest = [
        replace(chosen[-1], again=_again(chosen[-1], group))
        for group in groups.values()
        if (chosen := [table for table in group if table.job_id in wanted])
    ]
    return tuple(sorted(newest, key=lambda table: table.job_id))


def _again(table: ProfileTable, repeats: Sequence[ProfileTable]) -> dict[str, dict[str, Spread]]:
    like = [
        other for other in repeats if all(other.environment.get(key) == table.environment.get(key) for key in ALIKE)
    ]
    found: dict[str, dict[str, Spread]] = {}
    for kind in ("training", "latency"):
        rows = [{row.label: row for row in getattr(other, kind)} for other in like]
        for label, row in rows[-1].items() if len(like) > 1 else ():
            for column in row.figures:
                figures = [of_run[label].figures.get(column) for of_run in rows if label in of_run]
                values = tuple(figure.value for figure in figures if figure is not None and figure.value is not None)
                if len(values) == len(like):
                    found.setdefault(label, {})[column] = Spread(values)
    return found


def _table(job: Job, run: Run, measured: Sequence[Measurement], environment: dict[str, Any]) -> ProfileTable:
    spec = ProfileSpec.model_validate(job.spec, context=STORED)
    found = _Found(measured)
    reference = str(spec.methods[0])
    training = [_training(found, str(method), reference) for method in spec.methods]
    latency = [_latency(found, of, reference) for of in found.served()]
    settings = spec.settings.model_dump(mode="json", include={"batch", "length", "blocks", "turn_seconds", "compile"})
    return ProfileTable(
        job_id=job.id,
        model=str(spec.model),
        random_weights=bool((run.resolved or {}).get("random_weights")),
        reference=reference,
        settings=settings,
        environment=environment,
        training=tuple(training),
        training_columns=_columns(training),
        latency=tuple(latency),
        latency_columns=_columns(latency),
        ceilings={m.name: m.value for m in measured if m.name.startswith("ceiling_") and m.value is not None},
    )


def _training(found: _Found, method: str, reference: str) -> ProfileRow:
    of = {"method": method}
    figures: dict[str, Figure | None] = {}
    for column, (name, where) in _STEP.items():
        figures[column] = found.figure(name, of, **where)
        figures[f"{column} ratio"] = found.ratio("step_ratio", of, reference, phase=where["phase"])
    figures |= {column: found.figure(name, of, **where) for column, (name, where) in _FIGURES.items()}
    figures["energy ratio"] = found.ratio("energy_ratio", of, reference)
    figures |= {column: found.figure("memory_bytes", {**of, "part": part}) for column, part in _PARTS.items()}
    told = found.figure("disturbance", of, phase="train")
    uncounted = found.figure("flops_uncounted_operations", of)
    problems = [
        told.reason if told else "",
        f"FLOPs without {uncounted.reason}" if uncounted and uncounted.value else "",
    ]
    present = {column: figure for column, figure in figures.items() if figure is not None}
    return ProfileRow(method, present, "; ".join(filter(None, problems)))


def _latency(found: _Found, of: dict[str, Any], reference: str) -> ProfileRow:
    figures = {}
    for batch, length in found.cells():
        cell = f"{batch}x{length}"
        at = {"batch": batch, "length": length}
        middle = found.figure("latency_s", of, statistic="p50", **at)
        if middle is not None:
            low, high = (found.figure("latency_s", of, statistic=f"p50_{side}", **at) for side in ("low", "high"))
            told = found.figure("disturbance", of, phase="inference", **at)
            figures[cell] = Figure(
                middle.value,
                "s",
                low.value if low else None,
                high.value if high else None,
                problems=told.reason if told else "",
            )
        ratio = found.ratio("latency_ratio", of, reference, **at)
        if ratio is not None:
            figures[f"{cell} ratio"] = ratio
    words = [key if value is True else f"{key} {value}" for key, value in of.items() if key != "method"]
    served = f" ({', '.join(words)})" if words else ""
    return ProfileRow(f"{of['method']}{served}", figures, "")


def _columns(rows: Sequence[ProfileRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for row in rows for column in row.figures))


def profile_rows(tables: Sequence[ProfileTable]) -> Iterator[dict[str, Any]]:
    """Every figure of every profile in flat form."""
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
