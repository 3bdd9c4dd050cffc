"""The profiles that a sweep requests for its methods, so that its report has paired ratios of times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapeff.service.plugins import catalog
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.specs.job import JobSpec, canonical_json
from adapeff.service.specs.profile import SHORTEST, ProfileSettings, ProfileSpec
from adapeff.service.specs.sweep_file import SweepSpec

REFERENCE = "full"
_BRIEF = {"blocks": 10, "memory": False, "energy_seconds": 2.0}
"""Enough for the ratios of a report in about a minute; memory is measured by the runs themselves."""


def profiles_of(sweep: SweepSpec, jobs: Sequence[JobSpec]) -> list[ProfileSpec]:
    """One profile for each model and shape that jobs of two or more methods share.

    Its training shape is the jobs' batch size x `latency_length`, its latency grid theirs. Methods that build on
    trained sources cannot be profiled and are left out.
    """
    if sweep.profile == "off":
        return []
    given = {} if sweep.profile == "auto" else dict(sweep.profile)
    groups: dict[str, tuple[JobSpec, dict[str, PluginReference]]] = {}
    for job in jobs:
        if catalog.get_method(job.method.name, job.method.parameters).source_names():
            continue
        settings = canonical_json([job.model.identity, _settings(job)])
        groups.setdefault(settings, (job, {}))[1][str(job.method)] = job.method
    return [_profile(job, list(methods.values()), given) for job, methods in groups.values() if len(methods) > 1]


def _settings(job: JobSpec) -> dict[str, Any]:
    training, measuring = job.training, job.measuring
    length = max(SHORTEST, min(max(measuring.lengths), training.max_length))
    return {
        **_BRIEF,
        "batch": training.batch_size if training.batch_tokens is None else max(1, training.batch_tokens // length),
        "length": length,
        "precision": training.precision,
        "device": training.device,
        "cpu_threads": training.cpu_threads,
        "latency_batches": measuring.latency_batches,
        "latency_lengths": measuring.lengths,
        "variants": measuring.variants,
    }


def _profile(job: JobSpec, methods: list[PluginReference], given: dict[str, Any]) -> ProfileSpec:
    ordered = sorted(methods, key=lambda method: str(method) != REFERENCE)
    return ProfileSpec(
        model=job.model,
        methods=tuple(ordered),
        settings=ProfileSettings.model_validate({**_settings(job), **given}),
        time_limit_minutes=job.time_limit_minutes,
    )
