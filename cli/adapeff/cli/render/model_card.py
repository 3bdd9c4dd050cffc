"""A model card in Markdown for the weights that a run kept: scores, training, cost, environment, use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import yaml

from adapeff.cli.render.text import markdown_cell, one_line
from adapeff.service.measured import Dimensions
from adapeff.service.measurements import (
    MEASUREMENTS,
    PEAK_MEMORY_ALLOCATED,
    PEAK_MEMORY_PROCESS,
    STORED_BYTES,
    TRAIN_COMPUTE_S,
    TRAIN_ENERGY_J,
    TRAIN_FLOPS,
    TRAINABLE_PARAMETERS,
    TUNING_COMPUTE_S,
    WALL_S,
)
from adapeff.service.reporting.card_metadata import card_metadata, card_name
from adapeff.service.reporting.finished_runs import FinishedRun, StoredFile, settings_in_effect
from adapeff.service.reporting.method_facts import hyper_parameters, shares_a_model
from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.titles import revision_of
from adapeff.service.specs.job import JobSpec

_COSTS: Mapping[str, Dimensions] = {
    **dict.fromkeys(
        (one.name for one in (TRAINABLE_PARAMETERS, STORED_BYTES, TRAIN_COMPUTE_S, TUNING_COMPUTE_S, WALL_S)),
        Dimensions(),
    ),
    TRAIN_FLOPS.name: {"variant": {"tokens": "processed"}},
    **dict.fromkeys(
        (one.name for one in (PEAK_MEMORY_ALLOCATED, PEAK_MEMORY_PROCESS, TRAIN_ENERGY_J)), Dimensions(phase="train")
    ),
}
"""The figures of cost, and which of them."""
_USE = """\
```python
from adapeff.service.specs.model_reference import resolve_model
from adapeff.worker.modeling.models import load_model
from adapeff.worker.serving import Host

host = Host(load_model(resolve_model("{model}")).encoder)
host.add("{name}", "FOLDER")  # the folder with {file}
logits = host.use({used})(inputs)
```"""


def model_card(run: FinishedRun, spec: JobSpec, weights: StoredFile) -> str:
    """The card of the weights: metadata and text."""
    metadata = yaml.safe_dump(card_metadata(run, spec), sort_keys=False, allow_unicode=True)
    sections = (
        _opening(run, spec, weights),
        "## Results on the test split\n\n" + _scores(run),
        *(("## Use\n\n" + _use(run, spec, weights),) if shares_a_model(spec.method) else ()),
        "## Training\n\n" + _table(("setting", "value"), _settings(run, spec)),
        "## Cost\n\n" + _table(("figure", "value"), _costs(run)),
        "## Environment\n\n" + _table(("what", "value"), _environment(run)),
    )
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def _opening(run: FinishedRun, spec: JobSpec, weights: StoredFile) -> str:
    licence = run.resolved.get("licence")
    lines = [
        f"# {card_name(run, spec)}",
        f"`{spec.method}` on `{run.model_name}`, trained on {one_line(run.task_name)} with seed {spec.seed}. "
        f"`{weights.name}` ({format_value(weights.bytes, 'B')}, SHA-256 `{weights.sha256}`) contains "
        f"{'the whole model' if spec.method.name == 'full' else 'what was trained and needs the base model'}; "
        "the head is included.",
        "This is one run. Another seed gives another score; `adapeff report` compares methods over seeds.",
    ]
    if licence:
        limit = " They do not allow commercial use." if run.resolved.get("non_commercial") else ""
        lines.append(f"Licence of the training data: {one_line(str(licence))}.{limit}")
    return "\n\n".join(lines)


def _scores(run: FinishedRun) -> str:
    rows = [
        (language, *(_number(run.value(metric, split="test", language=language)) for metric in run.metrics))
        for language in run.test_languages
    ]
    table = _table(("language", *run.metrics), rows)
    members = [(*where, _number(score)) for *where, score in run.member_scores()]
    return f"{table}\n\n{_table(('task', 'language', 'metric', 'score'), members)}" if members else table


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _use(run: FinishedRun, spec: JobSpec, weights: StoredFile) -> str:
    revision = run.resolved.get("model_revision") or spec.model.revision
    model = f"{run.model_name}@{revision}" if revision else run.model_name
    model = model if spec.model.source == "hub" else "BASE_MODEL"
    name = re.sub(r"\W+", "_", f"task_{run.task_name}" if run.task_name[:1].isdigit() else run.task_name).strip("_")
    heads = [str(member.task).replace('"', "'") for member in spec.members] if len(spec.members) > 1 else []
    used = f'"{name}"' + (f', "{heads[0]}"' if heads else "")
    told = f"\n\nIts heads: {', '.join(f'`{one_line(head)}`' for head in heads)}." if heads else ""
    return _USE.format(model=model, name=name, used=used, file=weights.name) + told


def _settings(run: FinishedRun, spec: JobSpec) -> Iterator[tuple[str, str]]:
    yield "method", spec.method.name
    for name, value in hyper_parameters(spec.method).items():
        if value is not None:
            yield name, str(value)
    yield "seed", str(spec.seed)
    yield "learning_rate", f"{run.learning_rate:g}"
    for name, value in settings_in_effect(spec.training).items():
        if name != "learning_rate":
            yield name, str(value)
    for name in ("model_revision", *(f"data_revision:{data_set}" for data_set in run.data_sets)):
        if run.resolved.get(name):
            yield name, str(run.resolved[name])


def _costs(run: FinishedRun) -> Iterator[tuple[str, str]]:
    for name, where in _COSTS.items():
        found = run.reading(name, **where)
        if found is None:
            continue
        reason = f"not measured: {found.reason}"
        yield name, reason if found.value is None else format_value(found.value, MEASUREMENTS[name].display)


def _environment(run: FinishedRun) -> Iterator[tuple[str, str]]:
    yield "adapeff", revision_of(run.environment)
    for name, value in run.environment.items():
        if value is not None and name not in ("adapeff", "git_revision", "git_dirty"):
            yield name, str(value)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(markdown_cell(cell) for cell in line) + " |" for line in lines)
