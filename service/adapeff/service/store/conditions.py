"""The conditions that two runs must share to be compared: model, task, data, settings, hardware and versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapeff.service.specs.job import JobSpec, canonical_json

ALIKE = (
    *("device_name", "device_type", "precision", "driver", "cuda", "cpu_capability", "torch_threads", "cpu_affinity"),
    *("cpu_quota", "attention_kernels"),
    *("python", "torch", "transformers", "peft"),
)
"""The parts of the environment that all runs of a table share.

adapeff's own version and revision are not among them: runs record the versions of the figures whose meaning has changed
(`measurement_versions`), and only those tell them apart.
"""
_ABOUT_THE_METRIC = ("metric_unit", "higher_is_better")
"""Properties of the metric, recorded so that a report does not need its plug-in; not conditions of the run."""


def recorded_conditions(spec: JobSpec, resolved: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """All that is recorded of a run's conditions, ready for JSON."""
    return {
        "model": spec.model.identity,
        "model_name": str(spec.model),
        "task": str(spec.task),
        **({"task_title": spec.task_title} if spec.task_title else {}),
        "data": spec.data.fingerprint or spec.data.revision,
        "test_data": spec.data.test_fingerprint,
        "resolved": dict(resolved),
        "settings": comparable_settings(spec),
        "environment": dict(environment),
    }


def comparable(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions that must be equal for two runs to share a table."""
    resolved, environment = recorded["resolved"], recorded["environment"]
    return {
        **{key: recorded[key] for key in ("model", "task", "data", "test_data", "settings")},
        "resolved": {key: value for key, value in resolved.items() if key not in _ABOUT_THE_METRIC},
        "environment": {key: environment.get(key) for key in ALIKE},
    }


def likeness_of(recorded: Mapping[str, Any]) -> str:
    """The comparable conditions as text."""
    return canonical_json(comparable(recorded))


def by_readable_name(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The comparable conditions but model and task, by the names a report gives them."""
    conditions = comparable(recorded)
    resolved = dict(conditions["resolved"])
    versions = resolved.pop("measurement_versions", {})
    return {
        "data": conditions["data"],
        "test data": conditions["test_data"],
        **resolved,
        **{f"version of {name}": version for name, version in versions.items()},
        **conditions["settings"],
        **conditions["environment"],
    }


def comparable_settings(spec: JobSpec) -> dict[str, Any]:
    """The settings that all runs of a table share; the learning rate may differ by method."""
    excluded = {"learning_rate", "device", "tuning"}
    training = spec.training.model_dump(mode="json", exclude_defaults=True, exclude=excluded)
    measuring = spec.measuring.model_dump(mode="json", include={"latency_length", "latency_batches"})
    if spec.measuring.latency_lengths:
        measuring["latency_length"] = list(spec.measuring.latency_lengths)
    return {**training, **measuring}
