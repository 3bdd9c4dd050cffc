"""What a training step consists of: forward, backward and optimizer, stacked."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from adapeff.cli.render.pictures.inline import INK
from adapeff.cli.render.pictures.sheet import Sheet, new_sheet
from adapeff.cli.render.pictures.style import Look, name_rows
from adapeff.service.reporting.picture_data_profiles import STEP_PARTS, StepsPanel

_PARTS = dict(zip(STEP_PARTS, (("#0072B2", ""), ("#E69F00", "////"), ("#999999", "....")), strict=True))
"""Colour and hatching of a part."""


def draw(heading: str, panels: Sequence[StepsPanel], looks: dict[str, Look]) -> Sheet:
    """A panel per profile, a bar per method, with the paired ratio of the whole step at its end."""
    heights = [1.6 + 0.27 * len(panel.bars) for panel in panels]
    sheet = new_sheet(heading, panels, looks, width=8.5, heights=heights, indent=2.2)
    for axes, panel in zip(sheet.axes, panels, strict=False):
        _draw_bars(sheet, axes, panel)
    patches = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, label=part)
        for part, (colour, hatch) in _PARTS.items()
    ]
    sheet.figure.legend(handles=patches, loc="outside lower left", ncols=len(patches))
    return sheet


def _draw_bars(sheet: Sheet, axes: Axes, panel: StepsPanel) -> None:
    for at, bar in enumerate(panel.bars):
        start = 0.0
        for part, width in bar.parts:
            colour, hatch = _PARTS[part]
            (drawn,) = axes.barh(
                [at], [width], left=start, height=0.66, color=colour, hatch=hatch, edgecolor="white", linewidth=0
            )
            sheet.tip(drawn, f"{bar.method}, {part}: {width:.3g} ms")
            start += width
        axes.annotate(bar.ratio, (start, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5)
    name_rows(axes, [bar.method for bar in panel.bars], sheet.looks)
    axes.set_xlim(0, 1.22 * max(sum(width for _, width in bar.parts) for bar in panel.bars))
    axes.spines["left"].set_color(INK)
    axes.set_xlabel(panel.label)
