"""Durations and progress in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def duration(seconds: float | None) -> str:
    """A duration in the unit that suits it; empty if it is unknown."""
    if seconds is None:
        return ""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def stage_in_words(stage: str | None, progress: Mapping[str, Any] | None) -> str:
    """How far a run is, with the seconds that are left of its stage."""
    at = progress or {}
    quiet = f", no news for {duration(at['quiet_s'])}" if "quiet_s" in at else ""
    if "block" in at:
        return f"{at['of']}, block {at['block']}/{at['blocks']}, {at['eta_s']:.0f} s{quiet}"
    steps = f" step {at['step']}/{at['steps']}, {at['eta_s']:.0f} s" if stage == "train" and "step" in at else ""
    return f"{stage or 'starting'}{steps}{quiet}"
