"""The difference of each method to the reference with its interval, zero, and the margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from adapeff.cli.render.pictures.inline import INK
from adapeff.cli.render.pictures.sheet import Sheet, new_sheet
from adapeff.cli.render.pictures.style import Look, bars_of, name_rows
from adapeff.cli.render.text import printable
from adapeff.service.reporting.picture_data import ForestPanel
from adapeff.service.reporting.verdicts import Kind

_VERDICTS: Mapping[Kind, tuple[str, str, Any]] = {
    "better": ("▲", "#009E73", "-"),
    "within": ("●", "#0072B2", "-"),
    "worse": ("▼", "#D55E00", "-"),
}
"""Sign, colour and line of a verdict."""
_OPEN = ("?", INK, (0, (3, 2)))


def draw(heading: str, panels: Sequence[ForestPanel], looks: dict[str, Look]) -> Sheet:
    """A panel per model and task, a row per method; the verdict stands beside it in words."""
    heights = [1.6 + 0.27 * len(panel.rows) for panel in panels]
    sheet = new_sheet(heading, panels, looks, width=9.5, heights=heights, indent=2.2)
    for axes, panel in zip(sheet.axes, panels, strict=False):
        _draw_rows(sheet, axes, panel)
    return sheet


def _draw_rows(sheet: Sheet, axes: Axes, panel: ForestPanel) -> None:
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(-panel.margin, color=INK, linewidth=1, linestyle="--")
    for at, row in enumerate(panel.rows):
        sign, colour, line = _VERDICTS.get(row.kind, _OPEN)
        drawn = axes.errorbar(
            [row.difference.value], [at], xerr=bars_of([row.difference]), linestyle="none", color=colour, elinewidth=1.6
        )
        for bar in drawn.lines[2]:
            bar.set_linestyle(line)
        look = sheet.looks[row.method]
        (mark,) = axes.plot([row.difference.value], [at], markersize=6, linestyle="none", **look.options())
        sheet.tip(mark, f"{row.method}: {row.difference.value:+.1f}, {row.verdict}", row.run_id)
        axes.text(
            1.01,
            at,
            f"{sign} {printable(row.verdict)}",
            transform=axes.get_yaxis_transform(),
            color=colour,
            va="center",
        )
    name_rows(axes, [row.method for row in panel.rows], sheet.looks)
    axes.margins(x=0.06)
    axes.set_xlabel(panel.label)
