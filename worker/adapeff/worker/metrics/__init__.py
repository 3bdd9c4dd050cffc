"""Our metrics: pure functions of gold and predicted label indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapeff.service.plugins import Metric


def accuracy(gold: Sequence[int], predicted: Sequence[int]) -> float:
    """Share of predictions that equal the gold label.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    if not gold or len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold labels and {len(predicted)} predictions: expected as many, at least one")
    return sum(a == b for a, b in zip(gold, predicted, strict=True)) / len(gold)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", description="share of correct predictions", higher_is_better=True, compute=accuracy),
    )
}
