"""Format a report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from adapeff.cli.render.profiles import profile_grids, profile_title
from adapeff.cli.render.text import markdown_cell, one_line
from adapeff.cli.render.units import (
    format_cell,
    format_language,
    format_percent,
    format_spread,
    with_unit,
)
from adapeff.service.reporting.convergence import DECOMPOSED, TargetCell, TimeFactors
from adapeff.service.reporting.notes import profile_notes, table_notes
from adapeff.service.reporting.numbers import format_value, ratio_text
from adapeff.service.reporting.overview import Overview
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.reruns import Rerun
from adapeff.service.reporting.table import Table


def report_markdown(report: Report) -> str:
    """The whole report."""
    lines = [line for table in report.tables for line in _table(table)]
    for overview in report.overviews:
        for title, headings, rows in overview_grids(overview):
            lines += [f"## {title}", "", *_grid(headings, rows), ""]
    for profile in report.profiles:
        lines += ["## Profile", "", profile_title(profile), ""]
        for title, headings, rows in profile_grids(profile):
            lines += [f"### {title}", "", *_grid(headings, rows), ""]
        lines += [*(f"- {note}" for note in profile_notes(profile)), ""]
    return "\n".join(lines) + "\n"


def overview_grids(overview: Overview) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of the averages per task and per language."""
    methods = overview.methods.items()
    without = f"; not run on all of them: {', '.join(overview.left_out)}" if overview.left_out else ""
    size = overview.settings.get("train_size")
    of = f"{overview.model}{f', {size:,} training examples' if size else ''}"
    yield (
        f"Averages over the target languages of each task, in % ({of}{without})",
        ["method", *overview.tasks, "all tasks"],
        [
            [
                name,
                *(format_percent(averages.by_task[task]) for task in overview.tasks),
                format_percent(averages.overall),
            ]
            for name, averages in methods
        ],
    )
    counts = overview.tasks_of_language
    if len(counts) > 1:
        yield (
            f"Averages over the tasks of each language, in % ({of})",
            ["language", "tasks", *overview.methods],
            [
                [language, str(count), *(format_percent(averages.by_language[language]) for _, averages in methods)]
                for language, count in counts.items()
            ],
        )


def _table(table: Table) -> Iterator[str]:
    yield f"## {one_line(table.title)}"
    yield ""
    yield one_line(describe(table))
    yield ""
    headings = ["method", "lr", "n", *(with_unit(column) for column in table.columns)]
    rows = [
        [
            row.method,
            f"{row.learning_rate:g}",
            str(len(row.seeds)),
            *(format_cell(table, row, c) for c in table.columns),
        ]
        for row in table.rows
    ]
    yield from _grid(headings, rows)
    if len(table.languages) > 1:
        methods = [row.method for row in table.rows]
        yield ""
        rows = [
            [
                language,
                format_value(next(iter(cells.values())).baseline, table.metric.unit),
                *(format_language(cells[m], table.metric) if m in cells else "–" for m in methods),
            ]
            for language, cells in table.languages.items()
        ]
        yield from _grid([f"{table.metric.name} in", table.metric.baseline, *methods], rows)
    for title, headings, rows in (*target_grids(table), *rerun_grids(table)):
        yield from ("", f"### {title}", "")
        yield from _grid(headings, rows)
    yield ""
    for note in table_notes(table):
        yield f"- {note}"
    yield ""


def target_grids(table: Table) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of the times to targets, and of the factors that explain them."""
    if len(table.targets) < 2:
        return
    some = next(iter(table.targets.values()))
    headings = [f"{cell.target:.0%} ({format_value(cell.score, table.metric.unit)})" for cell in some]
    yield (
        f"compute seconds (steps) until validation {table.metric.name} reaches a share of `{table.reference}`'s best",
        ["method", *headings],
        [[name, *map(_reached, cells)] for name, cells in table.targets.items()],
    )
    if table.time_factors:
        yield (
            f"why: steps to {DECOMPOSED:.0%} and FLOPs of a step, against `{table.reference}`",
            ["method", "steps", "FLOPs a step"],
            [[name, *_factors(factors)] for name, factors in table.time_factors.items()],
        )


def rerun_grids(table: Table) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of the spread of reruns; nothing if no job ran twice."""
    if not table.reruns:
        return
    shown = [column for column in table.columns if any(column.key in rerun.spreads for rerun in table.reruns)]
    yield (
        "reruns of the same job: range of the runs over their median",
        ["method", "seed", "runs", "scores", *(column.heading for column in shown)],
        [
            [
                rerun.method,
                str(rerun.seed),
                str(rerun.runs),
                _equal(rerun),
                *(format_spread(rerun.spreads.get(c.key)) for c in shown),
            ]
            for rerun in table.reruns
        ],
    )


def _equal(rerun: Rerun) -> str:
    return f"{rerun.unequal_scores} of {rerun.scores} differ" if rerun.unequal_scores else f"all {rerun.scores} equal"


def _reached(cell: TargetCell) -> str:
    if cell.mean is None:
        return f"– (0 of {cell.seeds})"
    some = f", {cell.reached} of {cell.seeds} seeds" if cell.reached < cell.seeds else ""
    return f"{cell.mean.compute_s:.1f} ({cell.mean.steps:.0f}{some})"


def _factors(factors: TimeFactors) -> list[str]:
    """Ratios to the reference's factors."""
    return ["–" if ratio is None else ratio_text(ratio) for ratio in (factors.steps, factors.flops_per_step)]


def _grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(headings) + " |"
    yield "| " + " | ".join("---" for _ in headings) + " |"
    for row in rows:
        yield "| " + " | ".join(map(markdown_cell, row)) + " |"


def describe(table: Table) -> str:
    """Describe model, settings and hardware in one line."""
    settings = ", ".join(f"{key}={value}" for key, value in table.settings.items())
    hardware = table.environment
    return (
        f"{table.model} · {table.task} · {settings} · {hardware.get('device_name')} "
        f"({hardware.get('precision')}, {hardware.get('torch_threads')} thread(s)), torch {hardware.get('torch')}, "
        f"transformers {hardware.get('transformers')}, peft {hardware.get('peft')}, adapeff "
        f"{' / '.join(table.revisions)}"
    )
