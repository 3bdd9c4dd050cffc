"""Scores of methods by language as a heat map; in each cell the score and the difference to the source language."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from adapeff.cli.render.pictures.sheet import Sheet, new_sheet
from adapeff.cli.render.pictures.style import Look, name_rows
from adapeff.service.reporting.picture_data import LanguagesPanel

_MAP = "cividis"  # Nuñez, Anderton & Renslow 2018: alike with and without a colour-vision deficiency
_ROW, _COLUMN = 0.4, 0.58


def draw(heading: str, panels: Sequence[LanguagesPanel], looks: dict[str, Look]) -> Sheet:
    """A panel per model and task, a row per method, the source language first."""
    widest = max(len(panel.languages) for panel in panels)
    heights = [1.3 + _ROW * len(panel.methods) for panel in panels]
    sheet = new_sheet(heading, panels, looks, width=max(6.5, 3.2 + _COLUMN * widest), heights=heights, indent=2.2)
    for axes, panel in zip(sheet.axes, panels, strict=False):
        _draw_cells(sheet, axes, panel)
    return sheet


def _draw_cells(sheet: Sheet, axes: Axes, panel: LanguagesPanel) -> None:
    known = [cell.score for cell in panel.scores.values()]
    norm = Normalize(min(known), max(known))
    values = [
        [panel.scores[method, language].score if (method, language) in panel.scores else math.nan
         for language in panel.languages]
        for method in panel.methods
    ]  # fmt: skip
    image = axes.imshow(values, aspect="auto", cmap=_MAP, norm=norm)
    for (method, language), cell in panel.scores.items():
        x, y = panel.languages.index(language), panel.methods.index(method)
        colour = "white" if norm(cell.score) < 0.55 else "black"
        score = f"{cell.score:.1f}{'~' if cell.is_at_chance else ''}"
        lift = 0 if cell.gap is None else -0.17
        axes.text(x, y + lift, score, ha="center", va="center", fontsize=7.5, color=colour)
        if cell.gap is not None:
            gap = f"{round(cell.gap, 1) or 0.0:+.1f}".replace("-", "−").replace("+0.0", "0.0")
            axes.text(x, y + 0.23, gap, ha="center", va="center", fontsize=6, color=colour)
    name_rows(axes, panel.methods, sheet.looks)
    axes.set_ylim(len(panel.methods) - 0.5, -0.5)
    axes.set_xticks(range(len(panel.languages)), panel.languages)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    sheet.figure.colorbar(image, ax=axes, label=panel.label, fraction=0.03, pad=0.01).outline.set_visible(False)
