"""The report's plot: quality against training time (logarithmic), a panel per table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapeff.service.errors import SpecError
from adapeff.service.measurements import TRAIN_COMPUTE_S
from adapeff.service.reporting.report import Report
from adapeff.service.reporting.table import Table

_ENDINGS = {".png", ".svg", ".pdf"}


@dataclass(frozen=True)
class Point:
    """One method of one panel: every seed's (seconds, score as printed), and their means."""

    panel: str
    method: str
    seconds: tuple[float, ...]
    scores: tuple[float, ...]
    mean_seconds: float
    mean_score: float


def plot_points(report: Report) -> list[Point]:
    """The points of the plot."""
    points = []
    for table in report.tables:
        for row in table.rows:
            time, quality = row.cells[TRAIN_COMPUTE_S.name].summary, row.cells["quality"].summary
            if time is None or quality is None:
                continue
            shown = table.metric.shown
            scores = tuple(map(shown, quality.values))
            points.append(Point(_panel(table), row.method, time.values, scores, time.mean, shown(quality.mean)))
    return points


def _panel(table: Table) -> str:
    return f"{table.task}\n{table.model}\n{table.environment.get('device_name')}"


def plot_report(report: Report, path: Path) -> list[Point]:
    """Draw the plot to a file and return its points.

    Raises:
        SpecError: if there is nothing to draw, or the file's ending is not .png, .svg or .pdf.
    """
    points = plot_points(report)
    if not points:
        raise SpecError("there is nothing to draw yet: no finished job has both a score and a training time")
    if path.suffix.lower() not in _ENDINGS:
        raise SpecError(f"'{path}' is not a picture file; expected a name that ends in .png, .svg or .pdf")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys(point.panel for point in points))
    methods = sorted({point.method for point in points})
    colours = {method: f"C{index % 10}" for index, method in enumerate(methods)}
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 4.6), squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for point in (point for point in points if point.panel == panel):
            colour = colours[point.method]
            axis.scatter(point.seconds, point.scores, s=14, color=colour, alpha=0.45)
            axis.scatter([point.mean_seconds], [point.mean_score], s=60, color=colour, label=point.method)
        table = next(table for table in report.tables if _panel(table) == panel)
        if table.score_ceiling is not None:
            ceiling = table.metric.shown(table.score_ceiling)
            axis.axhline(ceiling, linestyle=":", color="grey", linewidth=1)
            axis.annotate(
                "score ceiling", (0.01, ceiling), xycoords=("axes fraction", "data"), color="grey", va="bottom"
            )
        axis.set_xscale("log")
        axis.margins(0.18)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="minor", labelsize=7)
        axis.set_title(panel, fontsize=9)
        axis.set_xlabel("training compute time, s (log)")
        unit = ", %" if table.metric.unit == "%" else ""
        axis.set_ylabel(f"{table.metric.name} in {table.source_language}{unit}")
        axis.grid(visible=True, which="both", alpha=0.2)
    marks = {text: mark for axis in axes[0] for mark, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    rows = -(-len(methods) // max(1, 4 * len(panels)))
    figure.legend(
        [marks[method] for method in methods],
        methods,
        fontsize=8,
        loc="outside lower center",  # below the panels, so that it covers no points
        ncols=-(-len(methods) // rows),
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return points
