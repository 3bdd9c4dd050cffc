"""A finished run as MLflow keeps it: parameters, metrics, and tags, as plain data.

The name of a metric is that of the figure, which ends with its unit (`_s`, `_bytes`, `_j`, `_per_s`; shares and counts
have none), followed by the dimensions that apply: `accuracy/en/test`, `latency_s/p50/batch-1/length-64/fp32`,
`train_tokens/tokens-real`. Curves are in `curves/`, with the training step as step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapeff.service.measured import Key
from adapeff.service.reporting.finished_runs import FinishedRun, Points, settings_in_effect
from adapeff.service.reporting.method_facts import hyper_parameters
from adapeff.service.specs.job import JobSpec, canonical_hash

KEY = "adapeff.key"
"""The tag that identifies a run, in whichever database it is."""
_PACKAGES = ("adapeff", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy", "python")
_LONGEST = 6000
"""Characters of a parameter's value that MLflow takes."""


class Point(NamedTuple):
    """A value of a metric at a step; 0 for what is measured once."""

    metric: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class MlflowRecord:
    """What becomes one run of MLflow."""

    name: str
    key: str
    start_ms: int
    end_ms: int
    parameters: Mapping[str, str]
    points: tuple[Point, ...]
    tags: Mapping[str, str]


def mlflow_record(run: FinishedRun) -> MlflowRecord:
    """The run's settings, figures and origin under the names that MLflow shows."""
    key = canonical_hash({"job": run.job_hash, "started": run.started_at.isoformat()})
    return MlflowRecord(
        name=f"{run.short_model} {_what(run)} (run {run.run_id})",
        key=key,
        start_ms=_milliseconds(run.started_at.timestamp()),
        end_ms=_milliseconds((run.finished_at or run.started_at).timestamp()),
        parameters={name: str(value)[:_LONGEST] for name, value in _parameters(run) if value is not None},
        points=(*_measured(run), *(point for name, curve in run.curves.items() for point in _curve(name, curve))),
        tags={KEY: key, **{name: str(value) for name, value in _tags(run) if value}},
    )


def _what(run: FinishedRun) -> str:
    spec = run.spec
    if isinstance(spec, JobSpec):
        return f"{run.task_name} {spec.method} seed {spec.seed}"
    return f"profile of {len(spec.methods)} methods"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _parameters(run: FinishedRun) -> Iterator[tuple[str, Any]]:
    spec = run.spec
    yield "model", run.model_name
    yield "task", run.task_name
    if not isinstance(spec, JobSpec):
        yield "methods", ", ".join(map(str, spec.methods))
        yield from _flat("settings", spec.settings.model_dump(mode="json"))
        return
    yield "method", str(spec.method)
    yield "seed", spec.seed
    yield "repeat", spec.repeat
    yield from _flat("method", hyper_parameters(spec.method))
    yield from _flat("training", {**settings_in_effect(spec.training), "learning_rate": run.learning_rate})
    yield from _flat("measuring", spec.measuring.model_dump(mode="json"))


def _flat(group: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield f"{group}.{name}", json.dumps(value) if isinstance(value, dict | list) else value


def _tags(run: FinishedRun) -> Iterator[tuple[str, Any]]:
    yield "adapeff.job_id", run.job_id
    yield "adapeff.run_id", run.run_id
    yield "adapeff.job_hash", run.job_hash
    yield "adapeff.kind", run.spec.kind
    yield "adapeff.sweep", ", ".join(run.sweeps)
    yield "adapeff.host", run.host
    yield "adapeff.device", run.environment.get("device_name")
    yield "adapeff.precision", run.environment.get("precision")
    yield "adapeff.git_revision", run.environment.get("git_revision")
    yield "model.revision", run.resolved.get("model_revision")
    for name, commit in run.data_sets.items():
        yield f"data.revision.{_part(name)}", commit
    for package in _PACKAGES:
        yield f"version.{package}", run.environment.get(package)


def _measured(run: FinishedRun) -> Iterator[Point]:
    """Each figure that was measured once; null ones have no place in MLflow."""
    taken: dict[str, int] = {}
    for one in run.measured:
        if one.value is None:
            continue
        name = metric_name(one.key)
        taken[name] = taken.get(name, 0) + 1
        yield Point(name if taken[name] == 1 else f"{name}-{taken[name]}", one.value)


def metric_name(key: Key) -> str:
    """The figure's name and its dimensions, in characters that MLflow allows."""
    sizes = [f"{name}-{size}" for name, size in (("batch", key.batch), ("length", key.length)) if size]
    variant = json.loads(key.variant) if key.variant else {}
    parts = [
        *(key.name, key.statistic, key.phase, key.language, key.split, *sizes, key.dtype),
        *(f"{name}-{value if isinstance(value, str) else json.dumps(value)}" for name, value in variant.items()),
    ]
    return "/".join(_part(part) for part in parts if part)


def _part(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "-"


def _curve(name: str, points: Points) -> Iterator[Point]:
    """The points by step; of a curve over something else, such as learning rates, each under a name of its own."""
    is_by_step = all(float(x).is_integer() for x, _ in points)
    for x, value in points:
        if value is None:
            continue
        yield (
            Point(f"curves/{_part(name)}", value, int(x))
            if is_by_step
            else Point(f"curves/{_part(name)}/{_part(f'{x:g}')}", value)
        )
