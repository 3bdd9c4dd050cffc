"""Generated sentence similarity: how much two sentences share, as a number, from the lexicons of `offline.py`."""

from __future__ import annotations

import random

from adapeff.worker.families.regression import Regression, ScoredExample
from adapeff.worker.tasks.offline import ACTS, AGENTS, IS_ANIMAL, KINDS, PLACES, drawn_from
from adapeff.worker.tasks.offline_structured import OfflineMeasuredTask


class OfflineSimilarity(OfflineMeasuredTask):
    """How much two sentences share: who 2, what 1, where 2; hard ones name the kind of who, which counts 1.

    The noise replaces the number by another one from 0 to 5.
    """

    name: str = "offline_similarity"
    title: str = "Generated sentence similarity from 0 to 5, trained in English, tested in four languages"
    family: str = Regression.name
    metric: str = "pearson"
    further_metrics: tuple[str, ...] = ("spearman", "mse")

    def _make(
        self, name: str, draw: random.Random, flip: random.Random, language: str, *, held_out: bool
    ) -> ScoredExample:
        agents, acts, places = AGENTS[language], ACTS[language], PLACES[language]
        drawn = [drawn_from(len(agents), held_out=held_out), (0, len(acts)), (0, len(places))]
        first = [draw.randrange(*bounds) for bounds in drawn]
        other = [draw.randrange(*bounds) for bounds in drawn]
        kept = [draw.random() < 0.5 for _ in drawn]
        second = [a if same else b for a, b, same in zip(first, other, kept, strict=True)]
        hard = draw.random() < self.difficulty
        same_kind = IS_ANIMAL[first[0]] == IS_ANIMAL[second[0]]
        value = (int(same_kind) if hard else 2 * (first[0] == second[0])) + (first[1] == second[1])
        value += 2 * (first[2] == second[2])
        who = KINDS[language][IS_ANIMAL[second[0]]] if hard else agents[second[0]]
        if flip.random() < self.noise:
            value = (value + flip.randrange(1, 6)) % 6
        one = f"{agents[first[0]]} {acts[first[1]]} {places[first[2]]} ."
        return ScoredExample(name, one, f"{who} {acts[second[1]]} {places[second[2]]} .", float(value))

    def _gold(self, example: ScoredExample) -> float:
        return example.value

    def _answer(self, example: ScoredExample) -> float:
        return example.value
