"""Scores by test example: their mean is the score, for every metric, and they survive packing."""

from __future__ import annotations

import base64
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from adapeff.service.plugins import catalog
from adapeff.service.plugins.example_scores import score_examples
from adapeff.service.statistics.differences import paired_difference
from adapeff.service.statistics.packing import pack, packed_bytes, unpack
from adapeff.service.statistics.pseudo_values import pseudo_values, pseudo_values_of
from adapeff.worker.metrics.multi_label import LabelScores

LABELS = (
    [[0], [1, 2], [], [2], [0, 1], [1]],
    [
        LabelScores((0,), (0.9, 0.2, 0.1)),
        LabelScores((1,), (0.3, 0.8, 0.4)),
        LabelScores((2,), (0.1, 0.1, 0.6)),
        LabelScores((2,), (0.2, 0.5, 0.7)),
        LabelScores((0, 2), (0.6, 0.4, 0.8)),
        LabelScores((), (0.4, 0.3, 0.2)),
    ],
)
GOLD: dict[str, tuple[list[Any], list[Any]]] = {
    "accuracy": ([0, 1, 1, 2, 0, 1], [0, 1, 2, 2, 1, 1]),
    "macro_f1": ([0, 1, 1, 2, 0, 1], [0, 1, 2, 2, 1, 1]),
    "entity_f1": (
        [["B-PER", "O", "B-LOC"], ["O", "O"], ["B-ORG", "I-ORG"], ["B-LOC", "O"]],
        [["B-PER", "O", "O"], ["O", "B-LOC"], ["B-ORG", "I-ORG"], ["B-LOC", "B-LOC"]],
    ),
    "spearman": ([0.1, 0.4, 0.2, 0.9, 0.5, 0.7], [0.2, 0.3, 0.1, 0.8, 0.9, 0.4]),
    "mse": ([0.1, 0.4, 0.2, 0.9], [0.2, 0.3, 0.1, 0.8]),
    "squad_f1": ([["the red cat"], ["a dog", "dogs"], [], ["no"]], ["red cat sat", "dogs", "", "yes"]),
    "has_answer_f1": ([["the red cat"], ["a dog", "dogs"], [], ["no"]], ["red cat sat", "dogs", "", "yes"]),
    "matthews_correlation": ([0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 1, 1]),
    "micro_f1": LABELS,
    "multi_label_macro_f1": LABELS,
    "mean_average_precision": LABELS,
}


@pytest.mark.parametrize("name", GOLD)
def test_mean_of_the_scores_by_example_is_the_score(name: str) -> None:
    metric = catalog.get_metric(name)
    gold, predicted = GOLD[name]

    values = score_examples(metric, gold, predicted)

    assert len(values) == len(gold)
    assert values.mean() == pytest.approx(metric.compute(gold, predicted))


def test_values_of_a_rank_correlation_over_groups_have_its_score_as_mean() -> None:
    draw = numpy.random.default_rng(1)
    gold = draw.normal(size=1003)
    predicted = gold + draw.normal(size=1003)

    values = score_examples(catalog.get_metric("spearman"), gold.tolist(), predicted.tolist())

    assert len(values) == 200
    assert values.mean() == pytest.approx(stats.spearmanr(gold, predicted).statistic)


def test_values_of_f1_vary_as_the_scores_of_samples_do() -> None:
    """The spread of the values over the root of their number is the standard error that a bootstrap finds."""
    draw = numpy.random.default_rng(2)
    gold = draw.integers(0, 3, 600)
    predicted = numpy.where(draw.random(600) < 0.7, gold, draw.integers(0, 3, 600))
    metric = catalog.get_metric("macro_f1")
    samples = [draw.integers(600, size=600) for _ in range(500)]
    resampled = [metric.compute(gold[at].tolist(), predicted[at].tolist()) for at in samples]

    values = score_examples(metric, gold.tolist(), predicted.tolist())

    assert values.std(ddof=1) / 600**0.5 == pytest.approx(numpy.std(resampled, ddof=1), rel=0.15)


def test_shares_are_zeros_and_ones() -> None:
    gold, predicted = GOLD["accuracy"]

    assert score_examples(catalog.get_metric("accuracy"), gold, predicted) == pytest.approx([1, 1, 0, 1, 0, 1])


@given(st.lists(st.integers(0, 1), min_size=2, max_size=60), st.integers(2, 20))
def test_values_of_a_mean_are_its_terms_and_groups_keep_the_mean(correct: list[int], groups: int) -> None:
    counts = numpy.array([[float(each), 1.0] for each in correct])

    def share(gold: Any, predicted: Any) -> float:
        return float(sum(a == b for a, b in zip(gold, predicted, strict=True)) / len(gold))

    by_sums = pseudo_values(counts, lambda sums: sums[0] / sums[1])
    by_groups = pseudo_values_of([1] * len(correct), correct, share, groups=groups)

    assert by_sums == pytest.approx(numpy.array(correct, dtype=float), abs=1e-9)
    assert len(by_groups) == min(groups, len(correct))
    assert by_groups.mean() == pytest.approx(sum(correct) / len(correct))


def test_interval_of_one_seed_is_the_paired_t_test_over_the_examples() -> None:
    draw = numpy.random.default_rng(0)
    ours, theirs = draw.integers(0, 2, 200).astype(float), draw.integers(0, 2, 200).astype(float)

    found = paired_difference([ours.mean()], [theirs.mean()], examples=(ours - theirs)[None])
    expected = stats.ttest_rel(ours, theirs)

    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_packing_keeps_the_values_and_refuses_what_it_did_not_make() -> None:
    values = numpy.array([0.0, 1.0, 0.5, -2.25])

    assert list(unpack(packed_bytes(pack(values)))) == values.tolist()
    whole = base64.b64decode(pack(values))
    for broken in ("not base64!", base64.b64encode(b"zlib?").decode(), base64.b64encode(whole[:-4]).decode(), ""):
        with pytest.raises(ValueError, match="example scores"):
            packed_bytes(broken)
