"""Generated topics: what a text is about, several labels for each, from the lexicons of `offline.py`."""

from __future__ import annotations

import random

from adapeff.worker.families.multi_label import MultiLabelClassification, MultiLabelExample
from adapeff.worker.metrics.multi_label import LabelScores
from adapeff.worker.tasks.offline import ACTS, AGENTS, IS_ANIMAL, PLACES, drawn_from
from adapeff.worker.tasks.offline_structured import AND, OfflineMeasuredTask

_MEALS, _REST, _NATURE = (2, 4), (0, 5), (0, 3, 4)
"""Indices into the acts (eating, drinking; sleeping, resting) and places (garden, river, forest)."""


class OfflineTopics(OfflineMeasuredTask):
    """What a text is about, any number of topics; hard ones have two clauses. The noise adds or removes one topic."""

    name: str = "offline_topics"
    title: str = "Generated topics, several for a text, trained in English, tested in four languages"
    family: str = MultiLabelClassification.name
    labels: tuple[str, ...] = ("animal", "person", "meal", "rest", "nature")
    metric: str = "micro_f1"
    further_metrics: tuple[str, ...] = ("multi_label_macro_f1", "mean_average_precision")

    def _make(
        self, name: str, draw: random.Random, flip: random.Random, language: str, *, held_out: bool
    ) -> MultiLabelExample:
        clauses, topics = [], set[int]()
        hard = draw.random() < self.difficulty
        for at in range(2):
            agent = draw.randrange(*drawn_from(len(AGENTS[language]), held_out=held_out))
            act, place = draw.randrange(len(ACTS[language])), draw.randrange(len(PLACES[language]))
            if at and not hard:
                continue
            clauses.append(f"{AGENTS[language][agent]} {ACTS[language][act]} {PLACES[language][place]}")
            present = (IS_ANIMAL[agent], not IS_ANIMAL[agent], act in _MEALS, act in _REST, place in _NATURE)
            topics |= {label for label, is_there in enumerate(present) if is_there}
        if flip.random() < self.noise:
            topics ^= {flip.randrange(len(self.labels))}
        text = f" {AND[language]} ".join(clauses)
        return MultiLabelExample(name, f"{text} .", None, tuple(sorted(topics)))

    def _gold(self, example: MultiLabelExample) -> tuple[int, ...]:
        return example.labels

    def _answer(self, example: MultiLabelExample) -> LabelScores:
        return LabelScores(example.labels, tuple(float(at in example.labels) for at in range(len(self.labels))))
