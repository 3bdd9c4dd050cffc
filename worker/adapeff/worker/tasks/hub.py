"""The hub's data sets and our tasks on them: `hub.yaml`, and the revisions that `adapeff tasks verify` has seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from adapeff.worker.families.base import get_family
from adapeff.worker.tasks.data_sets import DataSet
from adapeff.worker.tasks.declared import DeclaredTask

DECLARED = Path(__file__).parent / "hub.yaml"
VERIFIED = Path(__file__).parent / "verified.json"
"""Hub id -> commit, of the sets that `adapeff tasks verify` has read."""


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
    family = get_family(train.family)
    metric, further = family.default_metrics(labels, family.options(train))
    return DeclaredTask(
        name=name,
        title=record["title"],
        family=train.family,
        labels=labels,
        metric=record.get("metric", metric),
        further_metrics=tuple(record.get("further_metrics", further)),
        max_length=family.default_max_length,
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
