"""The pictures of a report by name: what each shows, and why it may be empty. It must load quickly, for Tab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_PICTURE = "pareto"


@dataclass(frozen=True)
class Picture:
    """A picture by name."""

    summary: str
    """Its heading."""
    needs: str
    """Why there is nothing to draw if there are no panels, and what to do."""


PICTURES: Mapping[str, Picture] = {
    "pareto": Picture(
        "Quality against training cost",
        "no finished job has a score and a training cost; see `adapeff status`",
    ),
    "forest": Picture(
        "Differences to the reference",
        "no method has a difference to a reference; that takes a seed in common with it",
    ),
    "curves": Picture("Validation score against cost", "no run has a validation curve"),
    "languages": Picture(
        "Scores by language", "no task was tested in several languages; set test_languages in the sweep"
    ),
    "latency": Picture("Latency by length", "no profile and no run measured latency; see `adapeff profile`"),
    "steps": Picture("Parts of a training step", "no profile of these methods has finished; see `adapeff profile`"),
    "critical-difference": Picture("Mean ranks over tasks", "no model has finished two tasks with the same methods"),
}
