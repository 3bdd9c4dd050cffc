"""Which method to take: the limits it holds, and what it costs over its life.

A limit is held for sure, perhaps, or not, by intervals; a figure is only taken from a measurement of exactly what was
asked. Costs are device hours times the price: tuning and training once per planned task, serving per request; and
storage per month. What was not measured is said, with the command that measures it, and never guessed.
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
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.grids import signed_text
from adapeff.service.reporting.numbers import format_value
from adapeff.service.reporting.pscp import SHAPE, Pscp, pscp_of
from adapeff.service.reporting.verdicts import evidence_words
from adapeff.service.statistics.equivalence import is_non_inferior
from adapeff.service.statistics.summaries import Summary

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
    """Of a device."""
    price_per_gib_month: float | None = None
    """Of storage."""


@dataclass(frozen=True)
class Check:
    """One limit on one method."""

    name: str
    state: State
    text: str
    """The figure and its interval, or why there is none."""
    source: str = ""
    """What measured it."""


@dataclass(frozen=True)
class Term:
    """A part of the cost over the life, in hours of the device; None if it was not measured."""

    name: Literal["tune", "train", "serve"]
    hours: float | None
    basis: str
    """What it is the product of, or why it is unknown."""
    low: float = 0.0
    high: float = 0.0
    """The hours' range: over the seeds, or of the latency's interval."""
    doubt: str = ""
    """Why its times are doubtful."""


@dataclass(frozen=True)
class Choice:
    """A method with its checks and costs."""

    line: Line
    standing: Standing
    checks: tuple[Check, ...]
    terms: tuple[Term, ...]
    stored_bytes: float | None
    """For all planned tasks, without the base model."""
    life: Life
    pscp: Pscp | None = None

    @property
    def hours(self) -> float | None:
        """Device hours over the life; None if a part of them was not measured."""
        hours = [term.hours for term in self.terms]
        return None if None in hours else math.fsum(hour for hour in hours if hour is not None)

    @property
    def low(self) -> float:
        """The least device hours that its measurements allow."""
        return math.fsum(term.low for term in self.terms)

    @property
    def high(self) -> float:
        """The most device hours that its measurements allow."""
        return math.fsum(term.high for term in self.terms)

    @property
    def storage_cost(self) -> float | None:
        """The price of the stored weights over the life."""
        if self.stored_bytes is None or self.life.price_per_gib_month is None:
            return None
        return self.stored_bytes / 2**30 * self.life.months * self.life.price_per_gib_month

    @property
    def cost(self) -> float | None:
        """The price of device and storage over the life; None without prices, or if a part was not measured."""
        if self.hours is None or self.life.price_per_hour is None:
            return None
        if self.life.price_per_gib_month is not None and self.storage_cost is None:
            return None
        return self.hours * self.life.price_per_hour + (self.storage_cost or 0.0)

    @property
    def jobs(self) -> tuple[int, ...]:
        """The training jobs it rests on."""
        return self.line.row.job_ids


@dataclass(frozen=True)
class Recommendation:
    """The methods of one model and task, best first."""

    decision: Decision
    limits: Limits
    life: Life
    margin: float
    """How far below the reference's score still holds the limit of quality, in the stored unit."""
    choices: tuple[Choice, ...]
    sentence: str
    missing: tuple[str, ...]
    """What was not measured, and the command that measures it."""


def recommend(decision: Decision, limits: Limits, life: Life, *, with_pscp: bool = False) -> Recommendation:
    """Rank the methods by whether they hold the limits, then by cost over the life (device hours without prices)."""
    margin = _margin(decision, limits)
    choices = [_choice(decision, line, limits, life, margin, with_pscp=with_pscp) for line in decision.lines]
    ranked = tuple(sorted(choices, key=lambda choice: (_RANK[choice.standing], *_cost_or_last(choice))))
    missing = tuple(_missing(decision, ranked, limits))
    return Recommendation(decision, limits, life, margin, ranked, _sentence(ranked), missing)


def _margin(decision: Decision, limits: Limits) -> float:
    reference = next((line.quality for line in decision.lines if line.verdict.kind == "reference"), None)
    if limits.min_quality is None or reference is None:
        return decision.margin
    return (1 - limits.min_quality) * abs(reference.mean)


def _cost_or_last(choice: Choice) -> tuple[float, float]:
    cost, hours = choice.cost, choice.hours
    return (math.inf if cost is None else cost, math.inf if hours is None else hours)


def _choice(decision: Decision, line: Line, limits: Limits, life: Life, margin: float, *, with_pscp: bool) -> Choice:
    checks = tuple(_checks(decision, line, limits, margin))
    states = {check.state for check in checks}
    standing: Standing = "not" if "fails" in states else "for sure" if states <= {"holds"} else "perhaps"
    stored = line.row.cells[STORED_BYTES.name].summary
    return Choice(
        line,
        standing,
        checks,
        tuple(_terms(decision, line, limits, life)),
        None if stored is None else stored.mean * life.tasks,
        life,
        pscp_of(decision, line) if with_pscp else None,
    )


def _checks(decision: Decision, line: Line, limits: Limits, margin: float) -> Iterator[Check]:
    yield _quality(decision, line, margin)
    if limits.max_latency_s is not None:
        yield _within("latency", _latency(decision, line, limits.shape), limits.max_latency_s, "s")
    if limits.max_memory_bytes is not None:
        yield _within("memory", _memory(line), limits.max_memory_bytes, "B")


def _quality(decision: Decision, line: Line, margin: float) -> Check:
    """One seed says nothing about the method, whatever its examples say about the run."""
    found = line.difference
    if line.verdict.kind == "reference":
        return Check("quality", "holds", "the reference")
    if line.quality is None or found is None:
        return Check("quality", "not measured", line.verdict.text)
    amount = signed_text(found.value, decision.table.metric.unit, found.low, found.high)
    text = f"{amount}, {evidence_words(found)}"
    source = f"{found.examples} examples" if found.examples else "scores by seed"
    if found.seeds == 1:
        return Check("quality", "perhaps", text, source)
    if is_non_inferior(found, margin):
        return Check("quality", "holds", text, source)
    is_below = found.high is not None and found.high < -margin
    return Check("quality", "fails" if is_below else "perhaps", text, source)


@dataclass(frozen=True)
class _Measured:
    """A figure with its range, and why to doubt it."""

    value: float
    low: float
    high: float
    doubt: str
    source: str


def _within(name: str, found: _Measured | None, limit: float, display: Literal["s", "B"]) -> Check:
    if found is None:
        return Check(name, "not measured", "")
    low, high = (format_value(bound, display) for bound in (found.low, found.high))
    text = f"{low} to {high}" if low != high else low
    if found.doubt:
        return Check(name, "perhaps", f"{text}, disturbed", found.source)
    state: State = "holds" if found.high <= limit else "fails" if found.low > limit else "perhaps"
    return Check(name, state, text, found.source)


def _latency(decision: Decision, line: Line, shape: str) -> _Measured | None:
    """Seconds of a forward pass at exactly this shape, from a profile or else from the method's own runs."""
    for profile in decision.profiles:
        row = next((row for row in profile.latency if row.label == str(line.row.plugin)), None)
        figure = row.figures.get(shape) if row else None
        if figure is not None and figure.value is not None:
            low = figure.value if figure.low is None else figure.low
            high = figure.value if figure.high is None else figure.high
            return _Measured(figure.value, low, high, figure.problems, f"profile job {profile.job_id}")
    column = next((c for c in decision.table.columns if c.heading == f"latency {shape} p50"), None)
    cell = line.row.cells[column.key] if column else None
    if cell is None or cell.summary is None:
        return None
    return _of_runs(cell.summary, cell.doubt, "its training jobs, unpaired")


def _memory(line: Line) -> _Measured | None:
    for name in (PEAK_MEMORY_ALLOCATED.name, PEAK_MEMORY_PROCESS.name):
        cell = line.row.cells.get(name)
        if cell is not None and cell.summary is not None:
            return _of_runs(cell.summary, "", "its training jobs")
    return None


def _of_runs(found: Summary, doubt: str, source: str) -> _Measured:
    """A figure of several runs with its 95 % interval; too few for one are doubtful."""
    if found.low is None or found.high is None:
        few = f"{found.n} run{'s' if found.n > 1 else ''}"
        return _Measured(found.mean, min(found.values), max(found.values), doubt or few, source)
    return _Measured(found.mean, max(0.0, found.low), found.high, doubt, source)


def _terms(decision: Decision, line: Line, limits: Limits, life: Life) -> Iterator[Term]:
    """Device hours of tuning, training and serving."""
    tuning, training = (line.row.cells.get(figure.name) for figure in (TUNING_COMPUTE_S, TRAIN_COMPUTE_S))
    if tuning is not None and tuning.summary is not None:
        yield _per_task("tune", tuning.summary, tuning.doubt, life, " of trials")
    if training is None or training.summary is None:
        yield Term("train", None, "not measured")
    else:
        yield _per_task("train", training.summary, training.doubt, life)
    if life.requests_per_month is not None:
        yield _serving(_latency(decision, line, limits.shape), limits.shape, life.requests_per_month * life.months)


def _per_task(name: Literal["tune", "train"], seconds: Summary, doubt: str, life: Life, of: str = "") -> Term:
    mean, low, high = (value * life.tasks / 3600 for value in (seconds.mean, min(seconds.values), max(seconds.values)))
    tasks = f"{life.tasks} task{'s' if life.tasks > 1 else ''}"
    return Term(name, mean, f"{tasks} x {format_value(seconds.mean, 's')}{of}", low, high, doubt)


def _serving(latency: _Measured | None, shape: str, requests: float) -> Term:
    if latency is None:
        return Term("serve", None, f"not measured at {shape}")
    count = requests / int(shape.partition("x")[0])
    hours, low, high = (count * seconds / 3600 for seconds in (latency.value, latency.low, latency.high))
    basis = f"{count:.3g} passes x {format_value(latency.value, 's')} at {shape} ({latency.source})"
    return Term("serve", hours, basis, low, high, latency.doubt)


def _sentence(choices: Sequence[Choice]) -> str:
    sure = [choice for choice in choices if choice.standing == "for sure"]
    perhaps = ", ".join(choice.line.method for choice in choices if choice.standing == "perhaps")
    if not sure and not perhaps:
        return "No method holds the limits."
    if not sure:
        return f"No method holds the limits for sure. Perhaps: {perhaps}; more seeds or measurements would tell."
    rest = f" Perhaps also: {perhaps}; more seeds or measurements would tell." if perhaps else ""
    return f"{_of_the_sure(sure)}{rest}"


def _of_the_sure(sure: Sequence[Choice]) -> str:
    best, *others = sure
    if best.hours is None:
        names = ", ".join(choice.line.method for choice in sure)
        return f"Hold the limits for sure, at a cost that was not measured completely: {names}."
    amount = f"{hours_text(best.hours)} device hours" if best.cost is None else f"cost {best.cost:.2f}"
    if not others:
        return f"Only {best.line.method} holds the limits for sure ({amount})."
    unknown = " of those whose cost was measured" if any(choice.hours is None for choice in others) else ""
    text = f"{best.line.method} holds the limits for sure at the least cost{unknown} ({amount})."
    tied = [choice.line.method for choice in others if choice.hours is not None and choice.low <= best.high]
    return f"{text} The hours of {', '.join(tied)} overlap with its own." if tied else text


def hours_text(hours: float) -> str:
    """Hours with two decimals, or two digits if there are few."""
    return f"{hours:.2f}" if hours >= 0.1 else f"{hours:.2g}"


def _missing(decision: Decision, choices: Sequence[Choice], limits: Limits) -> Iterator[str]:
    """What nothing has measured, and the command that measures it."""
    at_shape = [choice.line for choice in choices if _lacks_latency(choice)]
    if at_shape and limits.shape:
        batch, _, length = limits.shape.partition("x")
        command = _profile_command(decision, at_shape, f"-s latency_batches={batch} -s latency_lengths={length}")
        yield f"To measure the latency at {limits.shape}: {command}"
    without_flops = [choice.line for choice in choices if choice.pscp is not None and choice.pscp.lacks_flops]
    if without_flops:
        command = _profile_command(decision, without_flops, f"--batch {SHAPE[0]} --length {SHAPE[1]}")
        yield f"To measure the forward FLOPs of PSCP: {command}"


def _lacks_latency(choice: Choice) -> bool:
    unmeasured = any(check.name == "latency" and check.state == "not measured" for check in choice.checks)
    return unmeasured or any(term.name == "serve" and term.hours is None for term in choice.terms)


def _profile_command(decision: Decision, lines: Sequence[Line], settings: str) -> str:
    """The reference is measured beside the methods; if only it is missing, it stands for itself."""
    table = decision.table
    methods = [str(line.row.plugin) for line in lines if str(line.row.plugin) != table.reference]
    names = ",".join(dict.fromkeys(methods)) or table.reference
    reference = "" if table.reference == "full" else f" --reference {table.reference}"
    return f"adapeff profile --model {table.model} --method '{names}'{reference} {settings}"
