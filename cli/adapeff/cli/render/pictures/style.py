"""What all pictures share: a colour and a marker per method, panels with a legend below, files that compare equal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapeff.cli.render.text import printable
from adapeff.service.errors import SpecError
from adapeff.service.reporting.decision import Decision
from adapeff.service.reporting.first_screen import short_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe & Ito 2008, "Color Universal Design", distinct for the colour-blind; yellow is replaced, since it is faint."""
MARKERS = "os^DvPX*<>"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "adapeff",
    "text.parse_math": False,  # names may contain dollar signs
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def style_of(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Method -> colour and marker, the same in all pictures of a report; no two methods share both."""
    return {
        method: {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[(at // len(COLOURS) + at) % len(MARKERS)]}
        for at, method in enumerate(sorted(set(methods)))
    }


def all_methods(decisions: Sequence[Decision]) -> set[str]:
    """Every method of a report."""
    return {row.method for decision in decisions for row in decision.table.rows}


def panels(count: int, *, width: float = 5.2, height: float = 4.0, columns: int = 2) -> tuple[Figure, list[Any]]:
    """A figure with that many axes, `columns` side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update(_SETTINGS)
    across = min(columns, count)
    down = -(-count // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(width * across, height * down), squeeze=False, layout="constrained"
    )
    for unused in axes.flat[count:]:
        unused.set_visible(False)
    return figure, list(axes.flat[:count])


def panel_title(decision: Decision) -> str:
    """Task, model and device, in lines that fit a panel."""
    table = decision.table
    words = f"{table.short_title} · {short_model(table.model)} · {table.environment.get('device_name')}"
    return "\n".join(textwrap.wrap(printable(words), 52))


def legend_below(figure: Figure, columns: int) -> None:
    """One legend for all panels, below them, so that it covers nothing."""
    marks = {text: mark for axis in figure.axes for mark, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    if marks:
        labels = sorted(marks)
        figure.legend(
            [marks[label] for label in labels], labels, loc="outside lower center", ncols=max(1, columns), frameon=False
        )


def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the file's suffix, without the date."""
    from matplotlib import pyplot

    date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    figure.savefig(path, dpi=130, metadata=date)
    pyplot.close(figure)


def nothing(picture: str, reason: str) -> SpecError:
    """The error for a picture without content."""
    return SpecError(f"the picture '{picture}' would be empty: {reason}")
