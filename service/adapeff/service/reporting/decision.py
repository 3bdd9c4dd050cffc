"""The answer of a report: for one model and task, which methods hold the reference's quality, and what they cost.

Verdicts only say what the evidence supports. A method is `better` or `worse` if the difference of its score to the
reference's is significant (two-sided 5 %, Holm-adjusted over the methods of the table), and `within` the margin if the
one-sided 95 % bound of the difference is above minus the margin (non-inferiority). Everything else is `undecided`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy

from adapeff.service.measured import Display
from adapeff.service.reporting.costs import Cost, CostName, Pairing, costs_of, find_pairing, fitting_profiles
from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.profiles import ProfileTable
from adapeff.service.reporting.table import Row, Table
from adapeff.service.statistics.differences import (
    Difference,
    SeedVariance,
    difference_of_methods,
    typical_seed_variance,
)
from adapeff.service.statistics.equivalence import is_non_inferior
from adapeff.service.statistics.multiple import holm
from adapeff.service.statistics.summaries import Summary

MARGIN = 0.01
"""The default margin: 1 point of a score in percent; for other metrics, this share of the reference's score."""
SIGNIFICANT = 0.05

Kind = Literal["better", "reference", "within", "undecided", "worse", "alone"]
_ORDER: Mapping[Kind, int] = {"better": 0, "reference": 1, "within": 1, "alone": 1, "undecided": 2, "worse": 3}
ExampleScores = Callable[[int], "numpy.ndarray | None"]
"""Run id -> one number per test example in the source language, whose mean is the run's score; None if unknown."""


@dataclass(frozen=True)
class Verdict:
    """What the evidence says about a method, in a kind and in words."""

    kind: Kind
    text: str


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
    differences = [
        None
        if row.reference in ("", row.method)
        else _difference(row, by_name[row.reference], table, typical, example_scores)
        for row in trained
    ]
    adjusted = holm([None if found is None else found.p for found in differences])
    lines = [
        _line(row, found, p, table, pairing, used) for row, found, p in zip(trained, differences, adjusted, strict=True)
    ]
    ordered = tuple(sorted(lines, key=lambda line: _rank(line, table)))
    return Decision(table, used, ordered, tuple(_sentences(ordered, table, used)), pairing, fitting)


def _margin(table: Table, reference: Row | None, margin: float | None) -> float:
    if margin is not None:
        return margin
    score = reference.cells["quality"].summary if reference else None
    return MARGIN if table.metric.unit == "%" or score is None else MARGIN * abs(score.mean)


def _values(row: Row) -> Sequence[float]:
    found = row.cells["quality"].summary
    return found.values if found else ()


def _difference(
    row: Row, reference: Row, table: Table, typical: SeedVariance | None, example_scores: ExampleScores
) -> Difference | None:
    """The difference over the seeds that both ran with, by example where both have example scores."""
    scores, reference_scores = _by_seed(row), _by_seed(reference)
    seeds = sorted(scores.keys() & reference_scores.keys())
    if not seeds:
        return None
    sign = 1.0 if table.metric.higher_is_better else -1.0
    examples = _example_differences(row, reference, seeds, example_scores)
    return difference_of_methods(
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
    table: Table,
    pairing: Pairing | None,
    margin: float,
) -> Line:
    costs = costs_of(row, table, pairing)
    verdict = _verdict(row, difference, p, table, margin)
    line = Line(row, row.cells["quality"].summary, difference, p, costs, verdict)
    aside = _cost_words(line)
    if aside and verdict.kind in ("better", "within"):
        line = replace(line, verdict=Verdict(verdict.kind, f"{verdict.text}, {aside}"))
    return line


def _verdict(row: Row, difference: Difference | None, p: float | None, table: Table, margin: float) -> Verdict:
    if row.method == row.reference:
        return Verdict("reference", "reference")
    if row.cells["quality"].summary is None:
        return Verdict("undecided", f"no score: {row.cells['quality'].reason or 'not measured'}")
    if not row.reference:
        return Verdict("alone", f"no {table.reference} to compare with")
    if difference is None:
        return Verdict("undecided", f"undecided: no seed in common with {row.reference}")
    if difference.seeds == 1:
        return Verdict("undecided", _of_one_seed(difference, p, row, table, margin))
    is_within = is_non_inferior(difference, margin)
    if p is not None and p < SIGNIFICANT:
        if difference.value > 0:
            return Verdict("better", f"better than {row.reference}")
        if not is_within:
            return Verdict("worse", f"clearly below {row.reference}")
    if is_within:
        return Verdict("within", f"within {margin_words(table, margin)} of {row.reference}")
    if difference.p is not None and difference.p < SIGNIFICANT:  # on its own, but not among several methods
        side = "above" if difference.value > 0 else "below"
        return Verdict("undecided", f"perhaps {side} {row.reference}: {evidence_words(difference)}")
    return Verdict("undecided", f"undecided: {evidence_words(difference)}")


def _of_one_seed(difference: Difference, p: float | None, row: Row, table: Table, margin: float) -> str:
    """What one seed says: about these two trained models, not about the methods."""
    if difference.p is None:
        return f"undecided: {evidence_words(difference)}"
    if is_non_inferior(difference, margin) and (p is None or p >= SIGNIFICANT):
        return f"one seed: this run is within {margin_words(table, margin)} of {row.reference}"
    if p is None or p >= SIGNIFICANT:
        return "undecided: 1 seed"
    return f"one seed: this run is {'above' if difference.value > 0 else 'below'} {row.reference}"


def margin_words(table: Table, margin: float) -> str:
    """The margin in words: `1 point`, or a value in the metric's unit."""
    if table.metric.unit != "%":
        return format_value(margin, table.metric.unit)
    points = f"{100 * margin:.3g}"
    return f"{points} point{'' if points == '1' else 's'}"


def evidence_words(difference: Difference) -> str:
    """What a difference rests on: `2 seeds`."""
    return f"{difference.seeds} seed{'' if difference.seeds == 1 else 's'}"


def _cost_words(line: Line) -> str:
    """The time that a method certainly saves or costs."""
    for name, words in (("train", "the training time"), ("latency", "the latency")):
        cost = line.costs[name]  # type: ignore[index]
        if cost.basis == "paired" and (cost.is_lower or cost.is_higher):
            return f"{cost.ratio:.2f}x {words}"
    return ""


def _rank(line: Line, table: Table) -> tuple[int, float]:
    score = line.quality.mean if line.quality else float("-inf")
    return _ORDER[line.verdict.kind], -score if table.metric.higher_is_better else score


def _sentences(lines: Sequence[Line], table: Table, margin: float) -> Iterator[str]:
    """One or two sentences that the data support."""
    if not table.has_reference:
        yield f"Nothing to compare with: there is no single {table.reference} among these runs."
        return
    holding = [line for line in lines if line.verdict.kind in ("better", "within")]
    worse = [line.method for line in lines if line.verdict.kind == "worse"]
    undecided = [line.method for line in lines if line.verdict.kind == "undecided"]
    if len(lines) == 1:
        yield f"Only {table.reference} has finished so far."
        return
    if holding:
        names = _names([line.method for line in holding])
        verb = _verb(holding, "holds", "hold")
        within = margin_words(table, margin)
        yield f"{names} {verb} {table.reference}'s quality within {within}{_cheapest(holding)}."
    else:
        yield f"No method is shown to hold {table.reference}'s quality within {margin_words(table, margin)}."
    rest = []
    if worse:
        rest.append(f"{_names(worse)} {_verb(worse, 'is', 'are')} clearly below")
    if undecided:
        rest.append(f"{_names(undecided)} {_verb(undecided, 'is', 'are')} undecided (more seeds would help)")
    if rest:
        yield f"{'; '.join(rest)}."


def _cheapest(holding: Sequence[Line]) -> str:
    """Which of the methods trains in the least time, where paired profiles say so."""
    paired = [(line, line.costs["train"]) for line in holding if line.costs["train"].ratio is not None]
    if not paired:
        return ""
    best, cost = min(paired, key=lambda found: found[1].ratio or 0.0)
    tied = [line for line, other in paired if line is not best and (other.low or 0) <= (cost.high or 0)]
    if tied:
        names = _names([best.method, *(line.method for line in tied)])
        return f"; {names} train in the least time ({cost.ratio:.2f}x)"
    if not cost.is_lower:
        return ""
    return f"; {best.method} trains in {cost.ratio:.2f}x the time" + (", the least of them" if len(paired) > 1 else "")


def _names(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _verb(subjects: Sequence[object], one: str, several: str) -> str:
    return one if len(subjects) == 1 else several
