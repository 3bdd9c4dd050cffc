"""The pictures of a report by name: what each shows, and why it may be empty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adapeff.service.reporting import picture_data as data
from adapeff.service.reporting import picture_data_profiles as profiles
from adapeff.service.reporting.report import Report


@dataclass(frozen=True)
class Picture:
    """A picture by name."""

    summary: str
    """Its heading."""
    panels: Callable[[Report], Sequence[data.Panel]]
    needs: str
    """Why there is nothing to draw if there are no panels, and what to do."""


PICTURES: Mapping[str, Picture] = {
    "pareto": Picture(
        "Quality against training cost",
        data.pareto_panels,
        "no finished job has a score and a training cost; see `adapeff status`",
    ),
    "forest": Picture(
        "Differences to the reference",
        data.forest_panels,
        "no method has a difference to a reference; that takes a seed in common with it",
    ),
    "curves": Picture("Validation score against cost", data.curves_panels, "no run has a validation curve"),
    "languages": Picture(
        "Scores by language",
        data.languages_panels,
        "no task was tested in several languages; set test_languages in the sweep",
    ),
    "latency": Picture(
        "Latency by length",
        profiles.latency_panels,
        "no profile and no run measured latency; see `adapeff profile`",
    ),
    "steps": Picture(
        "Parts of a training step",
        profiles.steps_panels,
        "no profile of these methods has finished; see `adapeff profile`",
    ),
    "critical-difference": Picture(
        "Mean ranks over tasks", data.ranks_panels, "no model has finished two tasks with the same methods"
    ),
}

DEFAULT_PICTURE = "pareto"
