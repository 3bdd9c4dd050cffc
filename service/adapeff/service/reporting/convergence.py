"""When methods reach the reference's validation score, and what determines the time they take.

A target is a share of the reference's best validation score (mean over its seeds; where lower is better, that score
divided by the share). A run reaches it at the first validation that is at least as good. Nothing is interpolated, so
targets are only compared on a common evaluation grid, which the runs of a table share. Shares of a negative score
are meaningless, so a reference with a negative best score has no targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

TARGETS = (0.90, 0.95, 0.98, 0.99, 1.0)
CURVES = ("train_samples", "train_compute_s", "train_flops")
_ROUNDING = 1e-9
Curves = Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Reached:
    """The cost of one run up to the point where it reached a target."""

    steps: float
    samples: float
    compute_s: float
    flops: float


@dataclass(frozen=True)
class TargetCell:
    """The cost of reaching a target with a method: means over the seeds that reach it."""

    target: float
    """Share of the reference's best score."""
    score: float
    """The validation score to reach."""
    seeds: int
    reached: int
    mean: Reached | None
    resolution: float = 0.0
    """Steps between two validations: the target was reached up to so many steps earlier."""
    fewest: float = 0.0
    most: float = 0.0
    """The steps of the first and of the last seed that reached it."""
    budget: float = 0.0
    """The last validated step of the longest run."""

    @property
    def flops_per_step(self) -> float | None:
        """Mean FLOPs per step up to the target."""
        return self.mean.flops / self.mean.steps if self.mean else None


def when_reached(curves: Curves, metric: str, score: float, *, higher_is_better: bool = True) -> Reached | None:
    """The cost of a run up to its first validation at least as good as `score`; None if it never reaches it.

    Args:
        curves: the curves of one run, as lists of (step, value).
    """
    spent = {name: {point[0]: point[1] for point in curves.get(name, ())} for name in CURVES}
    for step, value in curves.get(f"validation_{metric}", ()):
        has_reached = value >= score - _ROUNDING if higher_is_better else value <= score + _ROUNDING
        if has_reached and step in spent["train_samples"] and step in spent["train_compute_s"]:
            samples, seconds, flops = (float(spent[name].get(step, 0)) for name in CURVES)  # FLOPs may be uncounted
            return Reached(step, samples, seconds, flops)
    return None


def best_score(curves: Curves, metric: str, *, higher_is_better: bool = True) -> float | None:
    """The best validation score of a run."""
    best = max if higher_is_better else min
    return best((value for _, value in curves.get(f"validation_{metric}", ())), default=None)


def to_targets(
    runs: Mapping[str, Sequence[Curves]], *, reference: str, metric: str, higher_is_better: bool = True
) -> dict[str, tuple[TargetCell, ...]]:
    """The cost of each target for each method; empty if the reference has no curves or a negative best score.

    Args:
        runs: method -> the curves of its seeds.
    """
    better = {"higher_is_better": higher_is_better}
    bests = [best for curves in runs.get(reference, ()) if (best := best_score(curves, metric, **better)) is not None]
    if not bests:
        return {}
    best = math.fsum(bests) / len(bests)
    if best < 0 or (best == 0 and higher_is_better):
        return {}
    return {
        method: tuple(
            _cell(seeds, metric, target, target * best if higher_is_better else best / target, **better)
            for target in TARGETS
        )
        for method, seeds in runs.items()
    }


def _cell(seeds: Sequence[Curves], metric: str, target: float, score: float, *, higher_is_better: bool) -> TargetCell:
    resolution = max((_gap(curves.get(f"validation_{metric}", ())) for curves in seeds), default=0.0)
    budget = max((point[0] for curves in seeds for point in curves.get(f"validation_{metric}", ())), default=0.0)
    reached = (when_reached(curves, metric, score, higher_is_better=higher_is_better) for curves in seeds)
    costs = [cost for cost in reached if cost is not None]
    if not costs:
        return TargetCell(target, score, len(seeds), 0, None, resolution, budget=budget)
    means: dict[str, Any] = {
        name: math.fsum(getattr(cost, name) for cost in costs) / len(costs)
        for name in ("steps", "samples", "compute_s", "flops")
    }
    steps = [cost.steps for cost in costs]
    return TargetCell(
        target, score, len(seeds), len(costs), Reached(**means), resolution, min(steps), max(steps), budget
    )


def _gap(points: Sequence[Sequence[float]]) -> float:
    """The largest number of steps between two validations, or before the first."""
    steps = [0.0, *(point[0] for point in points)]
    return max((after - before for before, after in pairwise(steps)), default=0.0)


DECOMPOSED = 0.95
"""The target whose time the report takes apart into factors."""


@dataclass(frozen=True)
class TimeFactors:
    """What a method's time to a target consists of, as multiples of the reference's.

    The time is the product of the steps and the time of a step; the latter is only comparable if a profile paired it.
    None where either side did not reach the target.
    """

    steps: float | None
    flops_per_step: float | None


def time_factors(targets: Mapping[str, Sequence[TargetCell]], reference: str) -> dict[str, TimeFactors]:
    """Each method's factors of its time to 95 % of the reference's best score.

    Args:
        targets: as `to_targets` gives them.
    """
    base = next((cell for cell in targets.get(reference, ()) if math.isclose(cell.target, DECOMPOSED)), None)
    if base is None:
        return {}
    factors = {}
    for method, cells in targets.items():
        cell = next(cell for cell in cells if math.isclose(cell.target, DECOMPOSED))
        if cell.mean is None or base.mean is None:
            factors[method] = TimeFactors(None, None)
        else:
            factors[method] = TimeFactors(
                _ratio(cell.mean.steps, base.mean.steps), _ratio(cell.flops_per_step, base.flops_per_step)
            )
    return factors


def _ratio(own: float | None, reference: float | None) -> float | None:
    return own / reference if own and reference else None
