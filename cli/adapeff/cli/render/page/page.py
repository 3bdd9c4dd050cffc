"""A report as one HTML file: no outside request, no library, everything escaped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapeff.cli.render.pictures.catalog import svg_of
from adapeff.cli.render.templates import Inline, render_page
from adapeff.service.reporting.page_data import PageData
from adapeff.service.reporting.pictures import PICTURES
from adapeff.service.reporting.report import Report

MOST_TABLES_OF_A_PAGE = 100
_HERE = Path(__file__).parent
STYLE = _HERE / "page.css"
TABLES = _HERE / "tables.js"


def report_page(report: Report, data: PageData, title: str, *, home: str = "") -> str:
    """The page of a report.

    Args:
        data: of the same report.
        home: the address of the page above it; '' for a page that stands alone.
    """
    return render_page(
        "report.html",
        style=STYLE,
        scripts=(TABLES, _HERE / "report.js"),
        title=title,
        home=home,
        page=data,
        pictures=list(_pictures(report)) if data.is_complete else [],
    )


def _pictures(report: Report) -> Iterator[tuple[str, str, Inline]]:
    """Name, heading and SVG element of every picture that has content."""
    for name, picture in PICTURES.items():
        svg = svg_of(report, name)
        if svg is not None:
            yield name, picture.summary, Inline(svg)
