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

GOLD: dict[str, tuple[list[Any], list[Any]]] = {
    "accuracy": ([0, 1, 1, 2, 0, 1], [0, 1, 2, 2, 1, 1]),
    "macro_f1": ([0, 1, 1, 2, 0, 1], [0, 1, 2, 2, 1, 1]),
    "entity_f1": (
        [["B-PER", "O", "B-LOC"], ["O", "O"], ["B-ORG", "I-ORG"], ["B-LOC", "O"]],
        [["B-PER", "O", "O"], ["O", "B-LOC"], ["B-ORG", "I-ORG"], ["B-LOC", "B-LOC"]],
    ),
    "spearman": ([0.1, 0.4, 0.2, 0.9, 0.5, 0.7], [0.2, 0.3, 0.1, 0.8, 0.9, 0.4]),
    "mse": ([0.1, 0.4, 0.2, 0.9], [0.2, 0.3, 0.1, 0.8]),
}


@pytest.mark.parametrize("name", [name for name in GOLD if name in catalog.metrics()])
def test_mean_of_the_scores_by_example_is_the_score(name: str) -> None:
    metric = catalog.get_metric(name)
    gold, predicted = GOLD[name]

    values = score_examples(metric, gold, predicted)

    assert len(values) == len(gold)
    assert values.mean() == pytest.approx(metric.compute(gold, predicted))


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

    assert unpack(packed_bytes(pack(values))).tolist() == values.tolist()
    whole = base64.b64decode(pack(values))
    for broken in ("not base64!", base64.b64encode(b"zlib?").decode(), base64.b64encode(whole[:-4]).decode(), ""):
        with pytest.raises(ValueError, match="example scores"):
            packed_bytes(broken)
