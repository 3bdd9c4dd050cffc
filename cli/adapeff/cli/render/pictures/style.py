"""What all pictures share: a colour and a marker per method, ink for light and dark grounds, plain numbers on axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from adapeff.cli.render.pictures.inline import INK
from adapeff.cli.render.text import printable
from adapeff.service.reporting.numbers import with_prefix
from adapeff.service.reporting.picture_data import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito 2008, "Color Universal Design", without black and yellow, which vanish on dark and on light ground."""
MARKERS = "os^DvPX*<>p"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "adapeff",
    "text.parse_math": False,  # names may contain dollar signs
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}
_LONGEST = 34
_LOG_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))


@dataclass(frozen=True)
class Look:
    """How a method looks in every picture of a report."""

    color: str
    marker: str

    def options(self) -> dict[str, Any]:
        """As options of matplotlib's `plot`."""
        return {"color": self.color, "marker": self.marker}


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    """A look for each method, by the order of their names; no two of up to 66 methods share one."""
    return {
        method: Look(COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)])
        for at, method in enumerate(sorted(set(methods)))
    }


def short(name: str) -> str:
    """A name that fits a picture; the middle of a long one is left out."""
    name = printable(name)
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def bars_of(estimates: Sequence[Estimate]) -> list[list[float]] | None:
    """Lengths of error bars below and above each estimate; None if none has an interval."""
    if all(estimate.low is None for estimate in estimates):
        return None
    below = [0.0 if found.low is None else max(0.0, found.value - found.low) for found in estimates]
    above = [0.0 if found.high is None else max(0.0, found.high - found.value) for found in estimates]
    return [below, above]


def plain(value: float) -> str:
    """A number without an exponent: 0.5, 200, 3 T."""
    if value < 1e4:
        return f"{value:.10g}"
    return f"{value:,.0f}" if value < 1e6 else with_prefix(value).replace(".0", "").strip()


def log_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two positive numbers, for a logarithmic axis."""
    for steps in _LOG_STEPS:
        exponents = range(-12, 22)
        inside = [
            step * 10.0**exponent for exponent in exponents for step in steps if low <= step * 10.0**exponent <= high
        ]
        if len(inside) > 3:
            return inside
    return [tick for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]


def log_axis(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers that do not collide."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def name_rows(axes: Axes, methods: Sequence[str], looks: dict[str, Look]) -> None:
    """Name the rows of a picture from the top, each with its marker."""
    axes.set_yticks(range(len(methods)), [short(method) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=14)
    axes.grid(visible=False, axis="y")
    beside = axes.get_yaxis_transform() + ScaledTranslation(-8 / 72, 0, axes.figure.dpi_scale_trans)
    for at, method in enumerate(methods):
        axes.plot([0], [at], transform=beside, clip_on=False, markersize=5, linestyle="none", **looks[method].options())
