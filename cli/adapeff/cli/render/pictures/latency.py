"""Latency over the length: times, and paired ratios to the reference."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from adapeff.cli.render.pictures.inline import INK
from adapeff.cli.render.pictures.sheet import Sheet, add_legend, new_sheet
from adapeff.cli.render.pictures.style import Look, bars_of, log_axis
from adapeff.service.reporting.picture_data_profiles import LatencyPanel

_SPREAD = 0.6
"""How much of the distance between two lengths the methods take, side by side."""


def draw(heading: str, panels: Sequence[LatencyPanel], looks: dict[str, Look]) -> Sheet:
    """Panels per batch size; inference variants have hollow markers and dashed lines."""
    sheet = new_sheet(heading, panels, looks, width=5.4, heights=[3.7] * len(panels), columns=2)
    shown = list(zip(sheet.axes, panels, strict=False))
    for axes, panel in shown:
        _draw_lines(sheet, axes, panel)
    lines = [line for _, panel in shown for line in panel.lines]
    variants = ", ".join(sorted({line.variant for line in lines if line.variant}))
    hollow = Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle="--")
    add_legend(sheet, {line.method for line in lines}, others={variants: hollow} if variants else None)
    return sheet


def _draw_lines(sheet: Sheet, axes: Axes, panel: LatencyPanel) -> None:
    lengths = sorted({length for line in panel.lines for length, _ in line.points})
    for at, line in enumerate(panel.lines):
        beside = _SPREAD * ((at + 0.5) / len(panel.lines) - 0.5)
        estimates = [estimate for _, estimate in line.points]
        drawn = axes.errorbar(
            [lengths.index(length) + beside for length, _ in line.points],
            [estimate.value for estimate in estimates],
            yerr=bars_of(estimates), elinewidth=0.8, linewidth=0.9, markersize=4.5,
            linestyle="--" if line.variant else "-", markerfacecolor="none" if line.variant else None,
            **sheet.looks[line.method].options(),
        )  # fmt: skip
        words = ", ".join(f"{estimate.value:.3g} at {length}" for length, estimate in line.points)
        sheet.tip(drawn.lines[0], f"{line.method} {line.variant}".strip() + f": {words}")
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_xlim(-0.6, len(lengths) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("tokens")
    if panel.is_ratio:
        axes.axhline(1, color=INK, linewidth=1)
        axes.set_ylabel(panel.label)
    else:
        log_axis(axes.yaxis)
        axes.set_ylabel(f"{panel.label}, log")
