"""The difference of two methods' scores, paired by seed and by test example.

The differences of the scores by example follow a crossed random-effects model: d_se = mu + a_s + b_e + c_se for seed s
and example e. The variance of their mean is that of the seeds, MS_seed / (S x E), plus that of the examples,
(MS_example - MS_residual) / (S x E), with the mean squares of the two-way layout (Searle, Casella & McCulloch 1992,
"Variance Components", section 4.3) and Satterthwaite's degrees of freedom. MS_residual is a lower bound of MS_seed:
even seeds that are all alike differ by it.

The usual bootstrap over seeds and examples is not used, because its intervals are far too short for the few seeds that
people can afford (`python -m benchmarks.statistics` compares both).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from scipy import special

Basis = Literal["seeds and examples", "seeds", "examples", "none"]


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval; without one (None) where the data cannot give it."""

    value: float
    low: float | None
    high: float | None
    standard_error: float | None
    freedom_of_tests: float
    """Degrees of freedom of `p` and `lower_bound`; fewer than those of the interval where the seeds agree by chance."""
    p: float | None
    """Two-sided."""
    seeds: int
    examples: int
    basis: Basis

    def lower_bound(self, confidence: float = 0.95) -> float | None:
        """The one-sided lower confidence bound."""
        if self.standard_error is None:
            return None
        return self.value - float(special.stdtrit(self.freedom_of_tests, confidence)) * self.standard_error


def difference_of_methods(
    scores: Sequence[float], reference: Sequence[float], *, examples: numpy.ndarray | None = None
) -> Difference:
    """The mean difference of two methods' scores over the same seeds, paired by test example.

    The seeds' variance is the sum of both methods' variances, with the degrees of freedom of one: the methods may vary
    unequally, and of few differences some are close to each other by chance. With one seed, the interval covers the
    sampling of test examples only: it is about these two trained models.

    Args:
        scores: one per seed.
        reference: one per seed, in the same order.
        examples: seeds x examples; differences by example whose mean over the examples is the difference of the scores.

    Raises:
        ValueError: if the numbers of scores differ, or there are none.
    """
    ours, theirs = _checked(scores, reference)
    variance = float(ours.var(ddof=1) + theirs.var(ddof=1)) if len(ours) > 1 else 0.0
    return _difference(ours - theirs, variance, examples)


def paired_difference(
    scores: Sequence[float], reference: Sequence[float], *, examples: numpy.ndarray | None = None
) -> Difference:
    """The mean difference of pairs of scores, such as those of the same jobs on two hosts: the variance of the pairs.

    Args and errors: as for `difference_of_methods`, for pairs in place of seeds.
    """
    ours, theirs = _checked(scores, reference)
    differences = ours - theirs
    return _difference(differences, float(differences.var(ddof=1)) if len(ours) > 1 else 0.0, examples)


def _checked(scores: Sequence[float], reference: Sequence[float]) -> tuple[numpy.ndarray, numpy.ndarray]:
    if not scores or len(scores) != len(reference):
        raise ValueError(f"{len(scores)} and {len(reference)} scores; paired differences need the same seeds")
    return numpy.asarray(scores, dtype=float), numpy.asarray(reference, dtype=float)


def _difference(differences: numpy.ndarray, variance: float, examples: numpy.ndarray | None) -> Difference:
    """The difference from one value per seed, the variance of one of them, and what is known by example."""
    value, seeds = float(differences.mean()), len(differences)
    if examples is None or examples.shape[1] < 2:
        if seeds == 1:
            return Difference(value, None, None, None, 0.0, None, 1, 0, "none")
        return _with_interval(value, math.sqrt(variance / seeds), (seeds - 1, seeds - 1), seeds, 0, "seeds")
    count = examples.shape[1]
    if seeds == 1:
        error = float(examples.std(ddof=1)) / math.sqrt(count)
        return _with_interval(value, error, (count - 1, count - 1), 1, count, "examples")
    error, freedoms = _crossed(numpy.asarray(examples, dtype=float), count * variance)
    return _with_interval(value, error, freedoms, seeds, count, "seeds and examples")


def _crossed(examples: numpy.ndarray, of_seed: float) -> tuple[float, tuple[float, float]]:
    """The standard error of the mean, and the degrees of freedom of its interval and of tests.

    If the seeds vary by less than the residual, they agree by chance and their variance is taken from the residual. The
    interval then has the residual's degrees of freedom, which gives it the right coverage on average. Tests keep those
    of the seeds, because the smallest of several p-values must be right too.

    Args:
        of_seed: the mean square of the seeds.
    """
    seeds, count = examples.shape
    by_seed, by_example = examples.mean(axis=1, keepdims=True), examples.mean(axis=0, keepdims=True)
    of_example = seeds * float(by_example.var(ddof=1))
    rest = examples - by_seed - by_example + examples.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (count - 1))
    sampling, at_least = max(0.0, of_example - residual), max(of_seed, residual)
    total = at_least + sampling
    if total == 0.0:
        return 0.0, (seeds - 1, seeds - 1)
    freedom_of_seeds = seeds - 1 if of_seed >= residual else (seeds - 1) * (count - 1)
    of_interval, of_tests = (
        total**2 / (at_least**2 / freedom + sampling**2 / (count - 1)) for freedom in (freedom_of_seeds, seeds - 1)
    )
    return math.sqrt(total / (seeds * count)), (of_interval, of_tests)


def _with_interval(
    value: float, error: float, freedoms: tuple[float, float], seeds: int, examples: int, basis: Basis
) -> Difference:
    of_interval, of_tests = freedoms
    if error == 0.0:
        p = 1.0 if value == 0.0 else 0.0
        return Difference(value, value, value, 0.0, of_tests, p, seeds, examples, basis)
    half = float(special.stdtrit(of_interval, 0.975)) * error
    p = 2 * float(special.stdtr(of_tests, -abs(value) / error))
    return Difference(value, value - half, value + half, error, of_tests, p, seeds, examples, basis)
