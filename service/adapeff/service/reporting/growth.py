"""The ways to add a task to a model that has learned others, measured by the same yardstick.

An addition is a set of old tasks and the new ones, as in the study's leave-one-out extensions. The ways to make it:

- a further model or adapter, trained on the new task alone: the old tasks' models stay as they are
- AdapterFusion of adapters on all the tasks: the same, and the old adapters are used
- the trained mixture of the old tasks goes on with the new task, and replays a share of the old data
- the mixture of all tasks is trained again from scratch

Forgetting is a score after the addition minus the one before, on the same test examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from adapeff.service.reporting.forgetting import Forgetting, MeanForgetting, changes_of, mean_of
from adapeff.service.reporting.members import (
    FULL,
    BySeed,
    Cost,
    TaskRuns,
    cell_of,
    cost_of,
    first_language,
    frozen_bytes,
    metric_of,
    plus,
    rate_in_words,
    rate_of,
    scores_of,
    stored_bytes,
)
from adapeff.service.statistics.differences import Difference

if TYPE_CHECKING:
    from adapeff.service.reporting.runs import Result

Kind = Literal["alone", "fusion", "extension", "retraining"]
FUSION = "adapterfusion"
_OF_EACH_TASK = {"tasks", "train_sizes", "weights", "loss_weights"}


@dataclass(frozen=True)
class Way:
    """How a task is added; ways are equal if they differ in the tasks only."""

    kind: Kind
    method: str
    replay: str = ""
    """Of an extension: the share of the old data, or `sized`."""
    old_heads: str = ""
    rate: str = ""
    """`lr 0.0001` or `tuned`, if there are several of the method."""


@dataclass(frozen=True)
class Addition:
    """One task added in one way: means over seeds."""

    model: str
    device: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    way: Way
    seeds: tuple[int, ...]
    cost: Cost
    """Of what has to be trained for the addition."""
    metric: str
    """Of the first new task."""
    score: float | None
    """Its score on the test data, in its first language."""
    to_full: Difference | None
    """The same minus that of `full` on the new task alone."""
    changes: tuple[Forgetting, ...] | None
    """Of each old task and language; None for ways that leave the old tasks' models as they are: nothing changes."""
    stored_before: float | None
    """Bytes to keep for the old tasks, the weights that a method leaves alone included once."""
    stored_after: float | None
    """The same for all tasks."""
    share_of_retraining: float | None = None
    """Its FLOPs over those of training the mixture of all tasks again by `full`."""

    @property
    def forgetting(self) -> tuple[Forgetting, ...]:
        """Of each old task, in its first language."""
        return tuple(each for each in self.changes or () if each.is_first)

    @property
    def mean_forgetting(self) -> MeanForgetting | None:
        """The mean over the old tasks; 0 where nothing changes, None if scores are not all in percent."""
        return MeanForgetting(0.0, None, None) if self.changes is None else mean_of(self.forgetting)

    @property
    def worst(self) -> Forgetting | None:
        """The old task that forgot most; None where nothing changes."""
        return min(self.forgetting, key=lambda each: each.value, default=None)


@dataclass(frozen=True)
class _Growing:
    """An addition without its way."""

    extensions: Sequence[BySeed] = field(repr=False)
    alone: Sequence[Mapping[str, BySeed]] = field(repr=False)
    """The runs of each task alone, by method; the old tasks come first."""
    cells: frozenset[str] = field(repr=False)

    def includes(self, runs: TaskRuns, mixture: Result) -> bool:
        """Whether a mixture is of all its tasks, and trained like the mixture of the old ones."""
        base = runs.bases.get(self.extension.spec.base)
        is_alike = base is None or not base.spec.members or _sampling(base) == _sampling(mixture)
        return is_alike and frozenset(_cells(mixture)) == self.cells

    @property
    def extension(self) -> Result:
        """One of the extensions that make it."""
        return _first(self.extensions[0])

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(str(member.task) for member in self.extension.spec.members)

    @property
    def old(self) -> int:
        return len(self.tasks) - len(self.extension.spec.task.parameters["add"])


def _cells(result: Result) -> list[str]:
    """The cell of each task of a mixture or extension."""
    return [cell_of(result.spec.of_member(member), result) for member in result.spec.members]


def _sampling(mixture: Result) -> dict[str, Any]:
    """How a mixture draws its tasks, besides what it states for each of them."""
    parameters = mixture.spec.task.parameters
    return {name: value for name, value in parameters.items() if name not in _OF_EACH_TASK}


def find_additions(runs: TaskRuns) -> tuple[Addition, ...]:
    """Every addition that an extension of the report makes, in each way that the report has runs of."""
    groups: dict[tuple[frozenset[str], frozenset[str]], list[BySeed]] = {}
    for by_seed in runs.extensions.values():
        first = _first(by_seed)
        cells, new = _cells(first), len(first.spec.task.parameters["add"])
        groups.setdefault((frozenset(cells[:-new]), frozenset(cells[-new:])), []).append(by_seed)
    found: list[Addition] = []
    for (old, new_cells), extensions in groups.items():
        alone = [runs.methods_of_member(_first(extensions[0]), number) for number in range(len(old | new_cells))]
        place = _Growing(extensions, alone, old | new_cells)
        build = (_alone, _fusions, _extensions, _retrainings)
        ways = [addition for of_kind in build for addition in of_kind(runs, place)]
        retrained = (each.cost.flops for each in ways if (each.way.kind, each.way.method) == ("retraining", FULL))
        flops = next(retrained, None)
        found += [_with_share(each, flops) for each in ways]
    return _without_single_rates(found)


def _without_single_rates(additions: Sequence[Addition]) -> tuple[Addition, ...]:
    """The additions, with the learning rates of methods that have several."""
    rates: dict[tuple[str, str], set[str]] = {}
    for each in additions:
        rates.setdefault((each.way.kind, each.way.method), set()).add(each.way.rate)
    return tuple(
        each if len(rates[each.way.kind, each.way.method]) > 1 else replace(each, way=replace(each.way, rate=""))
        for each in additions
    )


def _first(by_seed: BySeed) -> Result:
    return next(iter(by_seed.values()))


def _with_share(addition: Addition, retraining: float | None) -> Addition:
    own = addition.cost.flops
    return replace(addition, share_of_retraining=own / retraining) if own is not None and retraining else addition


def _addition(
    runs: TaskRuns,
    place: _Growing,
    way: Way,
    by_seed: BySeed,
    *,
    cost: Cost,
    stored: tuple[float | None, float | None],
    changes: tuple[Forgetting, ...] | None = None,
) -> Addition:
    first = _first(by_seed)
    metric, language = metric_of(place.extension, place.old), first_language(place.extension, place.old)
    name = place.tasks[place.old] if first.spec.members else ""
    scores = scores_of(runs, by_seed, metric, language, name)
    full = scores_of(runs, place.alone[place.old].get(FULL, {}), metric, language)
    return Addition(
        model=str(first.spec.model),
        device=f"{first.run.environment.get('device_name')} {first.run.environment.get('precision')}",
        old=place.tasks[: place.old],
        new=place.tasks[place.old :],
        way=way,
        seeds=tuple(sorted(by_seed)),
        cost=cost,
        metric=metric,
        score=scores.mean,
        to_full=None if way == Way("alone", FULL) else scores.minus(full),
        changes=changes,
        stored_before=stored[0],
        stored_after=stored[1],
    )


def _alone(runs: TaskRuns, place: _Growing) -> Iterator[Addition]:
    """A further model or adapter for the new task."""
    if len(place.tasks) > place.old + 1:
        return
    for method, by_seed in place.alone[place.old].items():
        if not method.startswith(FUSION):
            stored = _stored_alone(place, method)
            yield _addition(runs, place, Way("alone", method), by_seed, cost=cost_of(by_seed.values()), stored=stored)


def _fusions(runs: TaskRuns, place: _Growing) -> Iterator[Addition]:
    """A further adapter for the new task, and AdapterFusion over those of all tasks."""
    fused: dict[str, dict[int, Result]] = {}
    for method, by_seed in place.alone[place.old].items():
        if method.startswith(FUSION):
            for seed, result in by_seed.items():
                if adapter := _fused_method(runs, place, result):
                    fused.setdefault(adapter, {})[seed] = result
    for method, by_seed in fused.items():
        before, after = _stored_alone(place, method)
        cost = cost_of(by_seed.values()) + cost_of(place.alone[place.old][method].values())
        stored = before, plus(after, stored_bytes(by_seed.values()))
        yield _addition(runs, place, Way("fusion", method), by_seed, cost=cost, stored=stored)


def _fused_method(runs: TaskRuns, place: _Growing, fusion: Result) -> str:
    """The method whose adapters a run mixes; '' if they are not those of this addition's tasks."""
    trained = [runs.jobs.get(job_hash) for job_hash in fusion.spec.sources]
    cells = {cell_of(result.spec, result) for result in trained if result}
    method = str(trained[0].spec.method) if trained and trained[0] else ""
    return method if cells == place.cells and method in place.alone[place.old] else ""


def _stored_alone(place: _Growing, method: str) -> tuple[float | None, float | None]:
    """Bytes of a model or adapter for each old task, and for each of all tasks."""
    total: float | None = frozen_bytes(_first(place.alone[place.old][method]))
    totals = [total]
    for of_task in place.alone:
        total = plus(total, stored_bytes(of_task.get(method, {}).values()))
        totals.append(total)
    return totals[place.old], totals[-1]


def _stored(by_seed: BySeed) -> float | None:
    """Bytes of a mixture, the weights that its method leaves alone included."""
    first = next(iter(by_seed.values()), None)
    return None if first is None else plus(stored_bytes(by_seed.values()), frozen_bytes(first))


def _extensions(runs: TaskRuns, place: _Growing) -> Iterator[Addition]:
    for by_seed in place.extensions:
        first = _first(by_seed)
        parameters = first.spec.task.parameters
        replay, heads = parameters.get("replay", 0), parameters.get("old_heads", "trained")
        bases = {seed: base for seed, result in by_seed.items() if (base := runs.bases.get(result.spec.base))}
        yield _addition(
            runs,
            place,
            Way("extension", str(first.spec.method), str(replay or 0), str(heads), rate_in_words(first.spec)),
            by_seed,
            cost=cost_of(by_seed.values()),
            stored=(_stored(bases), _stored(by_seed)),
            changes=changes_of(runs, place.extension, place.old, by_seed, bases, goes_on=True),
        )


def _retrainings(runs: TaskRuns, place: _Growing) -> Iterator[Addition]:
    """Mixtures of all the tasks; their old tasks are compared with the mixture of the old ones."""
    for by_seed in runs.mixtures.values():
        first = _first(by_seed)
        if not place.includes(runs, first):
            continue
        bases = _bases_of(runs, place, first)
        yield _addition(
            runs,
            place,
            Way("retraining", str(first.spec.method), rate=rate_in_words(first.spec)),
            by_seed,
            cost=cost_of(by_seed.values()),
            stored=(_stored(bases), _stored(by_seed)),
            changes=changes_of(runs, place.extension, place.old, by_seed, bases, goes_on=False),
        )


def _bases_of(runs: TaskRuns, place: _Growing, retrained: Result) -> BySeed:
    """The trained mixtures of the old tasks that extensions by the same method start from."""
    return {
        seed: base
        for by_seed in place.extensions
        for seed, result in by_seed.items()
        if (str(result.spec.method), rate_of(result.spec)) == (str(retrained.spec.method), rate_of(retrained.spec))
        if (base := runs.bases.get(result.spec.base)) is not None
    }
