"""Two methods, sweeps, hosts or versions next to each other, on the cells that both have runs of.

A cell is a model, a task, a method (unless methods are compared), a seed and the settings of training. Scores are
paired by seed and, where both runs have scores by example, by test example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import numpy
from sqlalchemy.orm import Session

from adapeff.service.errors import JobError, SpecError, suggest
from adapeff.service.reporting.columns import Column, MetricView, choose_columns, find_doubts, metric_view
from adapeff.service.reporting.examples import ExampleScores, example_scores_of, have_same_examples
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, ratio, signed, words
from adapeff.service.reporting.runs import Result, comparable_settings, conditions_of, find_side_by_side, load_results
from adapeff.service.reporting.titles import task_name
from adapeff.service.specs.job import canonical_json
from adapeff.service.statistics.differences import Difference, paired_difference
from adapeff.service.statistics.multiple import holm
from adapeff.service.statistics.summaries import summarise
from adapeff.service.store import sweeps

Kind = Literal["method", "sweep", "host", "version"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Cell:
    """The runs of both sides for one model and task, paired by seed (and method)."""

    model: str
    task: str
    metric: MetricView
    first: tuple[Result, ...]
    second: tuple[Result, ...]

    @property
    def languages(self) -> list[str]:
        """The test languages that all runs have, the source language first."""
        found = [
            dict.fromkeys(
                key.language
                for key, reading in result.run.readings.named(self.metric.name)
                if key.split == "test" and not key.variant and reading.value is not None
            )
            for result in (*self.first, *self.second)
        ]
        shared = [language for language in found[0] if all(language in each for each in found)]
        return sorted(shared, key=lambda language: language != self.metric.source_language)


def read_side(session: Session, text: str) -> Side:
    """Read a side: `method=lora`, `sweep=demo`, `host=gpu1`, `version=0.1.0`, or a name alone.

    A name alone is a sweep if there is one of that name, else a method.

    Raises:
        SpecError: for an unknown kind or an empty name.
    """
    kind, equals, name = text.partition("=")
    if equals and "[" not in kind:
        if kind not in KINDS:
            raise SpecError(f"'{text}' compares by '{kind}'; {suggest(kind, KINDS)}")
        if not name:
            raise SpecError(f"'{text}' has no name; expected {kind}=NAME")
        return Side(kind, name)
    try:
        sweeps.find_sweep_ids(session, text)
    except JobError:
        return Side("method", text)
    return Side("sweep", text)


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
    ours, theirs = (_results(session, side, sweep_ids) for side in (first, second))
    cells = _cells(ours, theirs, by_method=first.kind != "method")
    if not cells:
        raise JobError(
            f"'{first}' and '{second}' have no model, task and seed with equal settings in common; see `adapeff report`"
        )
    side_by_side = find_side_by_side([result for cell in cells for result in (*cell.first, *cell.second)])
    scores = example_scores_of(session, [result for cell in cells for result in (*cell.first, *cell.second)])
    return [
        _quality(cells, first, second, scores),
        *(_costs(cell, first, second, side_by_side) for cell in cells),
        *_settings(cells, first, second),
    ]


def _results(session: Session, side: Side, sweep_ids: Sequence[int] | None) -> list[Result]:
    if side.kind == "sweep":
        found = load_results(session, sweep_ids=sweeps.find_sweep_ids(session, side.name))
    else:
        found = [result for result in load_results(session, sweep_ids=sweep_ids) if _is_of(result, side)]
    if not found:
        raise JobError(f"no finished run of {side.kind} '{side}'; `adapeff status --all` lists the jobs")
    return found


def _is_of(result: Result, side: Side) -> bool:
    environment = result.run.environment
    candidates: Mapping[Kind, tuple[str, ...]] = {
        "method": (str(result.spec.method),),
        "host": (result.run.host, str(environment.get("device_name"))),
        "version": (str(environment.get("adapeff")), str(environment.get("git_revision"))[:7]),
        "sweep": (),
    }
    pattern = side.name if side.kind != "method" else side.name.replace("[", "[[]")
    return any(fnmatchcase(candidate, pattern) for candidate in candidates[side.kind])


def _cells(first: Sequence[Result], second: Sequence[Result], *, by_method: bool) -> list[Cell]:
    def grouped(results: Sequence[Result]) -> dict[tuple[str, str], dict[str, Result]]:
        groups: dict[tuple[str, str], dict[str, Result]] = {}
        for result in results:  # ids ascend, so the newest run of a cell is kept
            spec = result.spec
            pair = canonical_json([spec.seed, str(spec.method) if by_method else "", comparable_settings(spec)])
            groups.setdefault((spec.model.identity, str(spec.task)), {})[pair] = result
        return groups

    ours, theirs = grouped(first), grouped(second)
    cells = []
    for key in ours.keys() & theirs.keys():
        pairs = sorted(ours[key].keys() & theirs[key].keys())
        if pairs:
            some = ours[key][pairs[0]]
            recorded = dict(some.run.resolved)
            metric = metric_view(
                str(recorded.get("metric", "accuracy")), str(recorded.get("source_language", "en")), recorded
            )
            chosen = tuple(ours[key][pair] for pair in pairs), tuple(theirs[key][pair] for pair in pairs)
            cells.append(Cell(str(some.spec.model), task_name(some.spec), metric, *chosen))
    return sorted(cells, key=lambda cell: (cell.model, cell.task))


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
    return f"{second if (found.value > 0) == metric.higher_is_better else first} is better"


def _costs(cell: Cell, first: Side, second: Side, side_by_side: set[int]) -> Grid:
    """A row per cost; ratios only of figures that do not depend on the machine's speed."""
    columns = [
        column
        for column in choose_columns([*cell.first, *cell.second], cell.metric)
        if column.key not in ("quality", "transfer", "gap")
    ]
    rows = tuple(row for column in columns if (row := _cost_row(cell, column, side_by_side)) is not None)
    headings = (
        *(Heading("cost", "cost"), Heading(str(first), "first"), Heading(str(second), "second")),
        Heading(f"{second} / {first}", "ratio"),
    )
    notes = ("Times of separate runs have no ratio; `adapeff profile` measures methods in pairs. !: disturbed.",)
    return Grid(
        f"costs · {cell.task} · {cell.model}", headings, rows, notes, (("model", cell.model), ("task", cell.task))
    )


def _cost_row(cell: Cell, column: Column, side_by_side: set[int]) -> tuple[Value, ...] | None:
    values = [
        [reading.value for result in side if (reading := column.read(result)).value is not None]
        for side in (cell.first, cell.second)
    ]
    if not values[0] or not values[1]:
        return None
    means = [summarise(of_side).mean for of_side in values]
    doubts = [column.time_of and find_doubts(side, side_by_side)[column.time_of] for side in (cell.first, cell.second)]
    shown = [
        number(mean, column.unit, mark="disturbed" if doubt else "unpaired" if column.time_of else "")
        for mean, doubt in zip(means, doubts, strict=True)
    ]
    quotient = means[1] / means[0] if means[0] and not column.time_of else None
    return words(column.heading), *shown, ratio(quotient)


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
