"""The pictures of a report by name, and how to save them."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from adapeff.cli.render.pictures.inline import inline_svg
from adapeff.service.errors import SpecError
from adapeff.service.reporting.picture_data import methods_of
from adapeff.service.reporting.pictures import PICTURES
from adapeff.service.reporting.report import Report

if TYPE_CHECKING:
    from adapeff.cli.render.pictures.sheet import Sheet


def draw_picture(report: Report, name: str) -> Sheet:
    """Draw a picture.

    Raises:
        SpecError: if there is nothing to draw.
    """
    from adapeff.cli.render.pictures import drawing

    picture = PICTURES[name]
    panels = picture.panels(report)
    if not panels:
        raise SpecError(f"the picture '{name}' would be empty: {picture.needs}")
    return drawing.draw_panels(name, picture.summary, panels, methods_of(report))


def save_picture(report: Report, name: str, path: Path) -> None:
    """Draw a picture to a file: PNG, SVG or PDF by its suffix.

    Raises:
        SpecError: if there is nothing to draw.
    """
    from adapeff.cli.render.pictures import drawing

    drawing.write(draw_picture(report, name), path, path.suffix.lower().removeprefix("."))


def svg_of(report: Report, name: str) -> str | None:
    """A picture as an SVG element for a page; None if it would be empty, or matplotlib is not installed.

    It stands in a page inline: it has no styles of its own, its text has the page's colour, and its ids begin with the
    picture's name. Its marks have tips, and lead to `#run-ID` where they stand for runs.
    """
    if find_spec("matplotlib") is None:
        return None
    from adapeff.cli.render.pictures import drawing

    try:
        sheet = draw_picture(report, name)
    except SpecError:
        return None
    text = io.StringIO()
    drawing.write(sheet, text, "svg")
    return inline_svg(text.getvalue(), name, PICTURES[name].summary, sheet.tips)
