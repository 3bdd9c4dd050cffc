"""The difference of two methods' scores, paired by seed and by test example.

The differences of the scores by example follow a crossed random-effects model: d_se = mu + a_s + b_e + c_se for seed s
and example e. The variance of their mean is estimated from the mean squares of seeds, examples and the residual,
(MS_seed + MS_example - MS_residual) / (seeds x examples), with Satterthwaite's degrees of freedom (Satterthwaite 1946;
Searle, Casella & McCulloch 1992, "Variance Components", section 4).
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
    degrees_of_freedom: float
    p: float | None
    """Two-sided."""
    seeds: int
    examples: int
    basis: Basis

    def lower_bound(self, confidence: float = 0.95) -> float | None:
        """The one-sided lower confidence bound."""
        if self.standard_error is None:
            return None
        return self.value - float(special.stdtrit(self.degrees_of_freedom, confidence)) * self.standard_error


def paired_difference(
    scores: Sequence[float], reference: Sequence[float], *, examples: numpy.ndarray | None = None
) -> Difference:
    """The mean difference of scores paired by seed.

    With one seed, the interval covers the sampling of test examples only: it is about these two trained models. Without
    examples, it is Student's over the seeds, and there is none for one seed.

    Args:
        scores: one per seed.
        reference: one per seed, in the same order.
        examples: seeds x examples; differences by example whose mean over the examples is the difference of the scores.

    Raises:
        ValueError: if the numbers of scores differ, or there are none.
    """
    if not scores or len(scores) != len(reference):
        raise ValueError(f"{len(scores)} and {len(reference)} scores; paired differences need the same seeds")
    differences = numpy.asarray(scores, dtype=float) - numpy.asarray(reference, dtype=float)
    value = float(differences.mean())
    if examples is None or examples.shape[1] < 2:
        return _over_seeds(value, differences)
    return _over_seeds_and_examples(value, numpy.asarray(examples, dtype=float))


def _over_seeds(value: float, differences: numpy.ndarray) -> Difference:
    seeds = len(differences)
    if seeds < 2:
        return Difference(value, None, None, None, 0.0, None, seeds, 0, "none")
    error = float(differences.std(ddof=1)) / math.sqrt(seeds)
    return _with_interval(value, error, seeds - 1, seeds, 0, "seeds")


def _over_seeds_and_examples(value: float, examples: numpy.ndarray) -> Difference:
    seeds, count = examples.shape
    if seeds == 1:
        error = float(examples.std(ddof=1)) / math.sqrt(count)
        return _with_interval(value, error, count - 1, 1, count, "examples")
    mean = examples.mean()
    by_seed, by_example = examples.mean(axis=1, keepdims=True), examples.mean(axis=0, keepdims=True)
    squares_seed = count * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    squares_example = seeds * float(((by_example - mean) ** 2).sum()) / (count - 1)
    residual = examples - by_seed - by_example + mean
    squares_residual = float((residual**2).sum()) / ((seeds - 1) * (count - 1))
    parts = (
        (squares_seed, seeds - 1),
        (squares_example, count - 1),
        (-squares_residual, (seeds - 1) * (count - 1)),
    )
    total = max(sum(part for part, _ in parts), squares_residual, squares_example)
    freedom = total**2 / sum(part**2 / df for part, df in parts) if total else 1.0
    return _with_interval(value, math.sqrt(total / (seeds * count)), freedom, seeds, count, "seeds and examples")


def _with_interval(value: float, error: float, freedom: float, seeds: int, examples: int, basis: Basis) -> Difference:
    if error == 0.0:
        p = 1.0 if value == 0.0 else 0.0
        return Difference(value, value, value, 0.0, freedom, p, seeds, examples, basis)
    half = float(special.stdtrit(freedom, 0.975)) * error
    p = 2 * float(special.stdtr(freedom, -abs(value) / error))
    return Difference(value, value - half, value + half, error, freedom, p, seeds, examples, basis)
