"""The hub's data sets and our tasks on them: `hub.yaml`, and the revisions that `adapeff tasks verify` has seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from adapeff.worker.tasks.declared import DataSet, DeclaredTask
from adapeff.worker.tasks.rows import is_plain

DECLARED = Path(__file__).parent / "hub.yaml"
VERIFIED = Path(__file__).parent / "verified.json"
"""Hub id -> commit, of the sets that `adapeff tasks verify` has read."""

METRICS = {
    "sequence_classification": ("accuracy", ("macro_f1",)),
    "token_classification": ("entity_f1", ("entity_precision", "entity_recall", "token_accuracy")),
    "question_answering": ("squad_f1", ("exact_match",)),
    "multiple_choice": ("accuracy", ()),
}
"""Family -> the metric selection goes by, and the others."""
_PLAIN_TAGS = ("token_accuracy", ("token_macro_f1",))
_WITH_UNANSWERABLE = ("squad_f1", ("exact_match", "has_answer_f1", "has_answer_exact", "no_answer_accuracy"))


def default_metrics(
    family: str, labels: Sequence[str], unanswerable: bool | str = False
) -> tuple[str, tuple[str, ...]]:
    """The metric that selection goes by where none is named, and the others."""
    if family == "token_classification" and is_plain(labels):
        return _PLAIN_TAGS
    return _WITH_UNANSWERABLE if unanswerable == "predict" else METRICS[family]


MAX_LENGTHS = {"question_answering": 384}
"""Families whose texts are longer than the default of 128 tokens (SQuAD's 384: Devlin et al. 2019)."""


def made_languages(record: dict[str, Any]) -> dict[str, str]:
    """Language -> configuration, from a mapping, or a list and a pattern of the names."""
    pattern = record.pop("config", "{}")
    languages = record["languages"]
    return languages if isinstance(languages, dict) else {language: pattern.format(language) for language in languages}


def _data_sets(records: Mapping[str, Any]) -> dict[str, DataSet]:
    verified = json.loads(VERIFIED.read_text(encoding="utf-8"))
    found = {}
    for name, record in records.items():
        commit = verified.get(record["hub"])
        values = {**record, "revision": commit, "verified": commit is not None}
        values["languages"] = made_languages(values)
        found[name] = DataSet(name=name, **values)
    return found


def _tests(asked: Any, train: DataSet, data_sets: Mapping[str, DataSet]) -> dict[str, DataSet]:
    if asked is None:
        asked = {train.name: "all"}
    elif isinstance(asked, str):
        asked = {asked: "all"}
    return {
        language: data_sets[name]
        for name, languages in asked.items()
        for language in (data_sets[name].languages if languages == "all" else languages)
    }


def _licence(sets: Mapping[str, DataSet]) -> str:
    texts = {data_set.licence: name for name, data_set in sets.items()}
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{name}: {text}" for text, name in texts.items())


def make_task(name: str, record: Mapping[str, Any], data_sets: Mapping[str, DataSet]) -> DeclaredTask:
    """A task from its declaration."""
    train = data_sets[record["train"]]
    tests = _tests(record.get("test"), train, data_sets)
    sets = {data_set.name: data_set for data_set in (train, *tests.values())}
    labels = tuple(record.get("labels", train.labels))
    metric, further = default_metrics(train.family, labels, train.unanswerable)
    return DeclaredTask(
        name=name,
        title=record["title"],
        family=train.family,
        labels=labels,
        metric=record.get("metric", metric),
        further_metrics=tuple(record.get("further_metrics", further)),
        max_length=MAX_LENGTHS.get(train.family),
        source_language=record.get("source_language", next(iter(train.languages))),
        languages=tuple(tests),
        licence=_licence(sets),
        non_commercial=any(data_set.non_commercial for data_set in sets.values()),
        notes=" ".join(text for text in (record.get("notes", ""), *(s.notes for s in sets.values())) if text),
        train=train,
        tests=tests,
        merge=record.get("merge", {}),
    )


@cache
def _declared() -> tuple[dict[str, DataSet], dict[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    records = yaml.load(DECLARED.read_text(encoding="utf-8"), loader)
    return _data_sets(records["data_sets"]), records["tasks"]


def hub_data_sets() -> Mapping[str, DataSet]:
    """The declared data sets by name."""
    return _declared()[0]


HUB_TASKS = tuple(make_task(name, record, hub_data_sets()) for name, record in _declared()[1].items())
