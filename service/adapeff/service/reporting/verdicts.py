"""What the evidence says about one method, and the words for it.

A method is `better` or `worse` if the difference of its score to the reference's is significant (two-sided 5 %,
Holm-adjusted over the methods of the table), and `within` the margin if the one-sided 95 % bound of the difference is
above minus the margin (non-inferiority). Everything else is `undecided`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.table import Row, Table
from adapeff.service.statistics.differences import Difference
from adapeff.service.statistics.equivalence import is_non_inferior
from adapeff.service.statistics.planning import MOST_SEEDS

SIGNIFICANT = 0.05

Kind = Literal["better", "reference", "within", "undecided", "worse", "alone"]


@dataclass(frozen=True)
class Verdict:
    """What the evidence says about a method, in a kind and in words."""

    kind: Kind
    text: str


def verdict_on(
    row: Row, difference: Difference | None, p: float | None, needed: int | None, table: Table, margin: float
) -> Verdict:
    """The verdict on a row.

    Args:
        p: of the difference, two-sided, Holm-adjusted.
        needed: the number of seeds that would decide it, as `seeds_to_decide` gives it.
    """
    if row.method == row.reference:
        return Verdict("reference", "reference")
    if row.cells["quality"].summary is None:
        return Verdict("undecided", f"no score: {row.cells['quality'].reason or 'not measured'}")
    if not row.reference:
        return Verdict("alone", f"no {table.reference} to compare with")
    if difference is None:
        return Verdict("undecided", f"undecided (no seed in common with {row.reference})")
    is_within, is_significant = is_non_inferior(difference, margin), p is not None and p < SIGNIFICANT
    if difference.seeds == 1:
        return Verdict("undecided", f"undecided (1 seed{_of_this_run(difference, is_within, is_significant)})")
    if is_significant:
        if difference.value > 0:
            return Verdict("better", f"better than {row.reference}")
        if not is_within:
            return Verdict("worse", f"clearly below {row.reference}")
    if is_within:
        return Verdict("within", f"within {margin_words(table, margin)} of {row.reference}")
    if needed is None:
        return Verdict("undecided", f"undecided ({evidence_words(difference)})")
    return Verdict("undecided", f"undecided (needs {needed_words(needed)} seeds)")


def _of_this_run(difference: Difference, is_within: bool | None, is_significant: bool) -> str:
    """What one seed says: about these two trained models, not about the methods."""
    if is_significant:
        return ", above" if difference.value > 0 else ", below"
    return ", within" if is_within else ""


def margin_words(table: Table, margin: float) -> str:
    """The margin in words: `1 point`, or a value in the metric's unit."""
    if table.metric.unit != "%":
        return format_value(margin, table.metric.unit)
    points = f"{100 * margin:.3g}"
    return f"{points} point{'' if points == '1' else 's'}"


def loss_words(table: Table, loss: float) -> str:
    """A bound of a loss in words, rounded up: `4.3 points`, or a value in the metric's unit."""
    if table.metric.unit != "%":
        return format_value(loss, table.metric.unit)
    return f"{math.ceil(1000 * loss) / 10:.1f} points"


def evidence_words(difference: Difference) -> str:
    """What a difference rests on: `2 seeds`."""
    return f"{difference.seeds} seed{'' if difference.seeds == 1 else 's'}"


def needed_words(seeds: int) -> str:
    """An estimated number of seeds: `≈8`, or `>20`."""
    return f">{MOST_SEEDS}" if seeds > MOST_SEEDS else f"≈{seeds}"
