"""How often the report's intervals and verdicts are right, over simulated sweeps.

    python -m benchmarks.statistics [--sweeps 2000]

A sweep trains two methods with n seeds each and tests both on the same E examples. Whether a model answers an example
correctly is drawn from sigmoid(method + seed effect + example effect + interaction); seeds of the two methods are
independent, examples are shared. The setting says how large the seed effects are next to the sampling of examples.
The true difference is that of the expected accuracies over seeds and examples; with one seed, that of the two trained
models. The last line is JSON:

- `coverage`: share of the 95 % intervals that contain the true difference, by seeds and setting (goal 0.93 to 0.97)
- `coverage_bootstrap`: the same of a hierarchical percentile bootstrap over seeds and examples, for comparison
- `false_positives`: share of sweeps in which any of 7 equal methods is called better or worse (Holm; goal at most
  0.05); with one seed only without seed effects, because two models trained with one seed each do differ otherwise
- `non_inferiority_errors`: share of methods that are worse by exactly the margin and called within it (at most 0.05)
- `power`: share of methods 3 points below the reference that are called worse
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass

import numpy
from scipy import special

from adapeff.service.statistics.differences import Difference, difference_of_methods, typical_seed_variance
from adapeff.service.statistics.equivalence import is_non_inferior
from adapeff.service.statistics.multiple import holm

SEEDS = (1, 2, 3, 5)
METHODS = 7
MARGIN = 0.01
_NODES, _WEIGHTS = numpy.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Setting:
    """How scores vary: standard deviations on the logit scale."""

    name: str
    examples: int
    seed: float
    reference_seed: float | None = None
    """The reference's own, if it differs from the others'."""
    difficulty: float = 2.0
    interaction: float = 1.0

    def seed_effects(self, methods: int) -> numpy.ndarray:
        """The standard deviation over seeds of each method, the reference first."""
        effects = numpy.full(methods, self.seed)
        effects[0] = self.seed if self.reference_seed is None else self.reference_seed
        return effects


SETTINGS = (
    *(
        Setting(f"{kind}, {examples} examples", examples, seed)
        for examples in (200, 1000)
        for kind, seed in (("no seed effect", 0.0), ("small seed effect", 0.05), ("similar", 0.15), ("large", 0.5))
    ),
    Setting("unequal, 1000 examples", 1000, 0.1, reference_seed=0.5),
)


def main() -> None:
    """Simulate, print a table, end with JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2000)
    sweeps: int = parser.parse_args().sweeps
    draw = numpy.random.default_rng(0)
    coverage = {
        f"n={n}, {m} methods, {s.name}": covers(draw, s, n, sweeps, m) for n in SEEDS for m in (2, 8) for s in SETTINGS
    }
    large = [setting for setting in SETTINGS if setting.examples > 200 and setting.reference_seed is None]
    bootstrapped = {
        f"n={n}, 2 methods, {s.name}": bootstrap_covers(draw, s, n, max(50, sweeps // 10))
        for n in SEEDS[1:]
        for s in large
    }
    errors = {f"n={n}, {s.name}": decide(draw, s, n, sweeps) for n in SEEDS for s in large if n > 1 or not s.seed}
    for name, share in coverage.items():
        other = f"   bootstrap {bootstrapped[name]:.3f}" if name in bootstrapped else ""
        print(f"{name:40} coverage {share:.3f}{other}")
    for name, found in errors.items():
        print(f"{name:40} " + "   ".join(f"{what} {share:.3f}" for what, share in found.items()))
    verdicts = {what: {name: of[what] for name, of in errors.items()} for what in next(iter(errors.values()))}
    sys.stdout.flush()
    print(json.dumps({"sweeps": sweeps, "coverage": coverage, "coverage_bootstrap": bootstrapped, **verdicts}))


def simulate(
    draw: numpy.random.Generator, setting: Setting, seeds: int, gaps: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """One sweep of a reference (gap 0 on the logit scale) and further methods.

    Returns:
        Answers (methods x seeds x examples, 1 where correct), and seed effects (methods x seeds).
    """
    methods, examples = len(gaps), setting.examples
    effects = draw.normal(0, 1, (methods, seeds)) * setting.seed_effects(methods)[:, None]
    difficulty = draw.normal(0, setting.difficulty, examples)
    interaction = draw.normal(0, setting.interaction, (methods, 1, examples))
    logits = 2.0 + gaps[:, None, None] + effects[:, :, None] + difficulty + interaction
    return (draw.random(logits.shape) < special.expit(logits)).astype(float), effects


def accuracy(setting: Setting, shift: numpy.ndarray, *, over_seeds: bool) -> numpy.ndarray:
    """Each method's expected accuracy at its shift on the logit scale, over examples (and seeds).

    By Gauss-Hermite quadrature.
    """
    of_seeds = setting.seed_effects(len(shift)) ** 2 if over_seeds else numpy.zeros(len(shift))
    variance = setting.difficulty**2 + setting.interaction**2 + of_seeds
    points = 2.0 + shift[:, None] + numpy.sqrt(variance)[:, None] * _NODES
    expected: numpy.ndarray = special.expit(points) @ _WEIGHTS
    return expected


Interval = tuple[float, float]


def differences_of(answers: numpy.ndarray) -> list[Difference]:
    """The report's difference of each method to the first."""
    scores = answers.mean(axis=2).tolist()
    typical = typical_seed_variance(scores)
    return [
        difference_of_methods(of_method, scores[0], typical=typical, examples=examples - answers[0])
        for of_method, examples in zip(scores[1:], answers[1:], strict=True)
    ]


def hierarchical_bootstrap(draw: numpy.random.Generator, differences: numpy.ndarray, resamples: int = 500) -> Interval:
    """The percentile interval of resampled seeds and examples."""
    seeds, examples = differences.shape
    chosen = draw.integers(seeds, size=(resamples, seeds))
    weights = numpy.zeros((resamples, seeds))
    numpy.add.at(weights, (numpy.arange(resamples)[:, None], chosen), 1 / seeds)
    times = draw.multinomial(examples, [1 / examples] * examples, size=resamples) / examples
    means = ((weights @ differences) * times).sum(axis=1)
    low, high = numpy.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def covers(draw: numpy.random.Generator, setting: Setting, seeds: int, sweeps: int, methods: int) -> float:
    """The share of the report's intervals that contain the true difference."""
    gaps, hits = numpy.concatenate([[0.0], numpy.linspace(-0.4, 0.1, methods - 1)]), 0
    expected = accuracy(setting, gaps, over_seeds=True)
    for _ in range(sweeps):
        answers, effects = simulate(draw, setting, seeds, gaps)
        if seeds == 1:
            expected = accuracy(setting, gaps + effects[:, 0], over_seeds=False)
        found = differences_of(answers)
        hits += sum(
            bool(each.low <= true <= each.high)
            for each, true in zip(found, expected[1:] - expected[0], strict=True)
            if each.low is not None and each.high is not None
        )
    return hits / sweeps / (methods - 1)


def bootstrap_covers(draw: numpy.random.Generator, setting: Setting, seeds: int, sweeps: int) -> float:
    """The same for the hierarchical bootstrap, with two methods."""
    gaps, hits = numpy.array([0.0, -0.2]), 0
    expected = accuracy(setting, gaps, over_seeds=True)
    for _ in range(sweeps):
        answers, _ = simulate(draw, setting, seeds, gaps)
        low, high = hierarchical_bootstrap(draw, answers[1] - answers[0])
        hits += bool(low <= expected[1] - expected[0] <= high)
    return hits / sweeps


def decide(draw: numpy.random.Generator, setting: Setting, seeds: int, sweeps: int) -> dict[str, float]:
    """Shares of wrong and right verdicts in sweeps of a reference and 7 methods."""
    at_margin, clearly = (gap_of(setting, points) for points in (MARGIN, 0.03))
    false, inferior, worse = 0, 0, 0
    for _ in range(sweeps):
        answers, _ = simulate(draw, setting, seeds, numpy.zeros(METHODS + 1))
        false += any(p is not None and p < 0.05 for p in holm([each.p for each in differences_of(answers)]))
        gaps = numpy.array([0.0, at_margin, clearly, *[0.0] * (METHODS - 2)])
        found = differences_of(simulate(draw, setting, seeds, gaps)[0])
        adjusted = holm([each.p for each in found])
        inferior += bool(is_non_inferior(found[0], MARGIN))
        worse += adjusted[1] is not None and adjusted[1] < 0.05 and found[1].value < 0
    return {
        "false_positives": false / sweeps,
        "non_inferiority_errors": inferior / sweeps,
        "power": worse / sweeps,
    }


def gap_of(setting: Setting, points: float) -> float:
    """The shift on the logit scale that costs this much expected accuracy."""
    low, high = -3.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = accuracy(setting, numpy.array([0.0, middle]), over_seeds=True)
        low, high = (middle, high) if expected[0] - expected[1] > points else (low, middle)
    return (low + high) / 2


if __name__ == "__main__":
    main()
