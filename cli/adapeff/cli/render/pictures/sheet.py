"""The sheet a picture is drawn on: a heading, panels with titles and captions, one legend, tips on marks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from adapeff.cli.render.pictures.style import Look, short
from adapeff.cli.render.text import printable
from adapeff.service.reporting.picture_data import Panel

MOST_PANELS = 12
_CAPTION_SIZE = 7.5
_CHARACTERS_PER_INCH = 14
_LEGEND_ROW = 0.19
"""Inches."""


@dataclass(frozen=True)
class Tip:
    """What a mark stands for, and the run that it leads to in a page; 0 for none."""

    text: str
    run_id: int = 0


@dataclass
class Sheet:
    """A figure with its axes, and the looks of the report's methods."""

    figure: Figure
    axes: list[Axes]
    looks: dict[str, Look]
    tips: dict[str, Tip] = field(default_factory=dict)
    """Id of a mark in the SVG -> what it stands for."""

    def tip(self, mark: Artist, text: str, run_id: int = 0) -> None:
        """Say what a mark stands for."""
        name = f"mark{len(self.tips) + 1}"
        mark.set_gid(name)
        self.tips[name] = Tip(printable(text), run_id)

    def settle(self) -> None:
        """Compute the layout and keep it, so that what is placed by pixels stays in place."""
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")


def new_sheet(
    heading: str,
    panels: Sequence[Panel],
    looks: dict[str, Look],
    *,
    width: float,
    heights: Sequence[float],
    columns: int = 1,
    indent: float = 0.7,
    above: float = 0.0,
) -> Sheet:
    """A sheet with a panel for each of the first `MOST_PANELS`.

    Args:
        width: of a panel, in inches.
        heights: of the panels, in inches; panels beside each other get the larger one.
        columns: how many panels stand beside each other.
        indent: what of a panel's width is left of its axes, in inches.
        above: what its axes need between them and the caption, in points.
    """
    shown = panels[:MOST_PANELS]
    across = min(columns, len(shown))
    rows = [max(heights[at : min(at + across, len(shown))]) for at in range(0, len(shown), across)]
    figure = Figure(figsize=(width * across, sum(rows) + 0.4), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(hspace=0.06, wspace=0.04)
    rest = "" if len(panels) <= MOST_PANELS else f" (the first {MOST_PANELS} of {len(panels)}; --where selects others)"
    figure.suptitle(f"{heading}{rest}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(len(rows), across, height_ratios=rows)
    axes = [figure.add_subplot(grid[at // across, at % across]) for at in range(len(shown))]
    for axis, panel in zip(axes, shown, strict=True):
        _head(axis, panel, round((width - indent) * _CHARACTERS_PER_INCH), above)
    return Sheet(figure, axes, looks)


def _head(axes: Axes, panel: Panel, characters: int, above: float) -> None:
    """A panel's title, and below it, in small print, its caption."""
    caption = textwrap.wrap(printable(panel.caption), round(characters * 1.3))
    axes.set_title("\n".join(textwrap.wrap(printable(panel.title), characters)), pad=6 + above + 9.5 * len(caption))
    axes.annotate(
        "\n".join(caption), (0, 1), xytext=(0, 4 + above), xycoords="axes fraction", textcoords="offset points",
        fontsize=_CAPTION_SIZE, va="bottom",
    )  # fmt: skip


def add_legend(sheet: Sheet, methods: Iterable[str], *, others: Mapping[str, Line2D] | None = None) -> None:
    """One legend for all panels, below them, so that it covers nothing."""
    names = sorted(set(methods))
    marks = {short(name): Line2D([], [], markersize=5, **sheet.looks[name].options()) for name in names}
    marks |= others or {}
    widest = max(map(len, marks)) * 0.066 + 0.6
    columns = max(1, min(len(marks), int(sheet.figure.get_figwidth() / widest)))
    rows = -(-len(marks) // columns)
    sheet.figure.set_figheight(sheet.figure.get_figheight() + _LEGEND_ROW * rows)
    sheet.figure.legend(list(marks.values()), list(marks), loc="outside lower left", ncols=columns)
