"""Two methods, sweeps, hosts or versions next to each other, on the cells that both have runs of.

A cell is a model, a task, a method (unless methods are compared), a seed and the settings of training. Scores are
paired by seed and, where both runs have scores by example, by test example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy
from sqlalchemy.orm import Session

from adapeff.service.errors import JobError, SpecError
from adapeff.service.reporting.columns import MetricView
from adapeff.service.reporting.compare_cells import Cell, Side, pair_cells, results_of
from adapeff.service.reporting.compare_costs import costs_of_sides
from adapeff.service.reporting.examples import ExampleScores, example_scores_of, have_same_examples
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, signed, words
from adapeff.service.reporting.profiles import build_profiles
from adapeff.service.reporting.runs import Result, conditions_of, find_side_by_side
from adapeff.service.statistics.differences import Difference, paired_difference
from adapeff.service.statistics.multiple import holm
from adapeff.service.statistics.summaries import summarise

SIGNIFICANT = 0.05


def compare(session: Session, first: Side, second: Side, *, sweep_ids: Sequence[int] | None = None) -> list[Grid]:
    """Scores, costs and differing settings of two sides.

    Args:
        sweep_ids: submissions whose jobs count for methods, hosts and versions; None: all jobs.

    Raises:
        SpecError: if the sides are of different kinds, or the same.
        JobError: if a side has no finished runs, or the two share no cell.
    """
    if first.kind != second.kind:
        raise SpecError(f"'{first}' is a {first.kind} and '{second}' a {second.kind}; compare two of a kind")
    if first == second:
        raise SpecError(f"'{first}' is compared with itself; name two different ones")
    ours, theirs = (results_of(session, side, sweep_ids) for side in (first, second))
    cells = pair_cells(ours, theirs, per_method=first.kind != "method")
    if not cells:
        raise JobError(
            f"'{first}' and '{second}' have no model, task and seed with equal settings in common; see `adapeff report`"
        )
    side_by_side = find_side_by_side([result for cell in cells for result in (*cell.first, *cell.second)])
    scores = example_scores_of(session, [result for cell in cells for result in (*cell.first, *cell.second)])
    by_method = first.kind == "method"
    profiles = build_profiles(session, models={cell.model for cell in cells}) if by_method else ()
    return [
        _quality(cells, first, second, scores),
        *(costs_of_sides(cell, first, second, side_by_side, profiles) for cell in cells),
        *_settings(cells, first, second),
    ]


def _quality(cells: Sequence[Cell], first: Side, second: Side, scores: ExampleScores) -> Grid:
    """A row per model, task and language."""
    keyed = [(cell, language) for cell in cells for language in cell.languages]
    found = [_difference(cell, language, scores) for cell, language in keyed]
    adjusted = holm([difference.p for difference in found])
    rows = tuple(
        _quality_row(cell, language, difference, p, first, second)
        for (cell, language), difference, p in zip(keyed, found, adjusted, strict=True)
    )
    headings = (
        *(Heading(text, text) for text in ("model", "task", "language", "metric")),
        Heading(str(first), "first"),
        Heading(str(second), "second"),
        Heading(f"{second} − {first}", "difference"),
        Heading("p (Holm)", "p"),
        Heading("rests on", "basis"),
        Heading("verdict", "verdict"),
    )
    note = "±: 95 % interval of the difference, paired by seed and example; p: two-sided, Holm-adjusted over the rows."
    return Grid(f"scores of {first} and {second}", headings, rows, (note,))


def _scores(results: Sequence[Result], metric: MetricView, language: str) -> list[float]:
    readings = [result.read(metric.name, split="test", language=language) for result in results]
    return [reading.value for reading in readings if reading.value is not None]


def _difference(cell: Cell, language: str, scores: ExampleScores) -> Difference:
    """The second side minus the first, as measured: positive if the second's score is higher."""
    ours, theirs = (_scores(side, cell.metric, language) for side in (cell.first, cell.second))
    known = [
        scores[b.run.run_id, language] - scores[a.run.run_id, language]
        for a, b in zip(cell.first, cell.second, strict=True)
        if have_same_examples(a, b, scores, language)
    ]
    is_complete = len(known) == len(cell.first) and len({len(each) for each in known}) == 1
    return paired_difference(theirs, ours, examples=numpy.stack(known) if is_complete else None)


def _quality_row(
    cell: Cell, language: str, found: Difference, p: float | None, first: Side, second: Side
) -> tuple[Value, ...]:
    means = (summarise(_scores(side, cell.metric, language)).mean for side in (cell.first, cell.second))
    return (
        *(words(text) for text in (cell.model, cell.task, language, cell.metric.name)),
        *(number(mean, cell.metric.unit) for mean in means),
        signed(found.value, cell.metric.unit, found.low, found.high),
        MISSING if p is None else Value(f"{p:.3g}", p),
        words(
            f"{found.seeds} pair{'' if found.seeds == 1 else 's'}"
            + (f" x {found.examples:,} examples" if found.examples else "")
        ),
        words(_verdict(found, p, cell.metric, first, second)),
    )


def _verdict(found: Difference, p: float | None, metric: MetricView, first: Side, second: Side) -> str:
    if p is None:
        return "equal" if found.value == 0 else "undecided: too few runs"
    if p >= SIGNIFICANT:
        return "no difference shown"
    better = second if (found.value > 0) == metric.higher_is_better else first
    return f"{better} is better" if found.seeds > 1 else f"undecided: 1 pair of runs, in which {better} is better"


def _settings(cells: Sequence[Cell], first: Side, second: Side) -> Iterator[Grid]:
    """The conditions in which the two sides differ."""
    headings = (
        *(Heading("model", "model"), Heading("task", "task"), Heading("condition", "condition")),
        *(Heading(str(first), "first"), Heading(str(second), "second")),
    )
    rows = tuple(
        tuple(map(words, (cell.model, cell.task, key, ours.get(key, "–"), theirs.get(key, "–"))))
        for cell in cells
        for ours, theirs in [(_conditions(cell.first), _conditions(cell.second))]
        for key in dict.fromkeys((*ours, *theirs))
        if ours.get(key) != theirs.get(key)
    )
    if rows:
        yield Grid("settings and conditions that differ", headings, rows)


def _conditions(results: Sequence[Result]) -> dict[str, str]:
    values: dict[str, dict[str, None]] = {}
    for result in results:
        rate = f"{result.spec.training.learning_rate:g}"
        for key, value in {**conditions_of(result), "learning_rate": rate}.items():
            values.setdefault(key, {})[value] = None
    return {key: " / ".join(found) for key, found in values.items()}
