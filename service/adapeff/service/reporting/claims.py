"""The claims of the study's abstract, judged on the user's own results.

"A Comprehensive Analysis of Adapter Efficiency" (Mundra et al. 2024, arXiv:2305.07491) claims that adapters are dearer
to train than full fine-tuning, slightly slower to serve, and that multi-task training is as easy to extend and trains
faster. Each claim is judged per model, task and method, at the measured shapes: supported or contradicted if the 95 %
interval of a paired ratio lies on one side of 1, undecided if it contains 1, and not measured without a profile.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.reporting.convergence import TargetCell
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.grids import MISSING, Grid, Heading, ratio, words

if TYPE_CHECKING:
    from adapeff.service.reporting.report import Report

Outcome = Literal["supported", "contradicted", "undecided", "not measured"]
TARGETS = (0.99, 0.95)
"""Shares of the reference's best validation score that count as equal quality, the strictest first."""

DEARER = "adapters are dearer to train to equal quality"
SLOWER = "adapters are slower to serve"
MULTITASK = "multi-task training is as good to extend, and cheaper to train"
CLAIMS = (DEARER, SLOWER, MULTITASK)


@dataclass(frozen=True)
class Judgement:
    """One claim on one method, model and task."""

    claim: str
    model: str
    task: str
    method: str
    rates: Literal["default", "tuned", "–"]
    """Where its learning rate comes from."""
    regime: str
    """The shape of the measurement, and how it was executed."""
    outcome: Outcome
    value: float | None
    low: float | None
    high: float | None
    """Ratio to the reference with its 95 % interval."""
    test: str
    """What the outcome rests on, or what would measure it."""


def judge(report: Report) -> list[Judgement]:
    """Judge the claims on every adapter method of the report."""
    found = [
        judgement
        for decision in report.decisions
        for line in decision.lines
        if line.row.reference and line.method != line.row.reference and is_adapter(line.row.plugin)
        for judgement in (*_dearer(decision, line), *_slower(decision, line))
    ]
    return [*sorted(found, key=lambda judgement: CLAIMS.index(judgement.claim)), *_multi_task(report)]


def is_adapter(plugin: PluginReference) -> bool:
    """Whether a method adds modules to the model, as the study's adapters do; unknown methods count."""
    try:
        return catalog.get_method(plugin.name, plugin.parameters).adds_modules
    except AdapeffError:
        return True


def _dearer(decision: Decision, line: Line) -> Iterator[Judgement]:
    """Time to a share of the reference's best score: steps to it x paired time of a step."""
    table, cost = decision.table, line.costs["train"]
    for target in TARGETS:
        own, reference = (_target(decision, method, target) for method in (line.method, line.row.reference))
        if own is None or reference is None or reference.mean is None:
            continue
        share = f"{target:.0%} of {line.row.reference}'s best score"
        if own.mean is None:
            test = f"never reaches {share} ({own.seeds} seeds), so it has no equal quality to compare at"
            yield _judgement(DEARER, decision, line, _regime(decision, cost.shape), "undecided", None, None, None, test)
            continue
        steps = own.mean.steps / reference.mean.steps
        reached = f"{own.reached} of {own.seeds} seeds reach {share}, in {steps:.2f}x the steps"
        if cost.ratio is None or cost.low is None or cost.high is None:
            test = f"{reached}; no paired time of a step: {_profile_command(decision, line)}"
            yield _judgement(DEARER, decision, line, "–", "not measured", None, None, None, test)
            continue
        fewest, most = _steps_range(own.mean.steps, reference.mean.steps, own.resolution)
        low, high = fewest * cost.low, most * cost.high
        outcome = _outcome(low, high) if own.reached == own.seeds else "undecided"
        test = f"{reached}, times the paired time of a step"
        value = steps * cost.ratio
        yield _judgement(DEARER, decision, line, _regime(decision, cost.shape), outcome, value, low, high, test)
    if not table.targets:
        test = "no validation curves of the reference"
        yield _judgement(DEARER, decision, line, "–", "not measured", None, None, None, test)


def _steps_range(own: float, reference: float, resolution: float) -> tuple[float, float]:
    """The ratio of steps if either target was reached just after the validation before."""
    earliest = reference - resolution
    return max(0.0, own - resolution) / reference, own / earliest if earliest > 0 else math.inf


def _target(decision: Decision, method: str, target: float) -> TargetCell | None:
    cells = decision.table.targets.get(method, ())
    return next((cell for cell in cells if abs(cell.target - target) < 1e-9), None)


def _slower(decision: Decision, line: Line) -> Iterator[Judgement]:
    """Paired ratios of a forward pass, as trained, at every shape of the profile."""
    pairing, label = decision.pairing, str(line.row.plugin)
    row = next((row for row in pairing.profile.latency if row.label == label), None) if pairing else None
    if pairing is None or row is None:
        test = f"no paired latency: {_profile_command(decision, line)}"
        yield _judgement(SLOWER, decision, line, "–", "not measured", None, None, None, test)
        return
    for shape in pairing.latency_shapes:
        figure = row.figures.get(f"{shape} ratio")
        if figure is not None and figure.low is not None and figure.high is not None:
            outcome = _outcome(figure.low, figure.high)
            values = (figure.value, figure.low, figure.high)
            test = "paired forward passes, as trained"
            yield _judgement(SLOWER, decision, line, _regime(decision, shape), outcome, *values, test)


def _multi_task(report: Report) -> Iterator[Judgement]:
    for model in dict.fromkeys(decision.table.model for decision in report.decisions):
        test = "adapeff does not train one model on several tasks yet"
        yield Judgement(MULTITASK, model, "–", "–", "–", "–", "not measured", None, None, None, test)


def _outcome(low: float, high: float) -> Outcome:
    return "supported" if low > 1 else "contradicted" if high < 1 else "undecided"


def _regime(decision: Decision, shape: str) -> str:
    if decision.pairing is None or not shape:
        return "–"
    execution = "compiled" if decision.pairing.profile.settings.get("compile") else "eager"
    return f"{shape}, {execution}"


def _profile_command(decision: Decision, line: Line) -> str:
    return f"adapeff profile --model {decision.table.model} --method '{line.row.plugin}'"


def _judgement(
    claim: str,
    decision: Decision,
    line: Line,
    regime: str,
    outcome: Outcome,
    value: float | None,
    low: float | None,
    high: float | None,
    test: str,
) -> Judgement:
    rates: Literal["default", "tuned"] = "tuned" if line.row.learning_rate_source == "tuned" else "default"
    table = decision.table
    return Judgement(claim, table.model, table.task, line.method, rates, regime, outcome, value, low, high, test)


def claims_grids(report: Report) -> list[Grid]:
    """A grid per claim, with a sentence that counts its outcomes."""
    judgements = judge(report)
    return [_grid(claim, [each for each in judgements if each.claim == claim]) for claim in CLAIMS]


def _grid(claim: str, judgements: Sequence[Judgement]) -> Grid:
    headings = (
        *(Heading(text, text) for text in ("model", "task", "method")),
        Heading("rates", "rates"),
        Heading("shape", "regime"),
        Heading("x reference", "ratio"),
        Heading("verdict", "verdict"),
        Heading("rests on", "test"),
    )
    rows = tuple(
        (
            words(short_model(each.model)),
            *map(words, (each.task, each.method, each.rates, each.regime)),
            MISSING if each.value is None else ratio(each.value, each.low, each.high),
            words(each.outcome),
            words(each.test),
        )
        for each in judgements
    )
    notes = [_sentence(judgements)] if judgements else ["No adapter method in this report."]
    if claim == DEARER and rows:
        notes.append("Intervals: paired time of a step; steps to a target are known to one validation.")
    return Grid(f"claim: {claim}", headings, rows, tuple(notes))


def _sentence(judgements: Sequence[Judgement]) -> str:
    counts = Counter(each.outcome for each in judgements)
    order: tuple[Outcome, ...] = ("supported", "contradicted", "undecided", "not measured")
    return f"{', '.join(f'{counts[outcome]} {outcome}' for outcome in order if counts[outcome])}."
