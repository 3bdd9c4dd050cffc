"""The claims of the study's abstract, judged on the user's own results.

"A Comprehensive Analysis of Adapter Efficiency" (Mundra et al. 2024, arXiv:2305.07491) claims that adapters are dearer
to train than full fine-tuning, slightly slower to serve, and that multi-task training is as easy to extend and trains
faster. Each claim is judged per model, task and method, at the measured shapes: supported or contradicted if the 95 %
interval of a paired ratio lies on one side of 1, undecided if it contains 1, and not measured without a profile. An
adapter that never gets as good as asked has no cost of getting there: the claim's cost is then unbounded in these runs,
which is said in words of its own, never reached.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.plugin_reference import PluginReference
from adapeff.service.reporting.claims_multitask import multitask_facts
from adapeff.service.reporting.convergence import TargetCell
from adapeff.service.reporting.decision import Decision, Line
from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, ratio, words
from adapeff.service.reporting.profiles import ProfileTable
from adapeff.service.reporting.regimes import Regime, regime_of

if TYPE_CHECKING:
    from adapeff.service.reporting.report import Report

Outcome = Literal["supported", "contradicted", "undecided", "never reached", "not measured"]
Rates = Literal["default", "tuned", "set", "–"]
_OUTCOMES: tuple[Outcome, ...] = ("supported", "contradicted", "undecided", "never reached", "not measured")
_RATES: Mapping[str, Rates] = {"tuned": "tuned", "set in the sweep": "set"}
_LIMITS: tuple[Regime, ...] = ("launch-bound", "compute-bound")
TARGETS = (0.99, 0.95)
"""Shares of the reference's best validation score that count as equal quality, the strictest first."""

DEARER = "adapters are dearer to train to equal quality"
SLOWER = "adapters are slower to serve"
MULTITASK = "multi-task training is as good to extend, and cheaper to train"
CLAIMS = (DEARER, SLOWER, MULTITASK)


@dataclass(frozen=True)
class Ratio:
    """A ratio to the reference with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


NO_RATIO = Ratio(None, None, None)


@dataclass(frozen=True)
class Judgement:
    """One claim on one method, model and task."""

    claim: str
    model: str
    task: str
    method: str
    device: str
    rates: Rates
    """Where its learning rate comes from: the method's default, a search, or the sweep."""
    outcome: Outcome
    test: str
    """What the outcome rests on, or what is missing."""
    found: Ratio = NO_RATIO
    regime: str = "–"
    """The shape of the measurement, how it was executed, and what limits it."""
    target: float | None = None
    """The share of the reference's best score that counts as equal quality."""
    plugin: str = ""
    """The method as a profile takes it."""


def judge(report: Report) -> list[Judgement]:
    """Judge the claims on every adapter method of the report."""
    adapters = [
        (decision, line)
        for decision in report.decisions
        for line in decision.lines
        if line.row.reference and line.method != line.row.reference and is_adapter(line.row.plugin)
    ]
    return [
        *(each for decision, line in adapters for each in _dearer(decision, line)),
        *_over_tasks(each for decision, line in adapters for each in _slower(decision, line)),
        *_multi_task(report),
    ]


def _over_tasks(judgements: Iterable[Judgement]) -> Iterator[Judgement]:
    """Each judgement once, with all tasks that it is equal for: a forward pass costs the same on each."""
    tasks: dict[Judgement, list[str]] = {}
    for each in judgements:
        tasks.setdefault(replace(each, task=""), []).append(each.task)
    for each, of_each in tasks.items():
        yield replace(each, task=", ".join(of_each) if len(of_each) <= 3 else f"{len(of_each)} tasks")


def is_adapter(plugin: PluginReference) -> bool:
    """Whether a method adds modules to the model, as the study's adapters do; unknown methods count."""
    try:
        return catalog.get_method(plugin.name, plugin.parameters).adds_modules
    except AdapeffError:
        return True


def _dearer(decision: Decision, line: Line) -> Iterator[Judgement]:
    """Time to a share of the reference's best score: steps to it x paired time of a step."""
    if not decision.table.targets:
        yield _judgement(DEARER, decision, line, "not measured", "no validation curves of the reference")
    for target in TARGETS:
        own, reference = (_target(decision, method, target) for method in (line.method, line.row.reference))
        if own is not None and reference is not None:
            yield replace(_to_target(decision, line, own, reference), target=target)


def _to_target(decision: Decision, line: Line, own: TargetCell, reference: TargetCell) -> Judgement:
    name, cost = line.row.reference, line.costs["train"]
    share = f"{own.target:.0%} of {name}'s best score"
    if own.mean is None:
        test = f"no seed of {own.seeds} reaches {share} within {own.budget:g} steps"
        return _judgement(DEARER, decision, line, "never reached", test)
    if reference.mean is None:
        return _judgement(DEARER, decision, line, "undecided", f"no seed of {name} reaches {share}")
    steps = own.mean.steps / reference.mean.steps
    seeds = "its only seed reaches" if own.seeds == 1 else f"{own.reached} of {own.seeds} seeds reach"
    reached = f"{seeds} {share}, in {steps:.2f}x the steps"
    if reference.reached < reference.seeds:
        reached += f"; {reference.reached} of {reference.seeds} seeds of {name} do"
    if cost.ratio is None or cost.low is None or cost.high is None:
        return _judgement(DEARER, decision, line, "not measured", f"{reached}; no paired time of a step")
    fewest, most = _steps_range(own, reference)
    found = Ratio(steps * cost.ratio, fewest * cost.low, None if most is None else most * cost.high)
    is_complete = own.reached == own.seeds and reference.reached == reference.seeds
    is_sure = is_complete and min(own.seeds, reference.seeds) > 1 and not _is_at_chance(decision, name)
    outcome = _outcome(found) if is_sure else "undecided"
    if _is_at_chance(decision, name):
        reached += f"; {name} itself is near chance"
    if most is None:
        reached += f" (at least {fewest:.2f}x; {name} is there by its first validation, so validate more often)"
    return _judgement(DEARER, decision, line, outcome, f"{reached}, times the paired time of a step", found, cost.shape)


def _is_at_chance(decision: Decision, method: str) -> bool:
    return any(line.is_near_chance for line in decision.lines if line.method == method)


def _steps_range(own: TargetCell, reference: TargetCell) -> tuple[float, float | None]:
    """The ratio of steps over all pairs of seeds, if either target was reached just after the validation before.

    The upper end is None if the reference may have reached it at any step up to its first validation.
    """
    earliest = reference.fewest - reference.resolution
    least = max(0.0, own.fewest - own.resolution) / reference.most
    return least, own.most / earliest if earliest > 0 else None


def _target(decision: Decision, method: str, target: float) -> TargetCell | None:
    cells = decision.table.targets.get(method, ())
    return next((cell for cell in cells if math.isclose(cell.target, target)), None)


def _slower(decision: Decision, line: Line) -> Iterator[Judgement]:
    """Paired ratios of a forward pass, as trained, at every shape that a profile measured."""
    found = _latency_ratios(decision, line)
    if not found:
        yield _judgement(SLOWER, decision, line, "not measured", "no paired latency")
    for shape, (profile, of_shape) in found.items():
        test = f"paired forward passes, as trained, of profile job {profile.job_id}"
        judged = _judgement(SLOWER, decision, line, _outcome(of_shape), test, of_shape)
        yield replace(judged, regime=_regime(profile, shape))


def _latency_ratios(decision: Decision, line: Line) -> dict[str, tuple[ProfileTable, Ratio]]:
    """Shape -> the preferred profile that measured it, and the ratio."""
    found: dict[str, tuple[ProfileTable, Ratio]] = {}
    for profile in decision.profiles:
        row = next((row for row in profile.latency if row.label == str(line.row.plugin)), None)
        for column, figure in row.figures.items() if row else ():
            if column.endswith(" ratio") and figure.low is not None and figure.high is not None:
                found.setdefault(column.removesuffix(" ratio"), (profile, Ratio(figure.value, figure.low, figure.high)))
    return found


def _multi_task(report: Report) -> Iterator[Judgement]:
    judged = set()
    for fact in multitask_facts(report, is_adapter):
        judged.add(fact["model"])
        found = Ratio(*fact.pop("found")) if "found" in fact else NO_RATIO
        yield Judgement(claim=MULTITASK, rates="–", found=found, **fact)
    for model in dict.fromkeys(decision.table.model for decision in report.decisions):
        if model not in judged:
            test = "no mixture of tasks trained by full; see `mixtures:` and `extend:` of a sweep"
            yield Judgement(MULTITASK, model, "–", "–", "–", "–", "not measured", test)


def _outcome(found: Ratio) -> Outcome:
    if found.low is not None and found.low > 1:
        return "supported"
    return "contradicted" if found.high is not None and found.high < 1 else "undecided"


def _regime(profile: ProfileTable, shape: str) -> str:
    limit = regime_of(profile, shape)
    execution = "compiled" if profile.settings.get("compile") else "eager"
    return ", ".join((shape, execution, *([limit] if limit in _LIMITS else [])))


def _judgement(
    claim: str, decision: Decision, line: Line, outcome: Outcome, test: str, found: Ratio = NO_RATIO, shape: str = ""
) -> Judgement:
    table = decision.table
    return Judgement(
        claim,
        table.model,
        table.task,
        line.method,
        f"{table.environment.get('device_name')} {table.environment.get('precision')}",
        _RATES.get(line.row.learning_rate_source, "default"),
        outcome,
        test,
        found,
        _regime(decision.pairing.profile, shape) if decision.pairing is not None and shape else "–",
        plugin=str(line.row.plugin),
    )


def claims_grids(report: Report) -> list[Grid]:
    """A grid per claim, with a sentence on the methods as a family."""
    judgements = judge(report)
    grids = [_grid(claim, [each for each in judgements if each.claim == claim]) for claim in CLAIMS]
    others = sorted({decision.table.reference for decision in report.decisions} - {"full"})
    note = f"Compared with {', '.join(others)}, not with full as in the study."
    return [replace(grid, notes=(*grid.notes, note)) for grid in grids] if others else grids


_COLUMNS: Mapping[Heading, Callable[[Judgement], Value]] = {
    Heading("model", "model"): lambda each: words(short_model(each.model)),
    Heading("task", "task"): lambda each: words(each.task),
    Heading("method", "method"): lambda each: words(each.method),
    Heading("device", "device"): lambda each: words(each.device),
    Heading("rates", "rates"): lambda each: words(each.rates),
    Heading("quality", "target"): lambda each: words(f"{each.target:.0%}") if each.target else MISSING,
    Heading("shape", "regime"): lambda each: words(each.regime),
    Heading("x reference", "ratio"): lambda each: ratio(each.found.value, each.found.low, each.found.high),
    Heading("verdict", "verdict"): lambda each: words(each.outcome),
    Heading("rests on", "test"): lambda each: words(each.test),
}
_ONLY_IF_SEVERAL = ("model", "device", "target")


def _grid(claim: str, judgements: Sequence[Judgement]) -> Grid:
    """The columns that tell rows apart, and the verdicts; what all rows share stands in a note."""
    if not judgements:
        return Grid(f"claim: {claim}", (), (), ("No adapter method in this report.",), aspect=f"claim: {claim}")
    cells = {heading: [read(each) for each in judgements] for heading, read in _COLUMNS.items()}
    shown = {
        heading: of_column
        for heading, of_column in cells.items()
        if heading.key not in _ONLY_IF_SEVERAL or len({cell.text for cell in of_column}) > 1
    }
    shared = [f"{heading.text} {cells[heading][0].text}" for heading in cells.keys() - shown.keys()]
    notes = [
        *_families(judgements),
        *([f"All rows: {', '.join(sorted(note for note in shared if not note.endswith('–')))}."] if shared else []),
        *_commands(judgements),
    ]
    if claim == DEARER:
        notes.append("Intervals: steps over all pairs of seeds, known to one validation, x paired time of a step.")
    if any(_limit(each) == "launch-bound" for each in judgements):
        notes.append(
            "Launch-bound: the time does not grow with the batch, so ratios rank numbers of kernels, not work."
        )
    rows = tuple(zip(*shown.values(), strict=True))
    about = tuple((heading.key, cells[heading][0].text) for heading in cells.keys() - shown.keys())
    return Grid(f"claim: {claim}", tuple(shown), rows, tuple(notes), tuple(sorted(about)), f"claim: {claim}")


def _families(judgements: Sequence[Judgement]) -> Iterator[str]:
    """A sentence on all methods together, per target, kind of learning rate and regime where these differ."""
    groups: dict[str, list[Judgement]] = {}
    several = [len({each.rates for each in judgements}) > 1, len({_limit(each) for each in judgements} - {""}) > 1]
    for each in judgements:
        conditions = (
            f" at {each.target:.0%} of the reference's best score" if each.target else "",
            f", {each.rates} learning rates" if several[0] else "",
            f", {_limit(each) or 'regime unknown'}" if several[1] else "",
        )
        groups.setdefault("".join(conditions), []).append(each)
    for shared, group in groups.items():
        yield f"As a family{shared}: {_verdict_of(group)}"


def _verdict_of(judgements: Sequence[Judgement]) -> str:
    """The verdict on which all that were decided agree, and the counts."""
    counts = Counter(each.outcome for each in judgements)
    decided = [outcome for outcome in _OUTCOMES[:2] if counts[outcome]]
    if len(decided) == 2:
        sides = "; ".join(f"{outcome}: {_methods(judgements, outcome)}" for outcome in decided)
        verdict = f"mixed ({sides})"
    else:
        verdict = decided[0] if decided else counts.most_common(1)[0][0]
        if decided and counts[decided[0]] < len(judgements):
            verdict += " where it could be decided"
    listed = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _OUTCOMES if counts[outcome])
    return f"{verdict}. Rows: {listed}."


def _limit(judgement: Judgement) -> str:
    """What limits the shape of a judgement, '' where nothing was measured."""
    return next((limit for limit in _LIMITS if judgement.regime.endswith(limit)), "")


def _methods(judgements: Sequence[Judgement], outcome: Outcome) -> str:
    return ", ".join(dict.fromkeys(each.method for each in judgements if each.outcome == outcome))


def _commands(judgements: Sequence[Judgement]) -> Iterator[str]:
    """One profile per model measures everything that is missing."""
    missing: dict[str, dict[str, None]] = {}
    for each in judgements:
        if each.outcome == "not measured" and each.plugin:
            missing.setdefault(each.model, {})[each.plugin] = None
    for model, methods in missing.items():
        yield f"To measure what is missing: adapeff profile --model {model} --method '{','.join(methods)}'"
