"""The view `multitask`: mixtures against their tasks alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from adapeff.service.reporting.first_screen import short_model
from adapeff.service.reporting.grids import MISSING, Grid, Heading, Value, number, ratio, signed, words
from adapeff.service.reporting.members import FULL, Cost, Place, unit_of
from adapeff.service.reporting.multitask import MemberQuality, MixtureComparison
from adapeff.service.statistics.differences import Difference

if TYPE_CHECKING:
    from adapeff.service.reporting.report import Report

_PAIRED = "±: 95 % interval over seeds and test examples, not adjusted for the number of tasks."
_COSTS = (
    "FLOPs and seconds are means over seeds; the seconds are of separate runs, so they have no ratio.",
    f"To a target: until every task reaches that share of the best validation score of {FULL} on the task alone; "
    "alone: the sum of what each task takes by itself.",
)


def multitask_grids(report: Report) -> list[Grid]:
    """Quality per task, other languages, and costs; a grid of each for every mixture."""
    groups: dict[Place, list[MixtureComparison]] = {}
    for found in report.mixtures:
        groups.setdefault(found.place, []).append(found)
    return [grid for group in groups.values() for grid in _grids(group)]


def _grids(group: Sequence[MixtureComparison]) -> Iterator[Grid]:
    yield _quality(group, "quality", first=True)
    if any(not task.is_first for found in group for task in found.tasks):
        yield _quality(group, "other languages", first=False)
    yield _costs(group)
    if any(found.targets for found in group):
        yield _targets(group)


def _titled(
    aspect: str,
    group: Sequence[MixtureComparison],
    columns: Sequence[Heading],
    rows: Sequence[tuple[Value, ...]],
    *notes: str,
) -> Grid:
    first = group[0]
    seeds = max(len(found.seeds) for found in group)
    count = f"{seeds} seed{'' if seeds == 1 else 's'}"
    title = f"{aspect} · {first.title} · {short_model(first.model)} · {count} · {first.device}"
    about = (("model", first.model), ("task", first.title), ("device", first.device))
    return Grid(title, tuple(columns), tuple(rows), notes, about, f"multitask: {aspect}")


def _quality(group: Sequence[MixtureComparison], aspect: str, *, first: bool) -> Grid:
    headings = [Heading("method", "method"), Heading("task", "member")]
    headings += [] if first else [Heading("language", "language")]
    headings += [
        Heading("mixture", "mixture"),
        Heading("alone", "alone"),
        Heading("difference", "difference"),
        Heading(f"{FULL}\nalone", "full"),
        Heading("difference", "difference_to_full"),
    ]
    rows = []
    for found in group:
        for task in found.tasks:
            if task.is_first == first:
                where = [] if first else [words(task.language)]
                rows.append((words(found.method), words(task.task), *where, *_scores(task)))
        if first:
            rows.append((words(found.method), words("mean"), *_means([task for task in found.tasks if task.is_first])))
    tasks = [(found.method, task) for found in group for task in found.tasks]
    missing = dict.fromkeys(
        f"{name} on {task.task}"
        for method, task in tasks
        for name, scores in ((method, task.alone), (FULL, task.full))
        if scores.mean is None
    )
    notes = [f"No runs alone with equal settings: {', '.join(missing)}."] if missing else []
    return _titled(aspect, group, headings, rows, "Scores: headline metrics on the test data.", _PAIRED, *notes)


def _scores(task: MemberQuality) -> tuple[Value, ...]:
    unit = unit_of(task.metric)
    return (
        number(task.mixture.mean, unit),
        number(task.alone.mean, unit),
        _difference(task.to_alone, task.metric),
        number(task.full.mean, unit),
        _difference(task.to_full, task.metric),
    )


def _difference(found: Difference | None, metric: str) -> Value:
    return MISSING if found is None else signed(found.value, unit_of(metric), found.low, found.high)


def _means(tasks: Sequence[MemberQuality]) -> tuple[Value, ...]:
    """Means over the tasks; none over scores that are not all in percent."""
    is_percent = all(unit_of(task.metric) == "%" for task in tasks)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) and is_percent else None

    def change(differences: Sequence[Difference | None]) -> Value:
        found = mean([None if each is None else each.value for each in differences])
        return MISSING if found is None else signed(found, "%")

    return (
        number(mean([task.mixture.mean for task in tasks]), "%"),
        number(mean([task.alone.mean for task in tasks]), "%"),
        change([task.to_alone for task in tasks]),
        number(mean([task.full.mean for task in tasks]), "%"),
        change([task.to_full for task in tasks]),
    )


def _costs(group: Sequence[MixtureComparison]) -> Grid:
    headings = (
        Heading("method", "method"),
        Heading("steps:\nmixture", "steps"),
        Heading("\nalone", "steps_alone"),
        Heading("FLOPs:\nmixture", "flops"),
        Heading("\nalone", "flops_alone"),
        Heading("\nx alone", "flops_ratio"),
        Heading("x alone,\nper step", "flops_per_step_ratio"),
        Heading("compute:\nmixture", "seconds"),
        Heading("\nalone", "seconds_alone"),
        Heading("stored:\nmixture", "stored"),
        Heading("\nalone", "stored_alone"),
    )
    rows = []
    for found in group:
        own, alone = found.cost, found.alone or Cost(None, None, None)
        per_step = _over(_over(own.flops, own.steps), _over(alone.flops, alone.steps))
        rows.append(
            (
                words(found.method),
                number(own.steps, "params"),
                number(alone.steps, "params"),
                number(own.flops, "FLOPs"),
                number(alone.flops, "FLOPs"),
                ratio(_over(own.flops, alone.flops)),
                ratio(per_step),
                number(own.seconds, "s", mark="unpaired"),
                number(alone.seconds, "s", mark="unpaired"),
                number(found.stored, "B"),
                number(found.stored_alone, "B"),
            )
        )
    note = "Stored: for all tasks together, fp32, the weights that a method leaves alone included once."
    return _titled(
        "costs", group, headings, rows, "Alone: the sum over the tasks, by the same method.", _COSTS[0], note
    )


def _targets(group: Sequence[MixtureComparison]) -> Grid:
    shares = [target.share for target in next(found.targets for found in group if found.targets)]
    headings = [Heading("method", "method")]
    for share in shares:
        headings += [
            Heading(f"{share:.0%}:\nmixture", f"flops_{share:g}"),
            Heading("\nalone", f"flops_alone_{share:g}"),
            Heading("\nx alone", f"ratio_{share:g}"),
        ]
    rows = []
    for found in (each for each in group if each.targets):
        cells = [words(found.method)]
        for target in found.targets:
            own = target.mixture.flops if target.mixture else None
            alone = target.alone.flops if target.alone else None
            few = f" ({target.reached} of {len(found.seeds)})" if target.reached < len(found.seeds) else ""
            shown = number(own, "FLOPs")
            cells += [
                Value(f"{shown.text}{few}", shown.number, unit=shown.unit),
                number(alone, "FLOPs"),
                ratio(_over(own, alone)) if not few else MISSING,
            ]
        rows.append(tuple(cells))
    return _titled("FLOPs to targets", group, headings, rows, _COSTS[1], "( ): seeds that get there.")


def _over(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
