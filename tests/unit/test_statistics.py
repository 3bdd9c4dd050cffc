"""Summaries over seeds, percentiles, and the line between noise and a score."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.statistics.summaries import student_t_95, summarise, within_noise
from adapeff.worker.measure.latency import percentile

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize("degrees", [1, 2, 5, 29, 30, 31, 60, 1000])
def test_student_quantile_equals_scipys(degrees: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")

    assert student_t_95(degrees) == pytest.approx(scipy_stats.t.ppf(0.975, degrees), abs=2e-4)


def test_interval_of_a_worked_example() -> None:
    """2, 4, 6: mean 4, standard deviation 2, t(2) = 4.3027, half-width 4.3027 * 2 / sqrt(3) = 4.9683."""
    found = summarise([2.0, 4.0, 6.0])

    assert found.mean == 4
    assert found.low == pytest.approx(4 - 4.9683, abs=1e-4)
    assert found.high == pytest.approx(4 + 4.9683, abs=1e-4)


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0]])
def test_fewer_than_three_values_have_no_interval(values: list[float]) -> None:
    found = summarise(values)

    assert (found.low, found.high, found.values) == (None, None, tuple(values))


@given(VALUES)
def test_mean_lies_between_the_values_and_in_its_interval(values: list[float]) -> None:
    found = summarise(values)

    assert min(values) <= found.mean <= max(values)
    assert found.low is None or found.high is None or found.low <= found.mean <= found.high


@given(VALUES, st.randoms())
def test_percentiles_are_ordered_and_do_not_depend_on_order(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    low, middle, high = (percentile(values, p) for p in (5, 50, 95))

    assert min(values) <= low <= high <= max(values)
    assert low <= middle + 1e-6 * abs(middle) and middle <= high + 1e-6 * abs(high)
    assert [percentile(shuffled, p) for p in (5, 50, 95)] == [low, middle, high]


@given(VALUES, st.integers(0, 100))
def test_percentile_equals_numpys(values: list[float], percent: int) -> None:
    import numpy

    assert percentile(values, percent) == pytest.approx(float(numpy.percentile(values, percent)), rel=1e-9, abs=1e-9)


def test_median_of_an_even_sample_lies_in_the_middle() -> None:
    assert percentile([1.0, 2.0, 3.0, 10.0], 50) == 2.5


@pytest.mark.parametrize(
    ("score", "baseline", "examples", "expected"),
    [(0.34, 1 / 3, 999, True), (0.40, 1 / 3, 999, False), (0.30, 1 / 3, 999, True), (0.6, 0.5, 100, False)],
)
def test_noise_is_two_standard_errors_of_the_baseline(
    score: float, baseline: float, examples: int, expected: bool
) -> None:
    half = 1.959964 * math.sqrt(baseline * (1 - baseline) / examples)

    assert within_noise(score, baseline, examples) is expected
    assert within_noise(baseline + half * 0.999, baseline, examples)
    assert not within_noise(baseline + half * 1.001, baseline, examples)
