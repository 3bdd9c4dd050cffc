"""Pictures of costs from profiles: latency by length, parts of a training step."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from adapeff.cli.render.pictures.style import legend_below, nothing, panels, style_of
from adapeff.cli.render.profiles import profile_title
from adapeff.cli.render.text import printable
from adapeff.service.reporting.profiles import ProfileTable
from adapeff.service.reporting.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTS = {"forward": "#0072B2", "backward": "#E69F00", "optimizer": "#999999"}


def _all_rows(report: Report) -> set[str]:
    return {row.label for profile in report.profiles for row in (*profile.training, *profile.latency)}


def draw_latency(report: Report) -> Figure:
    """The paired ratio of a forward pass by length, a panel per profile and batch.

    Raises:
        SpecError: if no profile measured latency.
    """
    cells = [(profile, batch) for profile in report.profiles for batch in _batches(profile)]
    if not cells:
        raise nothing("latency", "no profile of these methods has finished; see `adapeff profile`")
    styles = style_of(_all_rows(report))
    figure, axes = panels(len(cells))
    for axis, (profile, batch) in zip(axes, cells, strict=True):
        lengths = sorted(length for of_batch, length in _shapes(profile) if of_batch == batch)
        for at, row in enumerate(profile.latency):
            aside = 1 + 0.025 * (at - (len(profile.latency) - 1) / 2)  # beside each other, where they would overlap
            points = [
                (length, figure_of.value, figure_of.low, figure_of.high)
                for length in lengths
                if (figure_of := row.figures.get(f"{batch}x{length} ratio")) is not None and figure_of.value is not None
            ]
            spread = [
                [value - (low if low is not None else value) for _, value, low, _ in points],
                [(high if high is not None else value) - value for _, value, _, high in points],
            ]
            axis.errorbar(
                [length * aside for length, *_ in points], [value for _, value, *_ in points], yerr=spread,
                label=row.label, linewidth=1, markersize=4, capsize=2, **styles[row.label],
            )  # fmt: skip
        axis.axhline(1, color="black", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.minorticks_off()
        axis.set_xlabel(f"tokens, batch {batch}")
        axis.set_ylabel(f"forward pass, x {profile.reference} (paired)")
        axis.set_title("\n".join(textwrap.wrap(printable(profile_title(profile)), 52)))
    legend_below(figure, 4)
    return figure


def _shapes(profile: ProfileTable) -> list[tuple[int, int]]:
    columns = [column for column in profile.latency_columns if not column.endswith(" ratio")]
    return [(int(column.partition("x")[0]), int(column.partition("x")[2])) for column in columns]


def _batches(profile: ProfileTable) -> list[int]:
    return sorted({batch for batch, _ in _shapes(profile)})


def draw_steps(report: Report) -> Figure:
    """What a training step consists of: forward, backward, optimizer, stacked, a panel per profile.

    Raises:
        SpecError: if there is no profile.
    """
    profiles = [profile for profile in report.profiles if profile.training]
    if not profiles:
        raise nothing("steps", "no profile of these methods has finished; see `adapeff profile`")
    most = max(len(profile.training) for profile in profiles)
    figure, axes = panels(len(profiles), height=1.6 + 0.32 * most)
    for axis, profile in zip(axes, profiles, strict=True):
        rows = list(reversed(profile.training))
        left = [0.0] * len(rows)
        for part, colour in _PARTS.items():
            widths = [1000 * (row.figures[part].value or 0.0) if part in row.figures else 0.0 for row in rows]
            axis.barh([row.label for row in rows], widths, left=left, label=part, color=colour)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axis.set_xlabel("median time of a step, ms")
        axis.set_title("\n".join(textwrap.wrap(printable(profile_title(profile)), 52)))
    legend_below(figure, 3)
    return figure
