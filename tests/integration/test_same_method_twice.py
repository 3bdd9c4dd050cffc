"""A/A: one method under two names must not be told apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy
import pytest

from adapeff.service.reporting.decision import decide
from adapeff.service.reporting.report import build_report
from adapeff.service.reporting.table import Table
from adapeff.service.statistics.summaries import summarise
from adapeff.service.store.database import Database, upgrade
from tests.integration.test_report import store

SWEEPS, EXAMPLES = 100, 500


@pytest.fixture(scope="module", params=[3, 5], ids="{} seeds".format)
def table(request: pytest.FixtureRequest) -> Table:
    """Two methods with so many seeds each; their scores are replaced."""
    database = Database("sqlite://")
    upgrade(database)
    for method in ("full", "lora"):
        for seed in range(request.param):
            store(database, method, seed, 0.8, 100)
    with database.session(read_only=True) as session:
        (found,) = build_report(session).tables
    database.close()
    return found


def simulate(table: Table, random: numpy.random.Generator) -> tuple[Table, dict[int, numpy.ndarray]]:
    """The same table after a sweep in which all names stand for one method, and the scores by example of its runs.

    A run answers an example with a probability that depends on the example's difficulty and on the seed's luck.
    """
    difficulty = random.normal(1.5, 2.0, EXAMPLES)
    answers = {
        run_id: (random.random(EXAMPLES) < 1 / (1 + numpy.exp(-difficulty - random.normal(0, 0.2)))).astype(float)
        for row in table.rows
        for run_id in row.run_ids
    }
    rows = []
    for row in table.rows:
        scores = summarise([float(answers[run_id].mean()) for run_id in row.run_ids])
        rows.append(replace(row, cells=row.cells | {"quality": replace(row.cells["quality"], summary=scores)}))
    return replace(table, rows=tuple(rows)), answers


@pytest.mark.parametrize("by_example", [True, False], ids=["examples", "seeds alone"])
def test_one_method_under_two_names_is_no_different_in_95_of_100_sweeps(table: Table, *, by_example: bool) -> None:
    random = numpy.random.default_rng(20260114)
    kinds: Counter[str] = Counter()
    for _ in range(SWEEPS):
        simulated, answers = simulate(table, random)
        decision = decide(simulated, (), answers.get if by_example else lambda run_id: None)
        found = {line.verdict.kind for line in decision.lines}
        kinds["told apart" if found & {"better", "worse"} else "no difference"] += 1

    assert kinds["no difference"] >= 95, kinds
