"""Scores of sets of labels, and of the probabilities behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from adapeff.service.plugins.contracts import Counts, Metric


class LabelScores(NamedTuple):
    """A predicted answer: the labels, and a score for every label of the task."""

    labels: tuple[int, ...]
    scores: tuple[float, ...]


Golds = Sequence[Sequence[int]]


def _set_counts(golds: Golds, predicted: Sequence[LabelScores]) -> Counts:
    """Labels that are right, gold and predicted in each example."""
    return [
        (float(len(set(gold) & set(labels))), float(len(gold)), float(len(labels)))
        for gold, (labels, _) in zip(golds, predicted, strict=True)
    ]


def _f1(sums: Sequence[float]) -> float:
    right, gold, predicted = sums
    return 2 * right / (gold + predicted) if gold + predicted else 0.0


def _label_counts(golds: Golds, predicted: Sequence[LabelScores]) -> Counts:
    """For each label whether it is right, gold, predicted: 3 x labels numbers of each example."""
    every_label = range(len(predicted[0][1]))
    return [
        tuple(
            float(number)
            for label in every_label
            for number in (label in gold and label in labels, label in gold, label in labels)
        )
        for gold, (labels, _) in zip(golds, predicted, strict=True)
    ]


def _macro_f1(sums: Sequence[float]) -> float:
    each = [sums[at : at + 3] for at in range(0, len(sums), 3)]
    scores = [_f1(label) for label in each if label[1] or label[2]]
    return sum(scores) / len(scores) if scores else 0.0


def _mean_average_precision(golds: Golds, predicted: Sequence[LabelScores]) -> float:
    """Average precision of each label that is gold at all, averaged; examples of equal score are taken together."""
    import numpy

    scores = numpy.array([scores for _, scores in predicted], dtype=numpy.float64)
    is_gold = numpy.zeros(scores.shape, dtype=bool)
    for row, gold in enumerate(golds):
        is_gold[row, list(gold)] = True
    found = [_average_precision(is_gold[:, at], scores[:, at]) for at in numpy.flatnonzero(is_gold.any(axis=0))]
    return float(numpy.mean(found)) if found else 0.0


def _average_precision(is_gold: Any, scores: Any) -> float:
    """The sum over thresholds of the precision times the recall gained there."""
    import numpy

    order = numpy.argsort(-scores, kind="stable")
    ends = numpy.append(numpy.flatnonzero(numpy.diff(scores[order])), len(scores) - 1)
    right = numpy.cumsum(is_gold[order])[ends]
    return float(numpy.sum(right / (ends + 1) * numpy.diff(right, prepend=0)) / right[-1])


_FAMILIES = ("multi_label_classification",)
MULTI_LABEL_METRICS = (
    Metric("micro_f1", "F1 of all labels of all examples together", True, _set_counts, _f1, _FAMILIES),
    Metric(
        "multi_label_macro_f1",
        "F1 of each label, averaged; labels neither gold nor predicted left out",
        True,
        _label_counts,
        _macro_f1,
        _FAMILIES,
    ),
    Metric(
        "mean_average_precision",
        "average precision of each label by its scores, averaged; labels that are never gold left out",
        True,
        None,
        None,
        _FAMILIES,
        of_answers=_mean_average_precision,
    ),
)
