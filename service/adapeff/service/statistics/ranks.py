"""Methods ranked over several tasks: which of them differ (Demšar 2006, "Statistical comparisons of classifiers over
multiple data sets", with the pairwise Wilcoxon tests of Benavoli, Corani & Mangili 2016, "Should we really use post-hoc
tests based on mean-ranks?").

A method counts once per task, with its mean over the seeds: seeds of one task are no independent tasks. Higher scores
are better; pass errors with their sign changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy
from scipy import special

from adapeff.service.statistics.multiple import holm

_DECIMALS = 12
"""Values that agree to this many decimals of the largest are ties."""


@dataclass(frozen=True)
class CriticalDifference:
    """The content of a critical-difference diagram."""

    methods: tuple[str, ...]
    """Best mean rank first."""
    ranks: tuple[float, ...]
    """Mean ranks over the tasks, 1 is best."""
    cliques: tuple[tuple[str, ...], ...]
    """The largest groups of methods of which no two differ; they may leave out a method that ranks between theirs."""
    p_values: Mapping[tuple[str, str], float]
    """Wilcoxon's, adjusted by Holm, of each pair, the better rank first."""
    friedman_p: float | None
    """None for two methods."""
    tasks: int
    tasks_needed: int
    """With fewer tasks, no pair of this many methods can differ significantly, whatever the scores."""


def critical_difference(scores: Mapping[str, Sequence[float]], *, alpha: float = 0.05) -> CriticalDifference:
    """Compare all pairs of methods over the tasks.

    Pairs are only told apart if Friedman's test rejects that all methods are alike.

    Args:
        scores: for each of at least two methods, one score per task, tasks in the same order.

    Raises:
        ValueError: if there are fewer than two methods, no task, or scores of different tasks.
    """
    ranks = mean_ranks(scores)
    methods = sorted(ranks, key=lambda method: ranks[method])
    pairs = list(combinations(methods, 2))
    adjusted = holm([wilcoxon(scores[one], scores[other]) for one, other in pairs])
    p_values = {pair: 1.0 if p is None else p for pair, p in zip(pairs, adjusted, strict=True)}
    friedman_p = friedman(scores) if len(methods) > 2 else None
    alike = friedman_p is not None and friedman_p >= alpha
    equals = {pair for pair, p in p_values.items() if alike or p >= alpha}
    return CriticalDifference(
        methods=tuple(methods),
        ranks=tuple(ranks[method] for method in methods),
        cliques=_cliques(methods, equals),
        p_values=p_values,
        friedman_p=friedman_p,
        tasks=len(next(iter(scores.values()))),
        tasks_needed=_tasks_needed(len(pairs), alpha),
    )


def mean_ranks(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean rank of each method over the tasks: 1 is best, equal scores share the mean of their ranks.

    Raises:
        ValueError: as for `critical_difference`.
    """
    return dict(zip(scores, _ranks_by_task(scores).mean(axis=0).tolist(), strict=True))


def friedman(scores: Mapping[str, Sequence[float]]) -> float:
    """Friedman's p-value that all methods are alike, with the correction for ties (Conover 1999, section 5.8).

    Its chi-squared approximation is cautious for few tasks.

    Raises:
        ValueError: as for `critical_difference`.
    """
    ranks = _ranks_by_task(scores)
    tasks, methods = ranks.shape
    middle = (methods + 1) / 2
    scatter = float(((ranks - middle) ** 2).sum())
    if scatter == 0:
        return 1.0
    statistic = (methods - 1) * float(((ranks.sum(axis=0) - tasks * middle) ** 2).sum()) / scatter
    return float(special.chdtrc(methods - 1, statistic))


def wilcoxon(scores: Sequence[float], reference: Sequence[float]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test over the tasks, exact also with ties.

    Tasks without a difference are ranked with the others and count half for each side (Pratt 1959; Demšar 2006,
    section 3.1.3). The distribution is that over all signs of the other differences.
    """
    differences = _rounded(numpy.subtract(scores, reference))
    twice = (2 * _midranks(numpy.abs(differences))).astype(int)[differences != 0]  # whole numbers, also for ties
    positive = int(twice[differences[differences != 0] > 0].sum())
    chance = numpy.ones(1)
    for rank in twice:
        still = numpy.zeros(rank)
        chance = (numpy.concatenate([chance, still]) + numpy.concatenate([still, chance])) / 2
    return min(1.0, 2 * float(min(chance[: positive + 1].sum(), chance[positive:].sum())))


def _tasks_needed(pairs: int, alpha: float) -> int:
    """The smallest number of tasks whose least possible Wilcoxon p-value, 2^(1 - tasks), survives Holm's first step."""
    tasks = 1
    while pairs * 2.0 ** (1 - tasks) >= alpha:
        tasks += 1
    return tasks


def _ranks_by_task(scores: Mapping[str, Sequence[float]]) -> numpy.ndarray:
    """Tasks x methods."""
    lengths = {len(of_method) for of_method in scores.values()}
    if len(scores) < 2 or len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"{len(scores)} methods on {sorted(lengths)} tasks; ranks need two methods on the same tasks")
    return numpy.array([_midranks(-_rounded(of_task)) for of_task in numpy.array(list(scores.values()), dtype=float).T])


def _rounded(values: numpy.ndarray) -> numpy.ndarray:
    largest = numpy.abs(values).max()
    return numpy.round(values / largest, _DECIMALS) if largest else values


def _midranks(values: numpy.ndarray) -> numpy.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, kinds, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    of_kind: numpy.ndarray = numpy.cumsum(counts) - (counts - 1) / 2
    return of_kind[kinds]


def _cliques(methods: Sequence[str], equals: Collection[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """The largest groups of two or more methods that are all equal in pairs (Bron & Kerbosch 1973), in ranked order."""
    near = {method: {b if a == method else a for a, b in equals if method in (a, b)} for method in methods}
    order = {method: at for at, method in enumerate(methods)}
    found: list[tuple[str, ...]] = []

    def extend(group: frozenset[str], candidates: set[str], seen: set[str]) -> None:
        if not candidates and not seen and len(group) > 1:
            found.append(tuple(sorted(group, key=order.__getitem__)))
        if not candidates:
            return
        pivot = max(candidates | seen, key=lambda method: len(near[method] & candidates))
        for method in candidates - near[pivot]:
            extend(group | {method}, candidates & near[method], seen & near[method])
            candidates, seen = candidates - {method}, seen | {method}

    extend(frozenset(), set(methods), set())
    return tuple(sorted(found, key=lambda group: [order[method] for method in group]))
