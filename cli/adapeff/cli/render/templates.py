"""Fill HTML templates: every value is escaped, and a page's policy allows only the style and scripts inside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from adapeff.cli.render.grids import is_text
from adapeff.cli.render.text import printable
from adapeff.service.reporting.numbers import format_value

_FOLDERS = [str(Path(__file__).parent / "page"), str(Path(__file__).parent.parent / "serve")]
_NONE = "'none'"


class Inline(str):
    """Markup that stands in a page as it is; only for what our own code draws."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def render_page(template: str, *, style: Path, scripts: Sequence[Path], policy: str = "", **values: Any) -> str:
    """Fill the template of a page.

    Args:
        style, scripts: files that become part of the page.
        policy: further directives of its Content-Security-Policy.
    """
    css, code = style.read_text(encoding="utf-8"), [file.read_text(encoding="utf-8") for file in scripts]
    directives = "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(css)}",
            f"script-src {' '.join(map(_hash, code)) or _NONE}",
            "img-src data:",
            "base-uri 'none'",
            policy or "form-action 'none'",
        )
    )
    page = _environment().get_template(template)
    return page.render(style=Inline(css), scripts=list(map(Inline, code)), policy=directives, **values)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDERS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.tests["text_column_of"] = lambda column, grid: is_text(grid, column)
    environment.filters |= {"path": _path, "interval": _interval, "bytes": _bytes}
    return environment


def _printable(value: Any) -> Any:
    """Values with control characters escaped; markup as it is."""
    return printable(value) if type(value) is str else value


def _interval(value: Any) -> str:
    """A cell's interval in words; '' without one."""
    if value.low is None and value.high is None:
        return ""
    low, high = ("?" if bound is None else f"{bound:.6g}" for bound in (value.low, value.high))
    return f"95 % interval {low} to {high}"


def _bytes(count: int) -> str:
    return format_value(float(count), "B")


def _path(points: Sequence[tuple[float, float]], width: int, height: int) -> list[tuple[str, str]]:
    """The places of points in a picture of that size, the second coordinate from the top."""
    columns, values = [x for x, _ in points], [y for _, y in points]
    across, up = (max(columns) - min(columns)) or 1.0, (max(values) - min(values)) or 1.0
    return [
        (f"{(x - min(columns)) / across * width:.1f}", f"{height - (y - min(values)) / up * height:.1f}")
        for x, y in points
    ]
