"""Format numbers for people, by the display unit of their definition."""

from __future__ import annotations

from adapeff.service.measured import Display

_PREFIXES = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6))


def stored_unit(display: str) -> str:
    """The unit of a number as stored, by its display unit: shares, counts and ratios have unit 1."""
    return "1" if display in ("%", "params", "FLOPs") else display


def format_value(value: float, display: Display) -> str:
    """Format a number in its unit: shares in percent, bytes in KiB to GiB (steps of 2^10), times below 1 s in ms."""
    if display == "%":
        return f"{value * 100:.1f}"
    if display == "params":
        return f"{value:,.0f}"
    if display == "B":
        for step, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= step:
                return f"{value / step:.1f} {name}"
        return f"{value:.0f} B"
    if display == "FLOPs":
        letter, scale = next(((prefix, step) for prefix, step in _PREFIXES[:-1] if value >= step), ("", 1.0))
        return f"{value / scale:.2f} {letter}".strip()
    if display == "s":
        if value < 0.01:
            return f"{value * 1000:.2f} ms"
        if value < 1:
            return f"{value * 1000:.1f} ms"
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:.3g}"


def ratio_text(value: float) -> str:
    """A ratio to the reference: `0.62x`, or `<0.005x`."""
    return "<0.005x" if 0 < value < 0.005 else f"{value:.2f}x"


def with_prefix(value: float | None) -> str:
    """Format a rate or count with a decimal prefix, ready for its unit: `3.1 T`; `? ` if unknown."""
    if value is None:
        return "? "
    for letter, step in _PREFIXES[1:]:
        if value >= step:
            return f"{value / step:.1f} {letter}"
    return f"{value:.0f} "
