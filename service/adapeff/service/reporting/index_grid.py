"""The index of a large report as a grid."""

from __future__ import annotations

from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.grids import Grid, Heading, Value, number, words
from adapeff.service.reporting.index import REFERENCE, Index, IndexLine
from adapeff.service.reporting.variation import in_words

MOST_TABLES = 12
"""A report of more tables shows its index first."""


def index_grid(index: Index) -> Grid:
    """A row per table of the report."""
    headings = (
        *(Heading(text, text) for text in ("model", "task")),
        Heading("differs in", "differs"),
        *(Heading(text, text) for text in ("methods", "runs", "seeds")),
        Heading("metric", "metric"),
        Heading(REFERENCE, "reference"),
        Heading("highest mean" if all(line.metric.higher_is_better for line in index.lines) else "best mean", "best"),
        Heading("of", "best_method"),
    )
    return Grid(
        f"{len(index.lines):,} tables",
        headings,
        tuple(_row(line) for line in index.lines),
        (
            "Means alone: choose a few tables to see differences, intervals and costs, by a sweep's name or with "
            "`--where`, such as `adapeff report --all --where task=sst2`.",
        ),
    )


def _row(line: IndexLine) -> tuple[Value, ...]:
    return (
        words(short_model(line.model)),
        words(line.task),
        words(in_words(line.differs)),
        *(number(float(count), "params") for count in (line.methods, line.runs, line.seeds)),
        words(line.metric.name),
        number(line.reference_quality, line.metric.unit),
        number(line.best_quality, line.metric.unit),
        words(line.best_method),
    )
