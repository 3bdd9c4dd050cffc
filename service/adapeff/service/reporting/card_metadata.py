"""The metadata of a model card for the Hugging Face Hub: what a run trained, on what, and how good it is on test data.

The fields are those of https://huggingface.co/docs/hub/model-cards; scores are in `model-index`, a result for each
language of the test split, as shares between 0 and 1 or in the metric's own unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from adapeff.service.plugins import catalog
from adapeff.service.reporting.finished_runs import FinishedRun, slug
from adapeff.service.reporting.titles import find_task, full_title
from adapeff.service.specs.job import JobSpec

ALL = "all"
"""Stands for the languages of all tasks of a mixture."""
_LANGUAGE = re.compile(r"[a-z]{2,3}")


def card_name(run: FinishedRun, spec: JobSpec) -> str:
    """A name for the repository of the weights."""
    base = slug(run.short_model)
    return f"{base}-{slug(run.task_name)}-{slug(str(spec.method))}-seed{spec.seed}-run{run.run_id}"


def card_metadata(run: FinishedRun, spec: JobSpec) -> dict[str, Any]:
    """The metadata as plain data, without what is not known."""
    task = find_task(spec)
    pipeline = catalog.get_family(task.family).pipeline_tag if task and task.family else ""
    is_on_hub = spec.model.source == "hub"
    results = [*_results(run, full_title(spec), pipeline or "other"), *_results_of_members(run)]
    languages = dict.fromkeys([*run.test_languages, *(language for _, language, _, _ in run.member_scores())])
    found = {
        "base_model": spec.model.name if is_on_hub else None,
        "base_model_relation": ("finetune" if spec.method.name == "full" else "adapter") if is_on_hub else None,
        "library_name": "adapeff",
        "pipeline_tag": pipeline or None,
        "language": [language for language in languages if language != ALL and _LANGUAGE.fullmatch(language)],
        "datasets": list(run.data_sets),
        "metrics": list(run.metrics),
        "tags": list(dict.fromkeys(["adapeff", slug(spec.method.name), slug(run.task_name)])),
        "model-index": [{"name": card_name(run, spec), "results": results}],
    }
    return {key: value for key, value in found.items() if value not in (None, [])}


def _results(run: FinishedRun, name: str, pipeline: str) -> Iterator[dict[str, Any]]:
    for language in run.test_languages:
        scores = {metric: run.value(metric, split="test", language=language) for metric in run.metrics}
        yield {
            "task": {"type": pipeline, "name": name},
            "dataset": {**_data_set(run), "name": f"{name} ({language})", "config": language, "split": "test"},
            "metrics": [
                {"type": metric, "value": score, "name": metric}
                for metric, score in scores.items()
                if score is not None
            ],
        }


def _results_of_members(run: FinishedRun) -> Iterator[dict[str, Any]]:
    """The scores of a mixture's tasks."""
    for (name, language), scores in groupby(run.member_scores(), key=lambda found: found[:2]):
        yield {
            "task": {"type": "other", "name": name},
            "dataset": {"type": slug(name), "name": f"{name} ({language})", "config": language, "split": "test"},
            "metrics": [{"type": metric, "value": score, "name": metric} for *_, metric, score in scores],
        }


def _data_set(run: FinishedRun) -> dict[str, str]:
    """The hub's data set with its commit; the task's name where the data are local, generated, or of several sets."""
    if len(run.data_sets) != 1:
        return {"type": slug(run.task_name)}
    ((name, commit),) = run.data_sets.items()
    return {"type": name, "revision": commit}
