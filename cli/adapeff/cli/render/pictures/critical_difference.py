"""The critical-difference diagram: mean ranks over tasks, and which methods do not differ (Demšar 2006, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from adapeff.cli.render.pictures.inline import INK
from adapeff.cli.render.pictures.sheet import Sheet, new_sheet
from adapeff.cli.render.pictures.style import Look, short
from adapeff.service.reporting.picture_data import RanksPanel

_BAR = 0.45
"""Rows that a bar takes; a row is the height of a label."""


def draw(heading: str, panels: Sequence[RanksPanel], looks: dict[str, Look]) -> Sheet:
    """A panel per model: the better half of the methods is named on the left, the other on the right."""
    heights = [1.5 + 0.24 * _rows(panel) for panel in panels]
    sheet = new_sheet(heading, panels, looks, width=9.0, heights=heights, indent=2.2, above=18)
    for axes, panel in zip(sheet.axes, panels, strict=False):
        _draw_ranks(sheet, axes, panel)
    return sheet


def _rows(panel: RanksPanel) -> float:
    """Rows below the axis: bars and the labels of the larger half."""
    return 0.7 + _BAR * len(panel.ranking.cliques) + (len(panel.ranking.methods) + 1) // 2


def _draw_ranks(sheet: Sheet, axes: Axes, panel: RanksPanel) -> None:
    ranking = panel.ranking
    count = len(ranking.methods)
    place = dict(zip(ranking.methods, ranking.ranks, strict=True))
    first_label = 1.0 + _BAR * len(ranking.cliques)
    for at, clique in enumerate(ranking.cliques):
        ranks = [place[method] for method in clique]
        height = 0.6 + _BAR * at
        axes.plot([min(ranks), max(ranks)], [height] * 2, color=INK, linewidth=3, solid_capstyle="round", zorder=2)
        axes.plot(ranks, [height] * len(ranks), color=INK, marker="o", markersize=5, linestyle="none", zorder=2)
    for at, (method, rank) in enumerate(place.items()):
        is_left = at < (count + 1) // 2
        row = first_label + (at if is_left else count - 1 - at)
        edge = 1 - 0.04 * count if is_left else count + 0.04 * count
        look = sheet.looks[method]
        axes.plot([rank, rank, edge], [0, row, row], color=look.color, linewidth=0.9, zorder=1)
        (mark,) = axes.plot([rank], [0], markersize=6, linestyle="none", clip_on=False, zorder=3, **look.options())
        sheet.tip(mark, f"{method}: mean rank {rank:.2f}")
        axes.annotate(
            f"{short(method)}  {rank:.2f}" if is_left else f"{rank:.2f}  {short(method)}", (edge, row),
            xytext=(-3 if is_left else 3, 0), textcoords="offset points",
            ha="right" if is_left else "left", va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(1 - 0.04 * count, count + 0.04 * count)
    axes.set_ylim(_rows(panel) - 0.2, 0)
    axes.set_xticks(range(1, count + 1))
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    axes.spines["top"].set(visible=True, bounds=(1, count))
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_xlabel("mean rank over the tasks, 1 is best")
