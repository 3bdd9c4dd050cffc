"""Draw pictures with matplotlib and write them; imported only when a picture is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import IO, Any

import matplotlib

from adapeff.cli.render.pictures import critical_difference, curves, forest, languages, latency, pareto, steps
from adapeff.cli.render.pictures.sheet import Sheet
from adapeff.cli.render.pictures.style import SETTINGS, looks_of
from adapeff.service.reporting.picture_data import Panel

_DRAW: Mapping[str, Callable[[str, Any, Any], Sheet]] = {
    "pareto": pareto.draw,
    "forest": forest.draw,
    "curves": curves.draw,
    "languages": languages.draw,
    "latency": latency.draw,
    "steps": steps.draw,
    "critical-difference": critical_difference.draw,
}
_ONE_AT_A_TIME = Lock()
"""Matplotlib's settings are global, and a server draws in several threads."""
_WITHOUT_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def draw_panels(name: str, heading: str, panels: Sequence[Panel], methods: Sequence[str]) -> Sheet:
    """Draw the picture of that name.

    Args:
        panels: at least one, of the picture's own kind.
        methods: all of the report, so that each looks the same in all pictures.
    """
    with _ONE_AT_A_TIME, matplotlib.rc_context(SETTINGS):
        return _DRAW[name](heading, panels, looks_of(methods))


def write(sheet: Sheet, out: Path | IO[str], form: str) -> None:
    """Write a picture as `png`, `svg` or `pdf`; the same picture gives the same bytes."""
    with _ONE_AT_A_TIME, matplotlib.rc_context(SETTINGS):
        sheet.figure.savefig(out, format=form, dpi=150, metadata=_WITHOUT_DATE.get(form))
