"""A profile's paired ratios, relative to another of its methods than the one it was measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapeff.service.reporting.profiles import Figure, ProfileRow, ProfileTable
from adapeff.service.statistics.ratios import quotient_of_ratios

_ONE = Figure(1.0, "x", 1.0, 1.0)


def relative_to(profile: ProfileTable, reference: str) -> ProfileTable | None:
    """The profile with every ratio divided by that of `reference`; None if it has no such method.

    All ratios are to the profile's own reference, so the interval of a quotient has the uncertainty of both.
    """
    if reference == profile.reference:
        return profile
    training, latency = (_rows(rows, profile.reference, reference) for rows in (profile.training, profile.latency))
    return replace(profile, reference=reference, training=training, latency=latency) if training else None


def _rows(rows: Sequence[ProfileRow], measured_against: str, reference: str) -> tuple[ProfileRow, ...]:
    """The rows relative to the reference; none if it is not among them."""
    base = next((row for row in rows if row.label == reference), None)
    return tuple(_divided(row, base.figures, measured_against, reference) for row in rows) if base else ()


def _divided(row: ProfileRow, by: Mapping[str, Figure], measured_against: str, reference: str) -> ProfileRow:
    absolute = {column: figure for column, figure in row.figures.items() if not column.endswith(" ratio")}
    ratios = {}
    for column, divisor in by.items():
        own = _ONE if row.label == measured_against else row.figures.get(column)
        if column.endswith(" ratio") and own is not None:
            ratios[column] = _ONE if row.label == reference else _quotient(own, divisor)
    return replace(row, figures=absolute | {column: ratio for column, ratio in ratios.items() if ratio is not None})


def _quotient(figure: Figure, by: Figure) -> Figure | None:
    ratios = [(each.value, each.low, each.high) for each in (figure, by)]
    known = [(value, low, high) for value, low, high in ratios if value and low and high]
    if len(known) < 2:
        return None
    value, low, high = quotient_of_ratios(*known)
    return Figure(value, "x", low, high)
