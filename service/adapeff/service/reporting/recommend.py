"""Which method to take: the limits it holds, and what it costs over its life.

A limit is held for sure, perhaps, or not, by intervals; a figure is only taken from a measurement of exactly what was
asked. Costs are device hours times the price: tuning and training once per planned task, serving per request. What was
not measured is said, with the command that measures it, and never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from adapeff.service.measurements import (
    PEAK_MEMORY_ALLOCATED,
    PEAK_MEMORY_PROCESS,
    STORED_BYTES,
    TRAIN_COMPUTE_S,
    TUNING_COMPUTE_S,
)
from adapeff.service.reporting.decision import Decision, Line, evidence_words, margin_words
from adapeff.service.reporting.first_screen import screen_title
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, signed_text, words
from adapeff.service.reporting.numbers import format_value
from adapeff.service.statistics.equivalence import is_non_inferior

State = Literal["holds", "perhaps", "fails", "not measured"]
Standing = Literal["for sure", "perhaps", "not"]
_RANK: dict[Standing, int] = {"for sure": 0, "perhaps": 1, "not": 2}


@dataclass(frozen=True)
class Limits:
    """What a method must hold."""

    min_quality: float | None = None
    """Share of the reference's score; None: the decision's margin."""
    max_latency_s: float | None = None
    shape: str = ""
    """Batch x tokens of the latency, also of serving."""
    max_memory_bytes: float | None = None
    """Peak memory of training."""


@dataclass(frozen=True)
class Life:
    """What the method will be used for."""

    tasks: int = 1
    requests_per_month: float | None = None
    months: float = 12.0
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Check:
    """One limit on one method."""

    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Term:
    """A part of the cost over the life: device hours, or why they are unknown."""

    name: str
    hours: float | None
    text: str


@dataclass(frozen=True)
class Choice:
    """A method with its checks and costs."""

    line: Line
    standing: Standing
    checks: tuple[Check, ...]
    terms: tuple[Term, ...]
    stored_bytes: float | None
    """For all planned tasks, without the base model."""

    @property
    def hours(self) -> float | None:
        """Device hours over the life; None if a part of them was not measured."""
        hours = [term.hours for term in self.terms]
        return None if None in hours else math.fsum(hour for hour in hours if hour is not None)


@dataclass(frozen=True)
class Recommendation:
    """The methods of one model and task, best first."""

    decision: Decision
    life: Life
    choices: tuple[Choice, ...]
    sentence: str
    missing: tuple[str, ...]
    """Commands that would measure what is missing."""


def recommend(decision: Decision, limits: Limits, life: Life) -> Recommendation:
    """Rank the methods by whether they hold the limits, then by device hours over the life."""
    choices = [_choice(decision, line, limits, life) for line in decision.lines]
    ranked = tuple(sorted(choices, key=lambda choice: (_RANK[choice.standing], _hours_or_last(choice))))
    return Recommendation(decision, life, ranked, _sentence(ranked), tuple(_missing(decision, ranked, limits)))


def _hours_or_last(choice: Choice) -> float:
    return math.inf if choice.hours is None else choice.hours


def _choice(decision: Decision, line: Line, limits: Limits, life: Life) -> Choice:
    checks = tuple(_checks(decision, line, limits))
    states = {check.state for check in checks}
    standing: Standing = "not" if "fails" in states else "for sure" if states <= {"holds"} else "perhaps"
    stored = line.row.cells[STORED_BYTES.name].summary
    return Choice(
        line,
        standing,
        checks,
        tuple(_terms(decision, line, limits, life)),
        None if stored is None else stored.mean * life.tasks,
    )


def _checks(decision: Decision, line: Line, limits: Limits) -> Iterator[Check]:
    yield _quality(decision, line, limits)
    if limits.max_latency_s is not None:
        yield _within("latency", _latency(decision, line, limits.shape), limits.max_latency_s, "s")
    if limits.max_memory_bytes is not None:
        yield _within("memory", _memory(line), limits.max_memory_bytes, "B")


def _quality(decision: Decision, line: Line, limits: Limits) -> Check:
    table, found = decision.table, line.difference
    if line.method == line.row.reference:
        return Check("quality", "holds", "the reference")
    if line.quality is None or found is None:
        return Check("quality", "not measured", line.verdict.text)
    margin = decision.margin
    if limits.min_quality is not None:
        margin = (1 - limits.min_quality) * abs(line.quality.mean - found.value)
    amount = signed_text(found.value, table.metric.unit, found.low, found.high)
    text = f"{amount}, margin {margin_words(table, margin)}, {evidence_words(found)}"
    if is_non_inferior(found, margin):
        return Check("quality", "holds", text)
    return Check("quality", "fails" if found.high is not None and found.high < -margin else "perhaps", text)


@dataclass(frozen=True)
class _Measured:
    """A figure with its range, and whether to doubt it."""

    low: float
    high: float
    is_doubtful: bool
    source: str


def _within(name: str, found: _Measured | None, limit: float, display: Literal["s", "B"]) -> Check:
    if found is None:
        return Check(name, "not measured", "not measured at this shape" if name == "latency" else "not measured")
    low, high = (format_value(bound, display) for bound in (found.low, found.high))
    text = f"{low} to {high}" if low != high else low
    if found.is_doubtful:
        return Check(name, "perhaps", f"{text}, disturbed ({found.source})")
    state: State = "holds" if found.high <= limit else "fails" if found.low > limit else "perhaps"
    return Check(name, state, f"{text} ({found.source})")


def _latency(decision: Decision, line: Line, shape: str) -> _Measured | None:
    """Seconds of a forward pass at exactly this shape, from the profile or else from the method's own runs."""
    if decision.pairing is not None:
        row = next((row for row in decision.pairing.profile.latency if row.label == str(line.row.plugin)), None)
        figure = row.figures.get(shape) if row else None
        if figure is not None and figure.value is not None:
            low, high = figure.low or figure.value, figure.high or figure.value
            source = f"profile job {decision.pairing.profile.job_id}"
            return _Measured(low, high, bool(figure.problems), source)
    column = next((c for c in decision.table.columns if c.heading == f"latency {shape} p50"), None)
    cell = line.row.cells[column.key] if column else None
    if cell is None or cell.summary is None:
        return None
    return _Measured(min(cell.summary.values), max(cell.summary.values), bool(cell.doubt), "its runs")


def _memory(line: Line) -> _Measured | None:
    for name in (PEAK_MEMORY_ALLOCATED.name, PEAK_MEMORY_PROCESS.name):
        cell = line.row.cells.get(name)
        if cell is not None and cell.summary is not None:
            return _Measured(min(cell.summary.values), max(cell.summary.values), is_doubtful=False, source="its runs")
    return None


def _terms(decision: Decision, line: Line, limits: Limits, life: Life) -> Iterator[Term]:
    """Device hours of tuning, training and serving."""
    for name, key in (("tune", TUNING_COMPUTE_S.name), ("train", TRAIN_COMPUTE_S.name)):
        cell = line.row.cells.get(key)
        if cell is not None and (cell.summary is not None or name == "train"):
            yield _once_per_task(name, cell.summary.mean if cell.summary else None, bool(cell.doubt), life)
    if life.requests_per_month is None:
        return
    latency = _latency(decision, line, limits.shape)
    if latency is None:
        yield Term("serve", None, f"not measured at {limits.shape}" if limits.shape else "no shape given")
        return
    batch = int(limits.shape.partition("x")[0])
    requests = life.requests_per_month * life.months
    hours = requests * (latency.low + latency.high) / 2 / batch / 3600
    yield Term("serve", hours, f"{hours:.2f} h{' !' if latency.is_doubtful else ''}")


def _once_per_task(name: str, seconds: float | None, is_doubtful: bool, life: Life) -> Term:
    if seconds is None:
        return Term(name, None, "not measured")
    hours = seconds * life.tasks / 3600
    return Term(name, hours, f"{hours:.2f} h{' !' if is_doubtful else ''}")


def _sentence(choices: Sequence[Choice]) -> str:
    sure = [choice for choice in choices if choice.standing == "for sure"]
    perhaps = [choice for choice in choices if choice.standing == "perhaps"]
    if sure and sure[0].hours is not None:
        hours = sure[0].hours
        return f"{sure[0].line.method} holds the limits for sure at the least cost ({hours:.2f} device hours)."
    if sure:
        names = ", ".join(choice.line.method for choice in sure)
        return f"Hold the limits for sure, at a cost that was not measured completely: {names}."
    if perhaps:
        names = ", ".join(choice.line.method for choice in perhaps)
        return f"No method holds the limits for sure. Perhaps: {names}; more seeds or measurements would tell."
    return "No method holds the limits."


def _missing(decision: Decision, choices: Sequence[Choice], limits: Limits) -> Iterator[str]:
    """The command that measures the latency at a shape that nothing has measured."""
    unmeasured = [
        choice.line
        for choice in choices
        if any(check.state == "not measured" and check.name == "latency" for check in choice.checks)
        or any(term.name == "serve" and term.hours is None for term in choice.terms)
    ]
    if unmeasured and limits.shape:
        methods = ",".join(str(line.row.plugin) for line in unmeasured if line.method != line.row.reference)
        batch, _, length = limits.shape.partition("x")
        yield (
            f"adapeff profile --model {decision.table.model} --method '{methods or decision.table.reference}' "
            f"-s latency_batches={batch} -s latency_lengths={length}"
        )


def recommendation_grid(found: Recommendation) -> Grid:
    """A line per method, best first."""
    names = list(dict.fromkeys(check.name for choice in found.choices for check in choice.checks))
    terms = list(dict.fromkeys(term.name for choice in found.choices for term in choice.terms))
    price = found.life.price_per_hour
    headings = (
        Heading("method", "method"),
        Heading("holds the limits", "standing"),
        *(Heading(name, name) for name in names),
        *(Heading(name, name) for name in terms),
        Heading("device hours", "hours"),
        *((Heading("cost", "cost"),) if price is not None else ()),
        Heading(f"stored, {found.life.tasks} task{'s' if found.life.tasks > 1 else ''}", "stored"),
    )
    rows = tuple(
        (
            words(choice.line.method),
            words(choice.standing),
            *(_check_cell(choice, name) for name in names),
            *(_term_cell(choice, name) for name in terms),
            MISSING if choice.hours is None else Value(f"{choice.hours:.2f} h", choice.hours, unit="h"),
            *(() if price is None else (_price(choice.hours, price),)),
            number(choice.stored_bytes, "B"),
        )
        for choice in found.choices
    )
    table = found.decision.table
    notes = (found.sentence, *(f"To measure what is missing: {command}" for command in found.missing))
    return Grid(
        f"recommendation · {screen_title(table)}", headings, rows, notes, (("model", table.model), ("task", table.task))
    )


def _check_cell(choice: Choice, name: str) -> Value:
    check = next((check for check in choice.checks if check.name == name), None)
    return MISSING if check is None else words(f"{check.state}: {check.text}")


def _term_cell(choice: Choice, name: str) -> Value:
    term = next((term for term in choice.terms if term.name == name), None)
    return MISSING if term is None else Value(term.text, term.hours, unit="h" if term.hours is not None else "")


def _price(hours: float | None, price: float) -> Value:
    return MISSING if hours is None else Value(f"{hours * price:.2f}", hours * price)
