"""Scores of label indices: classes, and the choices of multiple choice tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapeff.service.plugins.contracts import Metric

Labels = Sequence[int]
Counts = list[tuple[float, ...]]


def _correct(gold: Labels, predicted: Labels) -> Counts:
    return [(float(a == b), 1.0) for a, b in zip(gold, predicted, strict=True)]


def _share(sums: Sequence[float]) -> float:
    return sums[0] / sums[1]


def _by_label(gold: Labels, predicted: Labels) -> Counts:
    """For each class whether it is right, is gold, is predicted: 3 x classes numbers an example."""
    classes = max(max(gold), max(predicted)) + 1
    rows: dict[tuple[int, int], tuple[float, ...]] = {}
    for a, b in zip(gold, predicted, strict=True):
        if (a, b) not in rows:
            rows[a, b] = tuple(float(x) for c in range(classes) for x in (a == b == c, a == c, b == c))
    return [rows[pair] for pair in zip(gold, predicted, strict=True)]


def _by_class(sums: Sequence[float]) -> list[tuple[float, float, float]]:
    """Correct, gold and predicted examples of each class that is gold or predicted at all."""
    found = [(sums[at], sums[at + 1], sums[at + 2]) for at in range(0, len(sums), 3)]
    return [(correct, gold, predicted) for correct, gold, predicted in found if gold or predicted]


def _macro_f1(sums: Sequence[float]) -> float:
    classes = _by_class(sums)
    return sum(2 * correct / (gold + predicted) for correct, gold, predicted in classes) / len(classes)


def _weighted_f1(sums: Sequence[float]) -> float:
    classes = _by_class(sums)
    weighted = sum(gold * 2 * correct / (gold + predicted) for correct, gold, predicted in classes)
    return weighted / sum(gold for _, gold, _ in classes)


def _matthews(sums: Sequence[float]) -> float:
    classes = _by_class(sums)
    examples = sum(gold for _, gold, _ in classes)
    covariance = sum(c for c, _, _ in classes) * examples - sum(gold * predicted for _, gold, predicted in classes)
    of_gold = examples**2 - sum(gold**2 for _, gold, _ in classes)
    of_predicted = examples**2 - sum(predicted**2 for _, _, predicted in classes)
    return covariance / math.sqrt(of_gold * of_predicted) if of_gold * of_predicted > 0 else 0.0


_FAMILIES: tuple[str, ...] = ("sequence_classification", "multiple_choice")
CLASSIFICATION_METRICS = (
    Metric("accuracy", "share of correct predictions", True, _correct, _share, _FAMILIES),
    Metric(
        "macro_f1",
        "F1 of each class, averaged; classes neither gold nor predicted left out",
        True,
        _by_label,
        _macro_f1,
        _FAMILIES,
    ),
    Metric(
        "weighted_f1",
        "F1 of each class, averaged by its share of the gold labels",
        True,
        _by_label,
        _weighted_f1,
        _FAMILIES,
    ),
    Metric(
        "matthews_correlation",
        "Matthews' correlation coefficient, -1..1 (Gorodkin 2004 for several classes)",
        True,
        _by_label,
        _matthews,
        _FAMILIES,
    ),
)
