"""How often the report's intervals and verdicts are right, over simulated sweeps.

    python -m benchmarks.statistics [--sweeps 2000]

A sweep trains a reference and 7 methods with n seeds each and tests all models on the same E examples. Whether a model
answers an example correctly is drawn from sigmoid(method + seed effect + example effect + interaction). The setting
says how large the seed effects are next to the sampling of examples, what share of their variance methods with the same
seed have in common, and whether the reference varies more than the methods. The true difference is that of the expected
accuracies over seeds and examples; with one seed, that of the two trained models. The last line is JSON:

- `coverage`: share of the 95 % intervals that contain the true difference, by seeds and setting (goal 0.93 to 0.97)
- `coverage_alone`: the same for sweeps of the reference and one method
- `coverage_bootstrap`: the same of a hierarchical percentile bootstrap over seeds and examples, for comparison
- `false_positives`: share of sweeps in which any of 7 equal methods is called better or worse (Holm; goal at most 0.05)
- `non_inferiority_errors`: share of methods that are worse by exactly the margin and called within it (at most 0.05)
- `power`: share of methods 3 points below the reference that are called worse
- `one_seed_read_as_methods`: the three shares above for one seed with seed effects, where a difference of two trained
  models is taken for one of the methods; no statistics on one seed can hold them down
- `several_tasks`: coverage of the interquartile mean and the probability of improvement over 6 tasks, by seeds
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import numpy
from scipy import special

from adapeff.service.statistics.differences import Comparison, Difference, compare_methods, typical_seed_variance
from adapeff.service.statistics.equivalence import is_non_inferior
from adapeff.service.statistics.multiple import holm
from adapeff.service.statistics.several_tasks import OverTasks, interquartile_mean, probability_of_improvement

SEEDS = (1, 2, 3, 5)
METHODS = 7
MARGIN = 0.01
GOAL = (0.93, 0.97)
COVERAGES = ("coverage", "coverage_alone", "coverage_bootstrap")
VERDICTS = ("false_positives", "non_inferiority_errors", "power")
_NODES, _WEIGHTS = numpy.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Setting:
    """How scores vary: standard deviations on the logit scale."""

    name: str
    examples: int
    seed: float
    shared: float = 0.0
    """Share of the seeds' variance that all methods have in common."""
    reference_seed: float | None = None
    """The reference's own deviation over seeds, if it differs from the others'."""
    difficulty: float = 2.0
    interaction: float = 1.0

    def seed_deviations(self) -> numpy.ndarray:
        """Of each method, the reference first."""
        return numpy.array([self.seed if self.reference_seed is None else self.reference_seed, *[self.seed] * METHODS])


SETTINGS = (
    *(
        Setting(f"{kind}, {examples} examples", examples, seed)
        for examples in (200, 1000)
        for kind, seed in (("no seed effect", 0.0), ("small seed effect", 0.05), ("similar", 0.15), ("large", 0.5))
    ),
    Setting("similar, half of it shared, 1000 examples", 1000, 0.15, shared=0.5),
    Setting("unequal, 1000 examples", 1000, 0.1, reference_seed=0.5),
)


def main() -> None:
    """Simulate, print a line per seeds and setting, end with JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2000)
    sweeps: int = parser.parse_args().sweeps
    draw = numpy.random.default_rng(0)
    found: dict[str, dict[str, float]] = {name: {} for name in (*COVERAGES, *VERDICTS)}
    as_methods: dict[str, dict[str, float]] = {name: {} for name in VERDICTS}
    for seeds in SEEDS:
        for setting in SETTINGS:
            at = f"n={seeds}, {setting.name}"
            shares = shares_of(draw, setting, seeds, sweeps)
            for name in VERDICTS:
                to = as_methods if seeds == 1 and setting.seed else found
                to[name][at] = shares[name]
            found["coverage"][at] = shares["coverage"]
            found["coverage_alone"][at] = shares["coverage_alone"]
            if seeds > 1 and setting.examples > 200:
                shares["bootstrap"] = found["coverage_bootstrap"][at] = bootstrap_covers(
                    draw, setting, seeds, max(50, sweeps // 10)
                )
            print(f"{at:48}" + "  ".join(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)
    several = several_tasks(draw, sweeps)
    for name in COVERAGES[:2]:
        missed = [f"{at} {share:.3f}" for at, share in found[name].items() if not GOAL[0] <= share <= GOAL[1]]
        print(f"{name} outside {GOAL[0]} to {GOAL[1]}: {'; '.join(missed) or 'none'}")
    print(json.dumps({"sweeps": sweeps, **found, "one_seed_read_as_methods": as_methods, "several_tasks": several}))


def shares_of(draw: numpy.random.Generator, setting: Setting, seeds: int, sweeps: int) -> dict[str, float]:
    """Shares of right intervals and of wrong and right verdicts, over sweeps of a reference and 7 methods."""
    at_margin, clearly = gap_of(setting, MARGIN), gap_of(setting, 0.03)
    gaps = numpy.array([0.0, at_margin, clearly, *numpy.linspace(-0.4, 0.1, METHODS - 2)])
    equal = numpy.array([0.0, *[gap_of(setting, 0.0)] * METHODS])
    expected = accuracy(setting, gaps, setting.seed_deviations())
    held, alone, false, inferior, worse = 0, 0, 0, 0, 0
    for _ in range(sweeps):
        answers, effects = simulate(draw, setting, seeds, gaps)
        if seeds == 1:
            expected = accuracy(setting, gaps + effects[:, 0], numpy.zeros(METHODS + 1))
        found = differences_of(answers)
        held += sum(_holds(each.difference, true) for each, true in zip(found, expected[1:] - expected[0], strict=True))
        alone += _holds(differences_of(answers[:2])[0].difference, expected[1] - expected[0])
        inferior += bool(is_non_inferior(found[0].difference, MARGIN))
        worse += found[1].difference.value < 0 and _rejects(holm([each.test.p for each in found])[1])
        alike, _ = simulate(draw, setting, seeds, equal)
        false += any(map(_rejects, holm([each.test.p for each in differences_of(alike)])))
    return {
        "coverage": held / sweeps / METHODS,
        "coverage_alone": alone / sweeps,
        "false_positives": false / sweeps,
        "non_inferiority_errors": inferior / sweeps,
        "power": worse / sweeps,
    }


def simulate(
    draw: numpy.random.Generator, setting: Setting, seeds: int, gaps: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """One sweep of a reference (gap 0 on the logit scale) and further methods.

    Returns:
        Answers (methods x seeds x examples, 1 where correct), and seed effects (methods x seeds).
    """
    methods, examples = len(gaps), setting.examples
    shared, own = draw.standard_normal(seeds), draw.standard_normal((methods, seeds))
    effects = setting.seed_deviations()[:methods, None] * (
        numpy.sqrt(setting.shared) * shared + numpy.sqrt(1 - setting.shared) * own
    )
    difficulty = draw.normal(0, setting.difficulty, examples)
    interaction = draw.normal(0, setting.interaction, (methods, 1, examples))
    logits = (2.0 + gaps[:, None, None] + effects[:, :, None] + difficulty + interaction).astype(numpy.float32)
    return (draw.random(logits.shape, dtype=numpy.float32) < special.expit(logits)).astype(float), effects


def accuracy(setting: Setting, gaps: numpy.ndarray, seed_deviations: numpy.ndarray) -> numpy.ndarray:
    """The expected accuracies over examples and seeds, by Gauss-Hermite quadrature."""
    variance = setting.difficulty**2 + setting.interaction**2 + seed_deviations**2
    points = 2.0 + gaps[:, None] + numpy.sqrt(variance)[:, None] * _NODES
    expected: numpy.ndarray = special.expit(points) @ _WEIGHTS
    return expected


def gap_of(setting: Setting, points: float) -> float:
    """The shift on the logit scale that puts a method this much expected accuracy below the reference."""
    low, high = -3.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = accuracy(setting, numpy.array([0.0, middle]), setting.seed_deviations()[:2])
        low, high = (middle, high) if expected[0] - expected[1] > points else (low, middle)
    return (low + high) / 2


def differences_of(answers: numpy.ndarray) -> list[Comparison]:
    """The report's comparison of each method to the first."""
    scores = answers.mean(axis=2).tolist()
    typical = typical_seed_variance(scores)
    return [
        compare_methods(of_method, scores[0], typical=typical, examples=of_example - answers[0])
        for of_method, of_example in zip(scores[1:], answers[1:], strict=True)
    ]


def _rejects(p: float | None) -> bool:
    return p is not None and p < 0.05


def _holds(found: Difference | OverTasks, true: float) -> bool:
    return found.low is not None and found.high is not None and bool(found.low <= true <= found.high)


def bootstrap_covers(draw: numpy.random.Generator, setting: Setting, seeds: int, sweeps: int) -> float:
    """Coverage of the hierarchical bootstrap's interval for a method and the reference."""
    gaps, hits = numpy.array([0.0, gap_of(setting, 0.03)]), 0
    expected = accuracy(setting, gaps, setting.seed_deviations()[:2])
    for _ in range(sweeps):
        answers, _ = simulate(draw, setting, seeds, gaps)
        low, high = hierarchical_bootstrap(draw, answers[1] - answers[0])
        hits += bool(low <= expected[1] - expected[0] <= high)
    return hits / sweeps


def hierarchical_bootstrap(
    draw: numpy.random.Generator, differences: numpy.ndarray, resamples: int = 500
) -> tuple[float, float]:
    """The percentile interval of resampled seeds and examples."""
    seeds, examples = differences.shape
    of_seeds = draw.multinomial(seeds, [1 / seeds] * seeds, size=resamples) / seeds
    of_examples = draw.multinomial(examples, [1 / examples] * examples, size=resamples) / examples
    low, high = numpy.quantile(((of_seeds @ differences) * of_examples).sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def several_tasks(draw: numpy.random.Generator, sweeps: int, tasks: int = 6) -> dict[str, float]:
    """Coverage of figures over tasks of different levels, for two methods of which one is a little better."""
    levels, deviation, gains = numpy.linspace(0.5, 0.95, tasks)[:, None], 0.02, numpy.linspace(-0.01, 0.03, tasks)
    many = levels + deviation * draw.standard_normal((tasks, 100_000))
    middle = float(numpy.mean(numpy.sort(many, axis=None)[many.size // 4 : -many.size // 4]))
    better = float(special.ndtr(gains / deviation / numpy.sqrt(2)).mean())
    shares = {}
    for seeds in SEEDS[1:]:
        held = [0, 0]
        for _ in range(sweeps // 2):
            theirs = levels + deviation * draw.standard_normal((tasks, seeds))
            ours = levels + gains[:, None] + deviation * draw.standard_normal((tasks, seeds))
            held[0] += _holds(interquartile_mean(theirs.tolist()), middle)
            held[1] += _holds(probability_of_improvement(ours.tolist(), theirs.tolist()), better)
        shares[f"n={seeds}, interquartile mean"] = held[0] / (sweeps // 2)
        shares[f"n={seeds}, probability of improvement"] = held[1] / (sweeps // 2)
    print("  ".join(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)
    return shares


if __name__ == "__main__":
    main()
