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
from typing import TYPE_CHECKING, Literal

from adapeff.service.measurements import FORGETTING
from adapeff.service.reporting.members import (
    FULL,
    BySeed,
    Cost,
    TaskRuns,
    cost_of,
    frozen_bytes,
    languages_of,
    metric_of,
    scores_of,
    stored_bytes,
)
from adapeff.service.reporting.runs import ALIKE
from adapeff.service.specs.job import canonical_json
from adapeff.service.statistics.differences import Difference

if TYPE_CHECKING:
    from adapeff.service.reporting.runs import Result

Kind = Literal["alone", "fusion", "extension", "retraining"]
FUSION = "adapterfusion"


@dataclass(frozen=True)
class Way:
    """How a task is added; ways are equal if they differ in the tasks only."""

    kind: Kind
    method: str
    replay: str = ""
    """Of an extension: the share of the old data, or `sized`."""
    old_heads: str = ""


@dataclass(frozen=True)
class Forgetting:
    """How the score of one old task changed, as a share, with its 95 % interval."""

    task: str
    value: float
    low: float | None
    high: float | None


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
    forgetting: tuple[Forgetting, ...] | None
    """Of each old task; None for ways that leave the old tasks' models as they are, so that nothing changes."""
    stored_before: float | None
    """Bytes to keep for the old tasks, the weights that a method leaves alone included once."""
    stored_after: float | None
    """The same for all tasks."""
    share_of_retraining: float | None = None
    """Its FLOPs over those of training the mixture of all tasks again by `full`."""

    @property
    def mean_forgetting(self) -> float | None:
        """The mean over the old tasks; 0 where nothing changes."""
        if self.forgetting is None:
            return 0.0
        return sum(each.value for each in self.forgetting) / len(self.forgetting) if self.forgetting else None

    @property
    def worst(self) -> Forgetting | None:
        """The old task that forgot most; None where nothing changes."""
        return min(self.forgetting, key=lambda each: each.value) if self.forgetting else None


@dataclass(frozen=True)
class _Place:
    """An addition without its way."""

    extension: Result
    """One of the extensions that make it."""
    alone: Sequence[Mapping[str, BySeed]] = field(repr=False)
    """The runs of each task alone, by method; the old tasks come first."""

    @property
    def key(self) -> tuple[object, ...]:
        """What all extensions that make it have in common."""
        old, new = _old_and_new(self.extension)
        return _conditions(self.extension), frozenset(old), frozenset(new)

    def includes(self, mixture: Result) -> bool:
        """Whether a mixture is of all its tasks, under the same conditions."""
        tasks = {str(member.task) for member in mixture.spec.members}
        return tasks == set(self.tasks) and _conditions(mixture) == _conditions(self.extension)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(str(member.task) for member in self.extension.spec.members)

    @property
    def old(self) -> int:
        """The number of old tasks."""
        return len(_old_and_new(self.extension)[0])


def _old_and_new(extension: Result) -> tuple[list[str], list[str]]:
    names = [str(member.task) for member in extension.spec.members]
    new = len(extension.spec.task.parameters["add"])
    return names[:-new], names[-new:]


def _conditions(result: Result) -> str:
    """What makes mixtures and extensions comparable, besides their tasks."""
    excluded = {"learning_rate", "tuning", "device", "max_length", "train_size"}
    training = result.spec.training.model_dump(mode="json", exclude_defaults=True, exclude=excluded)
    environment = {key: result.run.environment.get(key) for key in ALIKE}
    return canonical_json([result.spec.model.identity, training, environment])


def find_additions(runs: TaskRuns) -> tuple[Addition, ...]:
    """Every addition that an extension of the report makes, in each way that the report has runs of."""
    places: dict[tuple[object, ...], _Place] = {}
    for by_seed in runs.extensions.values():
        first = next(iter(by_seed.values()))
        alone = [runs.methods_of_member(first, number) for number in range(len(first.spec.members))]
        place = _Place(first, alone)
        places.setdefault(place.key, place)
    found: list[Addition] = []
    for place in places.values():
        build = (_alone, _fusions, _extensions, _retrainings)
        ways = [addition for of_kind in build for addition in of_kind(runs, place)]
        retraining = next((each.cost.flops for each in ways if each.way == Way("retraining", FULL)), None)
        found += [_with_share(each, retraining) for each in ways]
    return tuple(found)


def _with_share(addition: Addition, retraining: float | None) -> Addition:
    own = addition.cost.flops
    return replace(addition, share_of_retraining=own / retraining) if own is not None and retraining else addition


def _addition(
    runs: TaskRuns,
    place: _Place,
    way: Way,
    by_seed: BySeed,
    *,
    cost: Cost,
    stored: tuple[float | None, float | None],
    forgetting: tuple[Forgetting, ...] | None = None,
) -> Addition:
    first = next(iter(by_seed.values()))
    metric, language = metric_of(place.extension, place.old), languages_of(place.extension, place.old)[0]
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
        forgetting=forgetting,
        stored_before=stored[0],
        stored_after=stored[1],
    )


def _alone(runs: TaskRuns, place: _Place) -> Iterator[Addition]:
    """A further model or adapter for the new task."""
    if len(place.tasks) > place.old + 1:
        return
    for method, by_seed in place.alone[place.old].items():
        if not method.startswith(FUSION):
            stored = _stored_alone(place, method)
            yield _addition(runs, place, Way("alone", method), by_seed, cost=cost_of(by_seed.values()), stored=stored)


def _fusions(runs: TaskRuns, place: _Place) -> Iterator[Addition]:
    """A further adapter for the new task, and AdapterFusion over those of all tasks."""
    fused: dict[str, dict[int, Result]] = {}
    for method, by_seed in place.alone[place.old].items():
        if method.startswith(FUSION):
            for seed, result in by_seed.items():
                if adapter := _fused_method(place, result):
                    fused.setdefault(adapter, {})[seed] = result
    for method, by_seed in fused.items():
        before, after = _stored_alone(place, method)
        cost = cost_of(by_seed.values()) + cost_of(place.alone[place.old][method].values())
        stored = before, _plus(after, stored_bytes(by_seed.values()))
        yield _addition(runs, place, Way("fusion", method), by_seed, cost=cost, stored=stored)


def _fused_method(place: _Place, fusion: Result) -> str:
    """The method whose adapters a run mixes; '' if they are not those of this addition's tasks."""
    for method in place.alone[place.old]:
        trained = [of_task.get(method, {}).get(fusion.spec.seed) for of_task in place.alone]
        if {result.spec.job_hash for result in trained if result} == set(fusion.spec.sources):
            return method
    return ""


def _stored_alone(place: _Place, method: str) -> tuple[float | None, float | None]:
    """Bytes of a model or adapter for each old task, and for each of all tasks."""
    total: float | None = frozen_bytes(next(iter(place.alone[place.old][method].values())))
    totals = [total]
    for of_task in place.alone:
        total = _plus(total, stored_bytes(of_task.get(method, {}).values()))
        totals.append(total)
    return totals[place.old], totals[-1]


def _stored(by_seed: BySeed) -> float | None:
    """Bytes of a mixture, the weights that its method leaves alone included."""
    first = next(iter(by_seed.values()), None)
    return None if first is None else _plus(stored_bytes(by_seed.values()), frozen_bytes(first))


def _plus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _extensions(runs: TaskRuns, place: _Place) -> Iterator[Addition]:
    for by_seed in runs.extensions.values():
        first = next(iter(by_seed.values()))
        if _Place(first, ()).key != place.key:
            continue
        parameters = first.spec.task.parameters
        replay, heads = parameters.get("replay", 0), parameters.get("old_heads", "trained")
        bases = {seed: base for seed, result in by_seed.items() if (base := runs.bases.get(result.spec.base))}
        yield _addition(
            runs,
            place,
            Way("extension", str(first.spec.method), str(replay or 0), str(heads)),
            by_seed,
            cost=cost_of(by_seed.values()),
            stored=(_stored(bases), _stored(by_seed)),
            forgetting=_changes(runs, place, by_seed, bases),
        )


def _retrainings(runs: TaskRuns, place: _Place) -> Iterator[Addition]:
    """Mixtures of all the tasks; their old tasks are compared with the mixture of the old ones."""
    for by_seed in runs.mixtures.values():
        first = next(iter(by_seed.values()))
        if not place.includes(first):
            continue
        bases = _bases_of(runs, place, str(first.spec.method))
        yield _addition(
            runs,
            place,
            Way("retraining", str(first.spec.method)),
            by_seed,
            cost=cost_of(by_seed.values()),
            stored=(_stored(bases), _stored(by_seed)),
            forgetting=_changes(runs, place, by_seed, bases),
        )


def _bases_of(runs: TaskRuns, place: _Place, method: str) -> BySeed:
    """The trained mixtures of the old tasks that extensions by a method start from."""
    return {
        seed: base
        for by_seed in runs.extensions.values()
        for seed, result in by_seed.items()
        if _Place(result, ()).key == place.key and str(result.spec.method) == method
        if (base := runs.bases.get(result.spec.base)) is not None
    }


def _changes(runs: TaskRuns, place: _Place, by_seed: BySeed, bases: BySeed) -> tuple[Forgetting, ...]:
    """How the score of each old task changed."""
    found = (_change(runs, place, number, by_seed, bases) for number in range(place.old))
    return tuple(each for each in found if each is not None)


def _change(runs: TaskRuns, place: _Place, number: int, by_seed: BySeed, bases: BySeed) -> Forgetting | None:
    """The change of one old task's score, paired with the models it started from, or as an extension measured it.

    The latter if those models are not in the report.
    """
    name = place.tasks[number]
    metric, language = metric_of(place.extension, number), languages_of(place.extension, number)[0]
    base = next(iter(bases.values()), None)
    if base is not None:
        before = scores_of(runs, bases, metric, language, name if base.spec.members else "")
        found = scores_of(runs, by_seed, metric, language, name).minus(before)
        return None if found is None else Forgetting(name, found.value, found.low, found.high)
    measured = [
        [
            result.read(FORGETTING.name, statistic=statistic, split="test", language=language, task=name).value
            for statistic in ("", "low", "high")
        ]
        for result in by_seed.values()
    ]
    values = [value for value, _, _ in measured if value is not None]
    low, high = measured[0][1:] if len(measured) == 1 else (None, None)
    return Forgetting(name, sum(values) / len(values), low, high) if values else None
