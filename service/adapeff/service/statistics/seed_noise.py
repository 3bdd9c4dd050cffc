"""How much a method's score varies between seeds, estimated for all methods of a table together.

Two or three seeds say little about a variance, and intervals from them are far too short whenever the seeds happen to
agree. So each method's variance is moved towards those of the other methods, the more the more alike they are: the
empirical Bayes estimate of Smyth 2004, "Linear models and empirical Bayes methods for assessing differential
expression", section 6. The degrees of freedom are those of the method plus those of the prior, at most those of all
methods together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from scipy import special

_SMALLEST = 1e-12
"""Variances below are taken for this, in squares of the score's unit; equal scores have a variance of 0."""


@dataclass(frozen=True)
class SeedNoise:
    """The variance of one run's score around its method's mean over seeds."""

    variance: float
    own: float
    """Degrees of freedom of the method's own scores."""
    prior: float
    """Degrees of freedom of the prior, which all methods share."""
    most: float
    """Degrees of freedom of all methods together."""

    def of_difference(self, other: SeedNoise) -> tuple[float, float]:
        """Variance and degrees of freedom of the difference between a run of this method and one of another.

        Both estimates contain the same prior, so it counts once.
        """
        variance = self.variance + other.variance
        welch = variance**2 / (
            self.variance**2 / (self.own + self.prior) + other.variance**2 / (other.own + other.prior)
        )
        return variance, min(welch, self.own + other.own + self.prior, self.most)


def seed_noise(scores: Sequence[Sequence[float]]) -> list[SeedNoise | None]:
    """The noise of each method; None for methods with one seed.

    Args:
        scores: for each method, one score per seed.
    """
    several = [numpy.asarray(of_method, dtype=float) for of_method in scores if len(of_method) > 1]
    if not several:
        return [None] * len(scores)
    variances = numpy.array([max(float(values.var(ddof=1)), _SMALLEST) for values in several])
    freedoms = numpy.array([len(values) - 1.0 for values in several])
    prior, prior_freedom = _prior(variances, freedoms)
    most = float(freedoms.sum())
    found = iter(
        SeedNoise(_moved(variance, own, prior, prior_freedom), own, min(prior_freedom, most), most)
        for variance, own in zip(variances.tolist(), freedoms.tolist(), strict=True)
    )
    return [next(found) if len(of_method) > 1 else None for of_method in scores]


def _moved(variance: float, own: float, prior: float, prior_freedom: float) -> float:
    if math.isinf(prior_freedom):
        return prior
    return (prior_freedom * prior + own * variance) / (prior_freedom + own)


def _prior(variances: numpy.ndarray, freedoms: numpy.ndarray) -> tuple[float, float]:
    """The prior variance and its degrees of freedom, from the mean and variance of the log variances."""
    if len(variances) == 1:
        return float(variances[0]), 0.0
    logs = numpy.log(variances) - special.digamma(freedoms / 2) + numpy.log(freedoms / 2)
    spread = float(logs.var(ddof=1) - special.polygamma(1, freedoms / 2).mean())
    if spread <= 0:  # no more than chance: one variance for all
        return float((freedoms * variances).sum() / freedoms.sum()), math.inf
    freedom = 2 * _trigamma_inverse(spread)
    return float(numpy.exp(logs.mean() + special.digamma(freedom / 2) - math.log(freedom / 2))), freedom


def _trigamma_inverse(value: float) -> float:
    """The y with trigamma(y) = value, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-10 * y:
            break
    return y
