"""Labels beside points that touch neither each other nor a marker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_RADII = (7, 11, 16, 23, 32, 44, 58, 75, 95, 120, 150, 185, 225, 270)
"""Distances to try between a point and its label, in points of 1/72 inch."""
_DIRECTIONS = 16
_NEAR = 16
"""Labels further away get a line to their point."""
_MARKER = 4.5


def place_labels(axes: Axes, points: Sequence[tuple[float, float, str]], bars: Sequence[Bbox] = ()) -> list[str]:
    """Write a label beside each point; call it after the layout is settled.

    Args:
        points: x, y and text.
        bars: what labels should rather not cover, in pixels.

    Returns:
        The texts that found no place.
    """
    scale = axes.figure.dpi / 72
    middles = [tuple(axes.transData.transform((x, y))) for x, y, _ in points]
    reach = _MARKER * scale
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in middles]
    left_over = []
    for at in sorted(range(len(points)), key=lambda at: middles[at]):
        x, y, text = points[at]
        label = axes.annotate(
            text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=7.5, va="center", ha="center"
        )
        label.set_in_layout(False)
        box = label.get_window_extent()
        offset = _free_offset(box, axes.bbox, taken, bars, scale) or _free_offset(box, axes.bbox, taken, (), scale)
        if offset is None:
            label.remove()
            left_over.append(text)
            continue
        taken.append(box.translated(offset[0] * scale, offset[1] * scale).padded(1))
        _move(label, offset, box.width / scale)
    return left_over


def _free_offset(
    box: Bbox, frame: Bbox, taken: Sequence[Bbox], bars: Sequence[Bbox], scale: float
) -> tuple[float, float] | None:
    """The nearest offset in points at which a box is free."""
    for dx, dy in _offsets(box.width / scale, box.height / scale):
        moved = box.translated(dx * scale, dy * scale).padded(1)
        inside = frame.x0 <= moved.x0 and moved.x1 <= frame.x1 and frame.y0 <= moved.y0 and moved.y1 <= frame.y1
        if inside and not moved.count_overlaps([*taken, *bars]):
            return dx, dy
    return None


def _offsets(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Offsets of a box's middle, such that its nearest edge lies at each of the distances."""
    for radius in _RADII:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            yield across * (radius + width / 2), up * (radius + height / 2)


def _move(label: Annotation, offset: tuple[float, float], width: float) -> None:
    label.set_position(offset)
    edge = max(0.0, abs(offset[0]) - width / 2)
    axes: Any = label.axes
    if math.hypot(edge, offset[1]) > _NEAR:
        axes.annotate(
            "", label.xy, xytext=offset, textcoords="offset points", zorder=1,
            arrowprops={"arrowstyle": "-", "color": label.get_color(), "linewidth": 0.5, "shrinkB": 3, "shrinkA": 5},
        ).set_in_layout(False)  # fmt: skip


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved apart to at least `gap`, in the same order, as little as a pass up and a pass down allow."""
    order = sorted(range(len(places)), key=lambda at: places[at])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    ceiling = high
    for at in reversed(order):
        moved[at] = max(low, min(moved[at], ceiling))
        ceiling = moved[at] - gap
    return moved
