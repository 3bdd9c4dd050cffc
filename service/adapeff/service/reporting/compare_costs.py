"""What the two sides of a comparison cost: figures of their runs, and paired ratios from a profile of both methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from adapeff.service.reporting.columns import Column, choose_columns, find_doubts
from adapeff.service.reporting.compare_cells import Cell, Side
from adapeff.service.reporting.costs import is_same_hardware
from adapeff.service.reporting.grids import Grid, Heading, Value, number, ratio, words
from adapeff.service.reporting.profiles import Figure, ProfileRow, ProfileTable
from adapeff.service.reporting.relative import relative_to
from adapeff.service.reporting.runs import Result
from adapeff.service.statistics.summaries import summarise


def costs_of_sides(
    cell: Cell, first: Side, second: Side, side_by_side: set[int], profiles: Sequence[ProfileTable]
) -> Grid:
    """A row per cost; ratios only of figures that do not depend on the machine's speed, or were measured in pairs.

    Args:
        side_by_side: the runs that shared their host, which makes their times doubtful.
        profiles: where paired times may come from, the oldest first; none if the sides are not methods.
    """
    columns = [
        column
        for column in choose_columns([*cell.first, *cell.second], cell.metric)
        if column.key not in ("quality", "transfer", "gap")
    ]
    rows = [row for column in columns if (row := _cost_row(cell, column, side_by_side)) is not None]
    note = "Times of separate runs have no ratio; `adapeff profile` measures methods in pairs. !: disturbed."
    methods = [_method_of(side) for side in (cell.first, cell.second)]
    profile = _find_profile(cell, methods, profiles)
    if profile is not None:
        rows += _paired_rows(profile, *methods)
        note = (
            f"Paired: measured interleaved by profile {profile.job_id}, with the 95 % interval of the ratio. Times of "
            "separate runs have none. !: disturbed."
        )
    headings = (
        *(Heading("cost", "cost"), Heading(str(first), "first"), Heading(str(second), "second")),
        Heading(f"{second} / {first}", "ratio"),
    )
    about = (("model", cell.model), ("task", cell.task))
    return Grid(f"costs · {cell.task} · {cell.model}", headings, tuple(rows), (note,), about)


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


def _method_of(results: Sequence[Result]) -> str:
    """The method of a side, '' if it has several."""
    methods = {str(result.spec.method) for result in results}
    return methods.pop() if len(methods) == 1 else ""


def _find_profile(cell: Cell, methods: Sequence[str], profiles: Sequence[ProfileTable]) -> ProfileTable | None:
    """The profile of both methods on the runs' model and hardware, closest in batch; of several, the newest."""
    results = (*cell.first, *cell.second)
    fitting = [
        profile
        for profile in profiles
        if profile.model == cell.model
        and set(methods) <= {row.label for row in profile.training}
        and all(is_same_hardware(profile.environment, result.run.environment) for result in results)
    ]
    trained_with = cell.first[0].spec.training.batch_size
    return min(
        reversed(fitting), key=lambda profile: abs(math.log(profile.settings["batch"] / trained_with)), default=None
    )


def _paired_rows(profile: ProfileTable, first: str, second: str) -> Iterator[tuple[Value, ...]]:
    """A training step, its energy, and a forward pass of each shape, as ratios of the second to the first."""
    shape = f"{profile.settings['batch']}x{profile.settings['length']}"
    steps = {"step": f"training step {shape}", "energy": f"energy of a step {shape}"}
    shapes = {key: f"latency {key}" for key in profile.latency_columns if not key.endswith(" ratio")}
    relative = relative_to(profile, first)
    for rows, columns in ((relative.training, steps), (relative.latency, shapes)) if relative is not None else ():
        by_method = {row.label: row for row in rows}
        for column, text in columns.items() if {first, second} <= by_method.keys() else ():
            found = by_method[second].figures.get(f"{column} ratio")
            if found is not None:
                absolute = (_absolute(by_method[method], column) for method in (first, second))
                yield words(f"{text}, paired"), *absolute, ratio(found.value, found.low, found.high)


def _absolute(row: ProfileRow, column: str) -> Value:
    figure = row.figures.get(column) or Figure(None, "")
    mark = "disturbed" if row.problems or figure.problems else ""
    return number(figure.value, "J" if column == "energy" else "s", mark=mark)
