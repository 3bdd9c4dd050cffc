"""When methods reach what the reference reaches, and why it takes them as long as it does.

A target is a share of the reference's best validation score (mean over its seeds; where lower is better, that score
divided by the share). A run reaches it at the first validation that is at least as good. Nothing is interpolated, so
targets are only compared on a common evaluation grid, which the settings of one table give. Shares of a negative score
mean nothing, so a reference with a negative best score gives no targets. Time to target = steps to target x FLOPs per
step / achieved FLOP/s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TARGETS = (0.90, 0.95, 0.98, 0.99, 1.0)
CURVES = ("train_samples", "train_compute_s", "train_flops")
_ROUNDING = 1e-9
Curves = Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Reached:
    """What one run had spent when it reached a target."""

    steps: float
    samples: float
    compute_s: float
    flops: float


@dataclass(frozen=True)
class TargetCell:
    """A method's way to a target: means over the seeds that get there."""

    target: float
    """Share of the reference's best score."""
    score: float
    """The validation score that is asked for."""
    seeds: int
    reached: int
    mean: Reached | None

    @property
    def flops_per_step(self) -> float | None:
        """FLOPs of a step, the mean up to the target."""
        return self.mean.flops / self.mean.steps if self.mean else None

    @property
    def achieved_flops_per_s(self) -> float | None:
        """FLOP/s of the compute time up to the target."""
        return self.mean.flops / self.mean.compute_s if self.mean else None


def when_reached(curves: Curves, metric: str, score: float, *, higher_is_better: bool = True) -> Reached | None:
    """What a run had spent at its first validation with that score or a better one; None if it never got there.

    Args:
        curves: those of one run, as lists of (step, value).
    """
    spent = {name: {point[0]: point[1] for point in curves.get(name, ())} for name in CURVES}
    for step, value in curves.get(f"validation_{metric}", ()):
        is_there = value >= score - _ROUNDING if higher_is_better else value <= score + _ROUNDING
        if is_there and step in spent["train_samples"] and step in spent["train_compute_s"]:
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
    """Each method's way to each target; empty where the reference has no curves, or a negative score.

    Args:
        runs: method -> the curves of its seeds.
    """
    better = {"higher_is_better": higher_is_better}
    bests = [best for curves in runs.get(reference, ()) if (best := best_score(curves, metric, **better)) is not None]
    if not bests:
        return {}
    best = math.fsum(bests) / len(bests)
    if best < 0:
        return {}
    return {
        method: tuple(
            _cell(seeds, metric, target, target * best if higher_is_better else best / target, **better)
            for target in TARGETS
        )
        for method, seeds in runs.items()
    }


def _cell(seeds: Sequence[Curves], metric: str, target: float, score: float, *, higher_is_better: bool) -> TargetCell:
    reached = (when_reached(curves, metric, score, higher_is_better=higher_is_better) for curves in seeds)
    found = [spent for spent in reached if spent is not None]
    if not found:
        return TargetCell(target, score, len(seeds), 0, None)
    means: dict[str, Any] = {
        name: math.fsum(getattr(spent, name) for spent in found) / len(found)
        for name in ("steps", "samples", "compute_s", "flops")
    }
    return TargetCell(target, score, len(seeds), len(found), Reached(**means))
