"""Validation scores over compute seconds and over FLOPs, with shares of the reference's best score."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator

from adapeff.cli.render.pictures.inline import INK
from adapeff.cli.render.pictures.labels import spread
from adapeff.cli.render.pictures.sheet import Sheet, add_legend, new_sheet
from adapeff.cli.render.pictures.style import Look, plain
from adapeff.service.reporting.picture_data import CurvesPanel

_TARGET_SIZE = 7


def draw(heading: str, panels: Sequence[CurvesPanel], looks: dict[str, Look]) -> Sheet:
    """Two panels beside each other per model and task; seeds are thin, their mean is thick."""
    sheet = new_sheet(heading, panels, looks, width=5.4, heights=[3.7] * len(panels), columns=2)
    shown = list(zip(sheet.axes, panels, strict=False))
    targets = [_draw_curves(sheet, axes, panel) for axes, panel in shown]
    add_legend(sheet, {curve.method for _, panel in shown for curve in panel.curves})
    sheet.settle()
    for (axes, panel), labels in zip(shown, targets, strict=True):
        _move_apart(axes, panel, labels)
    return sheet


def _draw_curves(sheet: Sheet, axes: Axes, panel: CurvesPanel) -> list[Annotation]:
    for curve in panel.curves:
        look = sheet.looks[curve.method]
        for seed in curve.seeds:
            axes.plot(*zip(*seed, strict=True), color=look.color, linewidth=0.6, alpha=0.45)
        (mark,) = axes.plot(*zip(*curve.mean, strict=True), linewidth=1.7, markersize=4.5, **look.options())
        sheet.tip(mark, f"{curve.method}: {curve.mean[-1][1]:.1f} at {plain(curve.mean[-1][0])}")
    for _, score in panel.targets:
        axes.axhline(score, color=INK, linestyle=":", linewidth=0.8)
    axes.margins(0.06)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axes.set_xlabel(panel.cost_label)
    axes.set_ylabel(panel.score_label)
    return [
        axes.annotate(
            words, (1, score), xytext=(3, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            fontsize=_TARGET_SIZE, va="center", annotation_clip=False,
        )
        for words, score in panel.targets
    ]  # fmt: skip


def _move_apart(axes: Axes, panel: CurvesPanel, labels: Sequence[Annotation]) -> None:
    """Move the labels of targets that lie close together."""
    scale = axes.figure.dpi / 72
    places = [axes.transData.transform((0, score))[1] / scale for _, score in panel.targets]
    low, high = axes.bbox.y0 / scale, axes.bbox.y1 / scale
    for label, place, moved in zip(labels, places, spread(places, _TARGET_SIZE * 1.35, low, high), strict=True):
        label.set_position((3, moved - place))
