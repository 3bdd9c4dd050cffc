"""The notes below the tables of reports and profiles, each one or two sentences.

Backticks mark names and asterisks mark emphasis; terminal output omits both.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapeff.service.measurements import PEAK_COPY, PEAK_MATMUL
from adapeff.service.reporting.numbers import format_value, with_prefix
from adapeff.service.reporting.profiles import ProfileTable
from adapeff.service.reporting.table import Table

MAX_DISTURBED = 6
"""The number of disturbed forward passes to list; the rest are only counted."""


def table_notes(table: Table) -> list[str]:
    """The notes below a table of a report."""
    notes = [*_about_ratios(table), *_about_times(table), *_about_scores(table)]
    reasons = {
        f"{column.heading}: {row.cells[column.key].reason}"
        for row in table.rows
        for column in table.columns
        if row.cells[column.key].summary is None and row.cells[column.key].reason
    }
    commercial = " **Non-commercial use only.**" if table.non_commercial else ""
    return [*notes, *sorted(reasons), f"Data: {table.licence}.{commercial}"]


def _about_ratios(table: Table) -> Iterator[str]:
    if table.has_reference:
        yield (
            f"(x): ratio to `{table.reference}`. Times of separate runs have none, because machines drift; a profile "
            "measures them in pairs."
        )
    else:
        yield f"No ratios: there is no single `{table.reference}` among these runs."
    if any(row.method.startswith(f"{table.reference} (tuned") for row in table.rows):
        yield f"(x) of a tuned method: ratio to `{table.reference}` tuned the same way, if there is one."
    if len(table.searches) > 1:
        searches = "; ".join(table.searches)
        yield f"Learning rates were tuned with different searches, so the comparison may be unfair: {searches}."
    if table.break_even_tasks:
        counts = ", ".join(f"{method} {tasks:,}" for method, tasks in table.break_even_tasks.items())
        yield f"Tasks from which the stored weights exceed one more full model (one multi-task model): {counts}."
    if table.differs:
        yield f"Runs of this model and task differ in {'; '.join(table.differs)}."


def _about_times(table: Table) -> Iterator[str]:
    if any(cell.doubt for row in table.rows for cell in row.cells.values()):
        yield "!: a time that was disturbed, or measured while another run used the host; it has no ratio."
    for method, problems in table.disturbed.items():
        yield f"Times of {method} were disturbed: {problems}."
    if table.side_by_side:
        yield (
            f"{table.side_by_side} of {table.runs} runs overlapped with another run of this report on the same host: "
            "trust parameters and quality, not small differences in time. `--devices cpu:0` runs one at a time."
        )


def _about_scores(table: Table) -> Iterator[str]:
    if any(cell.summary is not None and 1 < cell.summary.n < 3 for row in table.rows for cell in row.cells.values()):
        yield "Fewer than 3 seeds: the values. 3 or more: mean and Student's 95 % interval."
    rates = {f"{row.method} {row.learning_rate:g}: {row.learning_rate_source}" for row in table.rows}
    yield f"Learning rates: {'; '.join(sorted(rates))}."
    if any(cell.at_chance for cells in table.languages.values() for cell in cells.values()):
        yield f"~: within noise of the {table.metric.baseline} (95 %, bootstrap over the examples)."
    if not table.metric.higher_is_better:
        yield f"Lower {table.metric.name} is better."
    if table.untested:
        yield f"{table.untested[0].upper()}{table.untested[1:]}."
    if table.score_ceiling is not None:
        ceiling = format_value(table.score_ceiling, table.metric.unit)
        yield f"Score ceiling of these data: {ceiling}; the rest is deliberate label noise."


def profile_notes(table: ProfileTable) -> list[str]:
    """The notes below the tables of a profile."""
    matmul, copy = (with_prefix(table.device_peaks.get(peak.name)) for peak in (PEAK_MATMUL, PEAK_COPY))
    notes = [
        "Ratios are medians over blocks; each block measures every method once, in a new random order. [ ]: 95 % "
        "interval, bootstrap over the blocks.",
        "FLOPs: matrix products, 2 per multiply-add, frozen weights counted as frozen. Of peak: "
        f"relative to the fastest matrix product measured here, {matmul}FLOP/s (copying: {copy}B/s).",
    ]
    problems: dict[str, list[str]] = {}
    for row in table.training:
        if row.problems:
            problems.setdefault(row.problems, []).append(row.label)
    notes += [f"!: {', '.join(labels)}: {text}." for text, labels in problems.items()]
    disturbed = [
        f"{row.label} {cell}: {figure.problems}"
        for row in table.latency
        for cell, figure in row.figures.items()
        if figure.problems
    ]
    notes += [f"!: {text}." for text in disturbed[:MAX_DISTURBED]]
    if len(disturbed) > MAX_DISTURBED:
        notes.append(f"!: {len(disturbed) - MAX_DISTURBED} more in `adapeff show {table.job_id}`.")
    reasons = {
        f"{column}: {figure.reason}": None
        for row in table.training
        for column, figure in row.figures.items()
        if figure.value is None and figure.reason
    }
    return [*notes, *reasons]
