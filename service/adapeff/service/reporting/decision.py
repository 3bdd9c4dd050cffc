"""The answer of a report: for one model and task, which methods hold the reference's quality, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy

from adapeff.service.measured import Display
from adapeff.service.reporting.costs import Cost, CostName, Pairing, costs_of, find_pairing, fitting_profiles
from adapeff.service.reporting.numbers import ratio_text
from adapeff.service.reporting.profiles import ProfileTable
from adapeff.service.reporting.sentences import sentences_on
from adapeff.service.reporting.table import Row, Table
from adapeff.service.reporting.verdicts import SIGNIFICANT, Kind, Verdict, verdict_on
from adapeff.service.statistics.differences import (
    Comparison,
    Difference,
    SeedVariance,
    compare_methods,
    typical_seed_variance,
)
from adapeff.service.statistics.multiple import holm
from adapeff.service.statistics.planning import seeds_to_decide
from adapeff.service.statistics.summaries import Summary

MARGIN = 0.01
"""The default margin: 1 point of a score in percent; for other metrics, this share of the reference's score."""

_ORDER: Mapping[Kind, int] = {"better": 0, "reference": 1, "within": 1, "alone": 1, "undecided": 2, "worse": 3}
ExampleScores = Callable[[int], "numpy.ndarray | None"]
"""Run id -> one number per test example in the source language, whose mean is the run's score; None if unknown."""


@dataclass(frozen=True)
class Line:
    """A method on the first screen."""

    row: Row
    quality: Summary | None
    difference: Difference | None
    """Score minus the reference's, in the stored unit, positive if better; None for the reference itself."""
    p: float | None
    """Two-sided p-value of the difference, Holm-adjusted over the lines."""
    costs: Mapping[CostName, Cost]
    verdict: Verdict
    seeds_needed: int | None
    """If undecided: about how many seeds would decide it; None if the data cannot say."""
    is_near_chance: bool
    """Whether the score is within noise of the trivial baseline's."""

    @property
    def method(self) -> str:
        """The method's name as the table shows it."""
        return self.row.method


@dataclass(frozen=True)
class Decision:
    """The first screen of one model and task."""

    table: Table
    margin: float
    """In the stored unit of the metric."""
    lines: tuple[Line, ...]
    """Best by evidence first."""
    sentences: tuple[str, ...]
    pairing: Pairing | None
    profiles: tuple[ProfileTable, ...] = ()
    """All that fit the table, for shapes that the pairing did not measure: its sweep's first, each newest first."""

    @property
    def metric_display(self) -> Display:
        """The display unit of scores and differences."""
        return self.table.metric.unit


def decide(
    table: Table,
    profiles: Sequence[ProfileTable],
    example_scores: ExampleScores,
    *,
    margin: float | None = None,
) -> Decision:
    """Compare every method of a table with the reference.

    Args:
        profiles: those preferred first; of those that fit the table, one gives the ratios of times.
        margin: of non-inferiority, in the stored unit of the metric; None: `MARGIN`.
    """
    trained = [row for row in table.rows if not row.variant]
    by_name = {row.method: row for row in trained}
    reference = next((row for row in trained if row.method == row.reference), None)
    fitting = fitting_profiles(table, profiles)
    pairing = find_pairing(table, fitting)
    used = _margin(table, reference, margin)
    typical = typical_seed_variance([_values(row) for row in trained])
    comparisons = [
        None
        if row.reference in ("", row.method)
        else _comparison(row, by_name[row.reference], table, typical, example_scores)
        for row in trained
    ]
    adjusted = holm([None if found is None else found.test.p for found in comparisons])
    needed = _seeds_needed(comparisons, used)
    lines = [
        _line(row, None if found is None else found.difference, p, seeds, table, pairing, used)
        for row, found, p, seeds in zip(trained, comparisons, adjusted, needed, strict=True)
    ]
    ordered = tuple(sorted(lines, key=lambda line: _rank(line, table)))
    return Decision(table, used, ordered, tuple(sentences_on(ordered, table, used)), pairing, fitting)


def _seeds_needed(comparisons: Sequence[Comparison | None], margin: float) -> list[int | None]:
    """For each method, about how many seeds would decide it at the level that Holm's procedure leaves it."""
    p_values = [found.test.p for found in comparisons if found is not None and found.test.p is not None]
    return [
        None
        if found is None or found.test.p is None
        else seeds_to_decide(found, margin, level=SIGNIFICANT / sum(p >= found.test.p for p in p_values))
        for found in comparisons
    ]


def _margin(table: Table, reference: Row | None, margin: float | None) -> float:
    if margin is not None:
        return margin
    score = reference.cells["quality"].summary if reference else None
    return MARGIN if table.metric.unit == "%" or score is None else MARGIN * abs(score.mean)


def _values(row: Row) -> Sequence[float]:
    found = row.cells["quality"].summary
    return found.values if found else ()


def _comparison(
    row: Row, reference: Row, table: Table, typical: SeedVariance | None, example_scores: ExampleScores
) -> Comparison | None:
    """The difference over the seeds that both ran with, by example where both have example scores."""
    scores, reference_scores = _by_seed(row), _by_seed(reference)
    seeds = sorted(scores.keys() & reference_scores.keys())
    if not seeds:
        return None
    sign = 1.0 if table.metric.higher_is_better else -1.0
    examples = _example_differences(row, reference, seeds, example_scores)
    return compare_methods(
        [sign * scores[seed] for seed in seeds],
        [sign * reference_scores[seed] for seed in seeds],
        typical=typical,
        examples=None if examples is None else sign * examples,
    )


def _by_seed(row: Row) -> dict[int, float]:
    found = row.cells["quality"].summary
    if found is None or found.n != len(row.seeds):
        return {}
    return dict(zip(row.seeds, found.values, strict=True))


def _example_differences(
    row: Row, reference: Row, seeds: Sequence[int], example_scores: ExampleScores
) -> numpy.ndarray | None:
    """Differences by example, seeds x examples; None unless every run has scores of the same number of examples."""
    pairs = []
    for seed in seeds:
        ours = example_scores(row.run_ids[row.seeds.index(seed)])
        theirs = example_scores(reference.run_ids[reference.seeds.index(seed)])
        if ours is None or theirs is None or len(ours) != len(theirs):
            return None
        pairs.append(ours - theirs)
    return numpy.stack(pairs) if len({len(pair) for pair in pairs}) == 1 else None


def _line(
    row: Row,
    difference: Difference | None,
    p: float | None,
    needed: int | None,
    table: Table,
    pairing: Pairing | None,
    margin: float,
) -> Line:
    verdict = verdict_on(row, difference, p, needed, table, margin)
    line = Line(
        row,
        row.cells["quality"].summary,
        difference,
        p,
        costs_of(row, table, pairing),
        verdict,
        needed if verdict.kind == "undecided" else None,
        score.at_chance if (score := table.languages.get(table.source_language, {}).get(row.method)) else False,
    )
    aside = _cost_words(line)
    if aside and verdict.kind in ("better", "within"):
        line = replace(line, verdict=Verdict(verdict.kind, f"{verdict.text}, {aside}"))
    return line


def _cost_words(line: Line) -> str:
    """The time that a method certainly saves or costs."""
    for name, words in (("train", "the step time"), ("latency", "the latency")):
        cost = line.costs[name]  # type: ignore[index]
        if cost.basis == "paired" and (cost.is_lower or cost.is_higher):
            return f"{ratio_text(cost.ratio or 0.0)} {words}"
    return ""


def _rank(line: Line, table: Table) -> tuple[int, float]:
    score = line.quality.mean if line.quality else float("-inf")
    return _ORDER[line.verdict.kind], -score if table.metric.higher_is_better else score
