"""The pictures by name, and how to save them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from adapeff.cli.render.pictures.costs import draw_latency, draw_steps
from adapeff.cli.render.pictures.pareto import draw_pareto
from adapeff.cli.render.pictures.quality import draw_curves, draw_forest, draw_languages
from adapeff.cli.render.pictures.ranks import draw_critical_difference
from adapeff.cli.render.pictures.style import save
from adapeff.service.errors import SpecError
from adapeff.service.reporting.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES: Mapping[str, Callable[[Report], Figure]] = {
    "pareto": draw_pareto,
    "forest": draw_forest,
    "curves": draw_curves,
    "languages": draw_languages,
    "latency": draw_latency,
    "steps": draw_steps,
    "critical-difference": draw_critical_difference,
}


def save_picture(report: Report, name: str, path: Path) -> None:
    """Draw a picture to a file: PNG, SVG or PDF by its suffix.

    Raises:
        SpecError: if there is nothing to draw.
    """
    save(PICTURES[name](report), path)


def svg_of(report: Report, name: str) -> str | None:
    """A picture as an SVG element for a page; None if it would be empty, or matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    try:
        figure = PICTURES[name](report)
    except SpecError:
        return None
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
