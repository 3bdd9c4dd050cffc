"""The panels of each picture of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from adapeff.service.reporting import picture_data as data
from adapeff.service.reporting import picture_data_profiles as profiles
from adapeff.service.reporting.report import Report

PANELS: Mapping[str, Callable[[Report], Sequence[data.Panel]]] = {
    "pareto": data.pareto_panels,
    "forest": data.forest_panels,
    "curves": data.curves_panels,
    "languages": data.languages_panels,
    "latency": profiles.latency_panels,
    "steps": profiles.steps_panels,
    "critical-difference": data.ranks_panels,
}
"""Picture -> what gives its panels; none if there is nothing to draw."""
