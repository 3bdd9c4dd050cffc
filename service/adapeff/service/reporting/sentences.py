"""The one or two sentences below a first screen: only what the data support."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from adapeff.service.reporting.numbers import ratio_text
from adapeff.service.reporting.table import Table
from adapeff.service.reporting.verdicts import loss_words, margin_words

if TYPE_CHECKING:
    from adapeff.service.reporting.decision import Line


def sentences_on(lines: Sequence[Line], table: Table, margin: float) -> Iterator[str]:
    """Which methods hold the reference's quality, what else to do if none does, and what is open."""
    if not table.has_reference:
        yield f"Nothing to compare with: there is no single {table.reference} among these runs."
        return
    if len(lines) == 1:
        yield f"Only {table.reference} has finished so far."
        return
    holding = [line for line in lines if line.verdict.kind in ("better", "within")]
    within = margin_words(table, margin)
    if holding:
        parts = []
        for kind, one, several in (
            ("better", f"is better than {table.reference}", f"are better than {table.reference}"),
            (
                "within",
                f"holds {table.reference}'s quality within {within}",
                f"hold {table.reference}'s quality within {within}",
            ),
        ):
            of_kind = [line for line in holding if line.verdict.kind == kind]
            if of_kind:
                parts.append(f"{_names([line.method for line in of_kind])} {_verb(of_kind, one, several)}")
        yield f"{'; '.join(parts)}{_cheapest(holding, table)}."
    else:
        yield f"No method is shown to hold {table.reference}'s quality within {within}{_least_loss(lines, table)}."
    rest = list(_rest(lines))
    if rest:
        yield f"{'; '.join(rest)}."


def _rest(lines: Sequence[Line]) -> Iterator[str]:
    worse = [line.method for line in lines if line.verdict.kind == "worse"]
    undecided = [line for line in lines if line.verdict.kind == "undecided"]
    if worse:
        yield f"{_names(worse)} {_verb(worse, 'is', 'are')} clearly below"
    if undecided:
        why = " (too few seeds)" if all(line.difference is not None for line in undecided) else ""
        yield f"{_names([line.method for line in undecided])} {_verb(undecided, 'is', 'are')} undecided{why}"


def _least_loss(lines: Sequence[Line], table: Table) -> str:
    """The loss that one has to accept to leave the reference: the smallest that is shown not to be exceeded.

    Where a method's mean is at least the reference's, the scores give no reason to keep the reference.
    """
    higher = [
        line.method
        for line in lines
        if line.verdict.kind == "undecided" and line.difference is not None and line.difference.value >= 0
    ]
    if higher:
        score = _verb(higher, "scores", "score")
        return f": {_names(higher)} {score} as high on average, and more seeds may show it"
    bounds = [
        (bound, line.method)
        for line in lines
        if line.difference is not None
        and line.difference.seeds > 1
        and (bound := line.difference.lower_bound()) is not None
    ]
    if not bounds:
        return ""
    bound, method = max(bounds)
    loss = f"{loss_words(table, -bound)} ({method}, one-sided bound)"
    return f": keep {table.reference} unless you accept losing up to {loss}"


def _cheapest(holding: Sequence[Line], table: Table) -> str:
    """Which of the methods has the fastest training step, where paired profiles say so."""
    paired = [(line, line.costs["train"]) for line in holding if line.costs["train"].ratio is not None]
    if not paired:
        return ""
    best, cost = min(paired, key=lambda found: found[1].ratio or 0.0)
    tied = [line for line, other in paired if line is not best and (other.low or 0) <= (cost.high or 0)]
    takes = f"{ratio_text(cost.ratio or 0.0)} {table.reference}'s time"
    if not cost.is_lower:
        return ""
    if tied:
        names = _names([best.method, *(line.method for line in tied)])
        return f"; the training steps of {names} are the fastest ({takes})"
    return f"; a training step of {best.method} takes {takes}" + (", the least of them" if len(paired) > 1 else "")


def _names(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _verb(subjects: Sequence[object], one: str, several: str) -> str:
    return one if len(subjects) == 1 else several
