"""Scores by test example, for paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from sqlalchemy.orm import Session

from adapeff.service.reporting.runs import Result


def example_scores_of(session: Session, results: Sequence[Result]) -> dict[tuple[int, str], numpy.ndarray]:
    """(Run id, language) -> one number per test example whose mean is the run's score."""
    return {}
