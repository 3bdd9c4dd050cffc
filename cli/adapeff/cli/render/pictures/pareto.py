"""Quality against the cost of training, with the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapeff.cli.render.pictures.style import all_methods, legend_below, nothing, panel_title, panels, style_of
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.pareto import front, training_cost
from adapeff.service.reporting.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_pareto(report: Report) -> Figure:
    """A panel per model and task.

    Raises:
        SpecError: if no finished job has a score.
    """
    decisions = [decision for decision in report.decisions if any(line.quality for line in decision.lines)]
    if not decisions:
        raise nothing("pareto", "no finished job has a score")
    styles = style_of(all_methods(report.decisions))
    figure, axes = panels(len(decisions))
    for axis, decision in zip(axes, decisions, strict=True):
        _draw(axis, decision, styles)
    legend_below(figure, 4)
    return figure


def _draw(axis, decision: Decision, styles) -> None:  # type: ignore[no-untyped-def]
    table = decision.table
    is_paired = sum(training_cost(line) is not None for line in decision.lines) > 1

    def cost(line: Line) -> float | None:
        return training_cost(line) if is_paired else line.costs["train"].value

    points = [(line, value) for line in decision.lines if line.quality and (value := cost(line)) is not None]
    sign = 1.0 if table.metric.higher_is_better else -1.0
    is_front = front([(value, sign * line.quality.mean) for line, value in points if line.quality])
    for line, value in points:
        quality = line.quality
        assert quality is not None
        shown = table.metric.shown(quality.mean)
        low, high = (table.metric.shown(bound) if bound is not None else shown for bound in (quality.low, quality.high))
        train = line.costs["train"]
        across = [[value - (train.low or value)], [(train.high or value) - value]] if is_paired else None
        axis.errorbar(
            value, shown, xerr=across, yerr=[[shown - low], [high - shown]], label=line.method,
            markersize=6, elinewidth=1, linestyle="none", **styles[line.method],
        )  # fmt: skip
    edge = sorted(
        (value, table.metric.shown(line.quality.mean))
        for (line, value), is_on in zip(points, is_front, strict=True)
        if is_on and line.quality
    )
    axis.step([x for x, _ in edge], [y for _, y in edge], where="post", color="grey", linewidth=1, linestyle="--")
    if table.score_ceiling is not None:
        axis.axhline(table.metric.shown(table.score_ceiling), linestyle=":", color="grey", linewidth=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="x", which="minor", labelsize=7)
    axis.margins(0.12)
    axis.set_title(panel_title(decision))
    axis.set_xlabel(
        f"time of a training step, x {table.reference} (paired, log)" if is_paired
        else "training compute time, s (separate runs, unpaired, log)"
    )  # fmt: skip
    axis.set_ylabel(f"{table.metric.name} in {table.source_language}{', %' if table.metric.unit == '%' else ''}")
