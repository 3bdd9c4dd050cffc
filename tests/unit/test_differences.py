"""Differences of methods: agreement with scipy where there is a counterpart, and laws."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from adapeff.service.statistics.differences import (
    SeedVariance,
    compare_methods,
    difference_of_methods,
    paired_difference,
    typical_seed_variance,
)
from adapeff.service.statistics.equivalence import is_non_inferior
from adapeff.service.statistics.multiple import holm

SCORES = st.lists(st.floats(0, 1).map(lambda value: round(value, 3)), min_size=2, max_size=6)


def test_methods_have_welchs_standard_error_and_the_degrees_of_freedom_of_one() -> None:
    ours, theirs = [0.80, 0.82, 0.84], [0.75, 0.77, 0.76]

    found, expected = difference_of_methods(ours, theirs), stats.ttest_ind(ours, theirs, equal_var=False)

    assert found.value / found.standard_error == pytest.approx(expected.statistic)  # type: ignore[operator]
    assert found.p == pytest.approx(2 * stats.t.sf(expected.statistic, 2))


def test_paired_difference_is_the_paired_t_test_over_seeds() -> None:
    ours, theirs = [0.80, 0.82, 0.79, 0.85], [0.75, 0.78, 0.77, 0.80]

    found, expected = paired_difference(ours, theirs), stats.ttest_rel(ours, theirs)

    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


@given(SCORES, st.data())
def test_swapping_the_methods_changes_the_sign_alone(scores: list[float], data: st.DataObject) -> None:
    reference = data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.7, 0.9]), min_size=len(scores), max_size=len(scores)))

    assume(len(set(scores)) > 1)
    one, other = difference_of_methods(scores, reference), difference_of_methods(reference, scores)

    assert one.value == pytest.approx(-other.value)
    assert one.low is not None and one.high is not None
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert one.p == pytest.approx(other.p)


@given(SCORES, st.floats(-2, 2), st.floats(0.5, 20))
def test_units_do_not_matter(scores: list[float], shift: float, scale: float) -> None:
    reference = [0.1 * at for at in range(len(scores))]
    assume(len(set(scores)) > 1)

    plain = difference_of_methods(scores, reference)
    other = difference_of_methods([scale * x + shift for x in scores], [scale * x + shift for x in reference])

    assert other.value == pytest.approx(scale * plain.value, abs=1e-9)
    assert other.p == pytest.approx(plain.p, abs=1e-6)


def test_seeds_that_agree_by_chance_vary_as_the_typical_method_does() -> None:
    agreeing, scattered = [0.80, 0.80], [[0.70, 0.72], [0.60, 0.62], [0.50, 0.52]]
    typical = typical_seed_variance([agreeing, *scattered])
    assert typical is not None and typical.degrees_of_freedom == pytest.approx(2)  # of 1 if unlike, 4 if alike
    assert typical.variance == pytest.approx(0.0002 / stats.chi2.median(1))

    alone = difference_of_methods(agreeing, [0.75, 0.75])
    in_table = difference_of_methods(agreeing, [0.75, 0.75], typical=typical)

    assert (alone.p, alone.basis) == (None, "none")  # nothing is known of the variance
    expected = 2 * stats.t.sf(0.05 / typical.variance**0.5, 2)
    assert in_table.p == pytest.approx(expected)
    assert typical_seed_variance([agreeing, scattered[0]]) is None


def test_the_typical_method_bounds_the_test_among_several_but_not_the_interval_of_one() -> None:
    draw = numpy.random.default_rng(0)
    answers = (draw.random((2, 2, 400)) < 0.8).astype(float)
    ours, theirs = answers.mean(axis=2).tolist()
    by_example, typical = answers[0] - answers[1], SeedVariance(0.05**2, 3.0)

    found = compare_methods(ours, theirs, typical=typical, examples=by_example)

    assert found.difference == difference_of_methods(ours, theirs, examples=by_example)
    assert found.test == difference_of_methods(ours, theirs, typical=typical, examples=by_example)
    assert found.difference.p is not None and found.test.p is not None and found.difference.p < found.test.p
    without = compare_methods(ours, theirs, typical=typical)
    assert without.difference == without.test == difference_of_methods(ours, theirs, typical=typical)


@given(
    st.integers(2, 5),
    st.floats(0.001, 0.3),
    st.floats(1, 20),
    st.floats(-0.2, 0.2),
    st.integers(0, 1000),
)
def test_a_test_among_several_is_never_surer_than_that_of_one(
    seeds: int, spread: float, freedom: float, shift: float, seed: int
) -> None:
    """Though a larger variance may come with more degrees of freedom."""
    draw = numpy.random.default_rng(seed)
    examples = draw.normal(shift, 0.5, size=(seeds, 100)) + draw.normal(0, 0.02, size=(seeds, 1))
    ours, theirs = (0.7 + examples.mean(axis=1)).tolist(), [0.7] * seeds

    found = compare_methods(ours, theirs, typical=SeedVariance(spread**2, freedom), examples=examples)

    assert found.difference.p is not None and found.test.p is not None
    assert found.test.p >= found.difference.p


def test_seeds_vary_at_least_by_the_answers_they_draw() -> None:
    """Two seeds with equal scores whose answers differ."""
    draw = numpy.random.default_rng(0)
    examples = draw.choice([-1.0, 0.0, 1.0], size=(2, 400))
    examples[1] = draw.permutation(examples[0])

    found = difference_of_methods([0.8, 0.8], [0.7, 0.7], examples=examples)

    assert found.standard_error == pytest.approx(examples.std() / 800**0.5, rel=0.1)


def test_answers_that_never_differ_bound_the_difference_by_the_rule_of_three() -> None:
    found = difference_of_methods([0.8, 0.8], [0.8, 0.8], examples=numpy.zeros((2, 300)))

    assert found.value == 0 and found.high == pytest.approx(3 / 300, rel=0.01) and found.p == 1.0


def test_more_examples_and_more_seeds_shorten_the_interval() -> None:
    draw = numpy.random.default_rng(0)

    def width(seeds: int, examples: int) -> float:
        widths = []
        for _ in range(20):
            answers = (draw.random((2, seeds, examples)) < 0.8).astype(float)
            ours, theirs = answers.mean(axis=2).tolist()
            found = difference_of_methods(ours, theirs, examples=answers[0] - answers[1])
            assert found.low is not None and found.high is not None
            widths.append(found.high - found.low)
        return float(numpy.median(widths))

    assert width(3, 1600) < 0.7 * width(3, 400)
    assert width(6, 400) < 0.8 * width(2, 400)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=10))
def test_holm_keeps_the_order_and_never_lowers_a_p_value(p_values: list[float | None]) -> None:
    adjusted = holm(p_values)
    pairs = [(p, q) for p, q in zip(p_values, adjusted, strict=True) if p is not None and q is not None]

    assert [q is None for q in adjusted] == [p is None for p in p_values]
    assert all(p <= q <= 1 for p, q in pairs)
    assert [q for _, q in sorted(pairs)] == sorted(q for _, q in pairs)


def test_holm_is_that_of_the_worked_example() -> None:
    """p = 0.01, 0.02, 0.03, 0.005: multiplied by 3, 2, 1, 4 in the order of their ranks, then made monotone."""
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])


def test_non_inferior_is_a_lower_bound_above_the_margin() -> None:
    found = difference_of_methods([0.80, 0.81, 0.79], [0.80, 0.79, 0.81])
    bound = found.lower_bound()
    assert bound is not None and found.low is not None and found.low < bound < 0

    assert is_non_inferior(found, -bound + 1e-9) and not is_non_inferior(found, -bound - 1e-9)
    assert is_non_inferior(paired_difference([0.8], [0.8]), 0.01) is None
