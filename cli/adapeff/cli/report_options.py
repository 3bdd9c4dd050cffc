"""Options of reports that several commands share."""

from __future__ import annotations

from adapeff.service.errors import SpecError
from adapeff.service.reporting.columns import Price
from adapeff.service.settings import Settings


def price_of(settings: Settings) -> Price | None:
    """The price of a device per hour, if one is set."""
    if settings.price_per_device_hour is None:
        return None
    return Price(settings.price_per_device_hour, settings.currency)


def read_margin(text: str | None) -> float | None:
    """A margin in the stored unit of the metric: `1pt` is 0.01.

    Raises:
        SpecError: if it is not a positive number.
    """
    if text is None:
        return None
    is_points = text.endswith(("pt", "pts"))
    try:
        value = float(text.removesuffix("s").removesuffix("pt"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SpecError(f"--margin is '{text}'; expected points such as 1pt, or a positive value such as 0.01")
    return value / 100 if is_points else value
