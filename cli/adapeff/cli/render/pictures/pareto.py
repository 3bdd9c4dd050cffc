"""Quality against the cost of training, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from adapeff.cli.render.pictures.inline import INK
from adapeff.cli.render.pictures.labels import place_labels
from adapeff.cli.render.pictures.sheet import Sheet, add_legend, new_sheet
from adapeff.cli.render.pictures.style import Look, bars_of, log_axis, plain, short
from adapeff.service.reporting.picture_data import ParetoPanel


def draw(heading: str, panels: Sequence[ParetoPanel], looks: dict[str, Look]) -> Sheet:
    """A panel per model and task; each method is named beside its point."""
    most = max(len(panel.points) for panel in panels)
    heights = [4.2 + 0.08 * max(0, most - 8)] * len(panels)
    sheet = new_sheet(heading, panels, looks, width=5.6, heights=heights, columns=2)
    shown = list(zip(sheet.axes, panels, strict=False))
    for axes, panel in shown:
        _draw_points(sheet, axes, panel)
    sheet.settle()
    for axes, panel in shown:
        points = [(point.cost.value, point.quality.value, short(point.method)) for point in panel.points]
        if place_labels(axes, points, _bars(axes, panel)):
            sheet.figure.set_layout_engine("constrained")
            add_legend(sheet, looks)
            break
    return sheet


def _draw_points(sheet: Sheet, axes: Axes, panel: ParetoPanel) -> None:
    for point in panel.points:
        axes.errorbar(
            [point.cost.value], [point.quality.value], xerr=bars_of([point.cost]), yerr=bars_of([point.quality]),
            elinewidth=0.8, linestyle="none", color=sheet.looks[point.method].color, alpha=0.6,
        )  # fmt: skip
        (mark,) = axes.plot(
            [point.cost.value], [point.quality.value], linestyle="none", markersize=6,
            **sheet.looks[point.method].options(),
        )  # fmt: skip
        sheet.tip(mark, f"{point.method}: {point.quality.value:.1f} at {plain(point.cost.value)}", point.run_id)
    front_x, front_y = zip(*panel.front, strict=True)
    axes.plot(front_x, front_y, color=INK, linewidth=0.9, linestyle="--", drawstyle="steps-post", zorder=1)
    if panel.ceiling is not None:
        axes.axhline(panel.ceiling, color=INK, linewidth=0.9, linestyle=":")
        axes.annotate(
            "score ceiling", (1, panel.ceiling), xytext=(-2, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=7, ha="right",
        )  # fmt: skip
    axes.margins(0.16)
    log_axis(axes.xaxis)
    axes.set_xlabel(f"{panel.cost_label}, log")
    axes.set_ylabel(panel.quality_label)


def _bars(axes: Axes, panel: ParetoPanel) -> list[Bbox]:
    """Where error bars and the front are, in pixels."""
    corners = [corner for left, right in pairwise(panel.front) for corner in (left, (right[0], left[1]))]
    corners += panel.front[-1:]
    lines = [(one, other) for one, other in pairwise(corners)]
    for point in panel.points:
        cost, quality = point.cost, point.quality
        if quality.low is not None and quality.high is not None:
            lines.append(((cost.value, quality.low), (cost.value, quality.high)))
        if cost.low is not None and cost.high is not None:
            lines.append(((cost.low, quality.value), (cost.high, quality.value)))
    return [Bbox(axes.transData.transform(line)).padded(1) for line in lines]
