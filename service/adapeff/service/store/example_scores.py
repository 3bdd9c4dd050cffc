"""Read back the scores by test example that runs stored."""

from __future__ import annotations

from collections.abc import Iterable

import numpy
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapeff.service.statistics.packing import unpack
from adapeff.service.store.in_list import is_one_of
from adapeff.service.store.tables import ExampleScores


def load_example_scores(
    session: Session, run_ids: Iterable[int], *, task: str = ""
) -> dict[tuple[int, str], numpy.ndarray]:
    """(Run id, language) -> one score per test example, in the data's order.

    Args:
        task: the member of a mixture that the examples are of; '' for the whole job.
    """
    wanted = select(ExampleScores.run_id, ExampleScores.language, ExampleScores.packed).where(
        is_one_of(session, ExampleScores.run_id, run_ids), ExampleScores.task == task
    )
    return {
        (row.run_id, row.language): numpy.asarray(unpack(row.packed), dtype=numpy.float64)
        for row in session.execute(wanted)
    }


def runs_with_example_scores(session: Session, run_ids: Iterable[int]) -> set[int]:
    """The runs that stored scores by example, of the whole job or of a member."""
    wanted = select(ExampleScores.run_id).where(is_one_of(session, ExampleScores.run_id, run_ids)).distinct()
    return set(session.scalars(wanted))
