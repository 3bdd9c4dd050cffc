"""The difference of two methods' scores over seeds and test examples.

The differences of the scores by example follow a crossed random-effects model: d_se = mu + a_s + b_e + c_se for seed s
and example e. The variance of their mean is that of the seeds, MS_seed / (S x E), plus that of the examples,
(MS_example - MS_residual) / (S x E), with the mean squares of the two-way layout (Searle, Casella & McCulloch 1992,
"Variance Components", section 4.3) and Satterthwaite's degrees of freedom.

Two or three seeds often agree by chance. So the variance between seeds is taken to be at least that of the residual,
by which even seeds that are all alike differ. The bootstrap over seeds and examples has no such bound, and its
intervals are far too short (`python -m benchmarks.statistics`).

The interval of one method needs no more. A test after which the smallest of several p-values is looked at does: it
picks the method whose seeds agree best by chance. So the variance of a test is also at least that of the typical method
of the table. With it in the intervals too, they would cover up to 99 % instead of 95 %. A larger variance may come with
more degrees of freedom; the test is then the one with the larger p.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from scipy import special

_RULE_OF_THREE = 3.0
"""If none of E examples differs, at most 3 / E of all differ with 95 % confidence (Hanley & Lippman-Hand 1983)."""
Basis = Literal["seeds and examples", "seeds", "examples", "none"]


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval; without one (None) where the data cannot give it."""

    value: float
    low: float | None
    high: float | None
    standard_error: float | None
    degrees_of_freedom: float
    p: float | None
    """Two-sided."""
    seeds: int
    examples: int
    basis: Basis
    seed_error: float | None = None
    """The part of the standard error that shrinks with more seeds; None where nothing is known of it."""

    def lower_bound(self, confidence: float = 0.95) -> float | None:
        """The one-sided lower confidence bound."""
        if self.standard_error is None:
            return None
        return self.value - float(special.stdtrit(self.degrees_of_freedom, confidence)) * self.standard_error


@dataclass(frozen=True)
class SeedVariance:
    """The variance of one run's score over seeds."""

    variance: float
    degrees_of_freedom: float


def typical_seed_variance(scores: Sequence[Sequence[float]]) -> SeedVariance | None:
    """The variance over seeds of the typical method, from three or more methods with several seeds; None from fewer.

    The median of the methods' variances over the median of chi-squared / degrees of freedom, so that one method that
    varies wildly does not blur the others.

    Its degrees of freedom are (n - 1) sqrt(k) for k methods with n seeds each, sum(n_i - 1) / sqrt(k) in general. If
    all methods vary alike, it is known almost as well as from all k (n - 1) degrees of freedom; if they do not, it says
    no more of a given pair than a single method does, with n - 1. Two or three seeds cannot tell which is the case, so
    the geometric mean of both is taken. With all of them, a reference that varies five times as much as the methods
    and whose two seeds agree by chance gave 10 % of false positives after Holm's adjustment, which reads the far tail
    of the distribution; with the geometric mean they stay below 5 %, and where methods do vary alike, tests have less
    power than they could have (`python -m benchmarks.statistics`, settings "unequal" and "large").

    Args:
        scores: for each method, one score per seed.
    """
    several = [numpy.asarray(of_method, dtype=float) for of_method in scores if len(of_method) > 1]
    if len(several) < 3:
        return None
    scaled = [
        float(values.var(ddof=1)) * (len(values) - 1) / _median_chi_squared(len(values) - 1) for values in several
    ]
    freedom = sum(len(values) - 1 for values in several) / math.sqrt(len(several))
    return SeedVariance(statistics.median(scaled), freedom)


def _median_chi_squared(freedom: int) -> float:
    return float(special.chdtri(freedom, 0.5))


@dataclass(frozen=True)
class Comparison:
    """A method and the reference."""

    difference: Difference
    """With the interval of this method alone."""
    test: Difference
    """For its p-value, which may be adjusted for several methods; never smaller than that of the difference alone."""


def compare_methods(
    scores: Sequence[float],
    reference: Sequence[float],
    *,
    typical: SeedVariance | None = None,
    examples: numpy.ndarray | None = None,
) -> Comparison:
    """The difference of two methods, and the test of it among several methods.

    Without scores by example nothing but the typical variance protects the interval from seeds that agree by chance, so
    the interval is then that of the test.

    Args and errors: as for `difference_of_methods`.
    """
    test = difference_of_methods(scores, reference, typical=typical, examples=examples)
    is_bounded = examples is not None and examples.shape[1] > 1
    alone = difference_of_methods(scores, reference, examples=examples) if typical and is_bounded else test
    return Comparison(alone, max(test, alone, key=lambda found: -1.0 if found.p is None else found.p))


def difference_of_methods(
    scores: Sequence[float],
    reference: Sequence[float],
    *,
    typical: SeedVariance | None = None,
    examples: numpy.ndarray | None = None,
) -> Difference:
    """The mean difference of two methods' scores over the same seeds, paired by test example.

    The seeds' variance is the sum of both methods' variances, with the degrees of freedom of one, because the methods
    may vary unequally. With one seed, the interval covers the sampling of test examples only: it is about these two
    trained models.

    Args:
        scores: one per seed.
        reference: one per seed, in the same order.
        typical: the variance of the typical method of the table, a lower bound.
        examples: seeds x examples; differences by example whose mean over the examples is the difference of the scores.

    Raises:
        ValueError: if the numbers of scores differ, or there are none.
    """
    ours, theirs = _checked(scores, reference)
    if len(ours) < 2:
        return _difference(ours - theirs, (), examples)
    bounds = [SeedVariance(float(ours.var(ddof=1) + theirs.var(ddof=1)), len(ours) - 1)]
    if typical is not None:
        bounds.append(SeedVariance(2 * typical.variance, typical.degrees_of_freedom))
    return _difference(ours - theirs, bounds, examples)


def paired_difference(
    scores: Sequence[float], reference: Sequence[float], *, examples: numpy.ndarray | None = None
) -> Difference:
    """The mean difference of pairs of scores, such as those of the same jobs on two hosts: the variance of the pairs.

    Args and errors: as for `difference_of_methods`, for pairs in place of seeds.
    """
    ours, theirs = _checked(scores, reference)
    differences = ours - theirs
    bounds = [SeedVariance(float(differences.var(ddof=1)), len(ours) - 1)] if len(ours) > 1 else []
    return _difference(differences, bounds, examples)


def _checked(scores: Sequence[float], reference: Sequence[float]) -> tuple[numpy.ndarray, numpy.ndarray]:
    if not scores or len(scores) != len(reference):
        raise ValueError(f"{len(scores)} and {len(reference)} scores; paired differences need the same seeds")
    return numpy.asarray(scores, dtype=float), numpy.asarray(reference, dtype=float)


def _difference(
    differences: numpy.ndarray, bounds: Sequence[SeedVariance], examples: numpy.ndarray | None
) -> Difference:
    """The difference from one value per seed, lower bounds of the variance of a value, and what is known by example."""
    value, seeds = float(differences.mean()), len(differences)
    if examples is None or examples.shape[1] < 2:
        if seeds == 1:
            return Difference(value, None, None, None, 0.0, None, 1, 0, "none")
        largest = max(bounds, key=lambda bound: bound.variance)
        error = math.sqrt(largest.variance / seeds)
        return _with_interval(value, error, largest.degrees_of_freedom, seeds, 0, "seeds", error)
    count = examples.shape[1]
    if seeds == 1:
        error = float(examples.std(ddof=1)) / math.sqrt(count)
        return _with_interval(value, error, count - 1, 1, count, "examples")
    error, freedom, seed_error = _crossed(numpy.asarray(examples, dtype=float), bounds)
    return _with_interval(value, error, freedom, seeds, count, "seeds and examples", seed_error)


def _crossed(examples: numpy.ndarray, bounds: Sequence[SeedVariance]) -> tuple[float, float, float]:
    """The standard error of the mean, its degrees of freedom, and the seeds' part of it."""
    seeds, count = examples.shape
    by_seed, by_example = examples.mean(axis=1, keepdims=True), examples.mean(axis=0, keepdims=True)
    of_example = seeds * float(by_example.var(ddof=1))
    rest = examples - by_seed - by_example + examples.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (count - 1))
    of_seed = max(
        (*bounds, SeedVariance(residual / count, (seeds - 1) * (count - 1))), key=lambda bound: bound.variance
    )
    parts = (
        (of_seed.variance / seeds, of_seed.degrees_of_freedom),
        (max(0.0, of_example - residual) / (seeds * count), count - 1),
    )
    total = math.fsum(part for part, _ in parts)
    if total == 0.0:
        return 0.0, float(seeds - 1), 0.0
    freedom = total**2 / math.fsum(part**2 / freedom for part, freedom in parts)
    return math.sqrt(total), freedom, math.sqrt(parts[0][0])


def _with_interval(
    value: float,
    error: float,
    freedom: float,
    seeds: int,
    examples: int,
    basis: Basis,
    seed_error: float | None = None,
) -> Difference:
    if error == 0.0 and not examples:  # equal scores by chance: nothing is known of their variance
        return Difference(value, None, None, None, 0.0, None, seeds, 0, "none")
    if error == 0.0:
        error, freedom, seed_error = _RULE_OF_THREE / 1.96 / examples, examples - 1, None
    half = float(special.stdtrit(freedom, 0.975)) * error
    p = 2 * float(special.stdtr(freedom, -abs(value) / error))
    return Difference(value, value - half, value + half, error, freedom, p, seeds, examples, basis, seed_error)
