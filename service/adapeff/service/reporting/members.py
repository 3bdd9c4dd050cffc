"""Runs of mixtures and of their tasks alone, by what makes them comparable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy
from sqlalchemy.orm import Session

from adapeff.service.errors import AdapeffError
from adapeff.service.measured import Display
from adapeff.service.measurements import (
    STORED_BYTES,
    TOTAL_PARAMETERS,
    TRAIN_COMPUTE_S,
    TRAIN_FLOPS,
    TRAIN_STEPS,
    TRAINABLE_PARAMETERS_HEAD,
    TRAINABLE_PARAMETERS_METHOD,
)
from adapeff.service.plugins import catalog
from adapeff.service.reporting.convergence import CURVES, Curves
from adapeff.service.reporting.runs import ALIKE, Result
from adapeff.service.specs.job import JobSpec, canonical_json
from adapeff.service.statistics.differences import Difference, difference_of_methods, paired_difference
from adapeff.service.store import results
from adapeff.service.store.example_scores import load_example_scores

FULL = "full"
_BYTES_OF_A_PARAMETER = 4
"""Weights are trained and stored in fp32."""
_NOT_SHARED = {"learning_rate", "tuning", "device"}
BySeed = Mapping[int, Result]


@dataclass(frozen=True)
class Cost:
    """What a training costs: mean over seeds; None where a run has not measured it."""

    steps: float | None
    flops: float | None
    seconds: float | None
    """Compute seconds; of separate runs, so ratios of them are no facts."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(plus(self.steps, other.steps), plus(self.flops, other.flops), plus(self.seconds, other.seconds))


NOTHING = Cost(0.0, 0.0, 0.0)


class Learner(NamedTuple):
    """How runs with equal settings learned; they differ in their seeds only."""

    method: str
    rate: str
    """The learning rate, with the search for it if there was one."""
    revisions: str
    """The commits of the data sets of the hub, as JSON."""


class Place(NamedTuple):
    """What mixtures, or extensions, share that are compared with each other."""

    title: str
    cell: str


@dataclass(frozen=True)
class TaskRuns:
    """The finished runs of a report, by cell: the newest of each seed."""

    alone: Mapping[str, Mapping[Learner, BySeed]]
    """Cell -> runs of a single task."""
    mixtures: Mapping[tuple[Place, Learner], BySeed]
    extensions: Mapping[tuple[Place, Learner], BySeed]
    bases: Mapping[str, Result]
    """Job hash -> run, of those that extensions start from."""
    jobs: Mapping[str, Result]
    """Job hash -> run of a single task, if there are extensions."""
    examples: Mapping[tuple[str, int, str], numpy.ndarray] = field(default_factory=dict)
    """Member ('' for a single task), run and language -> score of each test example."""
    curves: Mapping[tuple[int, str], Curves] = field(default_factory=dict)
    """Run and member -> curves."""

    def is_for_extensions(self, result: Result) -> bool:
        """Whether the view `extend` alone shows a run.

        Such are extensions, mixtures of a part of another's tasks that they start from, and AdapterFusions of the
        adapters of several tasks.
        """
        if result.spec.base:
            return True
        if self.extensions and result.spec.method.name == "adapterfusion":
            return len({str(self.jobs[each].spec.task) for each in result.spec.sources if each in self.jobs}) > 1
        if result.run.run_id not in self.base_runs:
            return False
        own = _tasks(result)
        return any(own < _tasks(next(iter(by_seed.values()))) for by_seed in self.mixtures.values())

    @cached_property
    def base_runs(self) -> frozenset[int]:
        """The ids of runs that extensions start from."""
        return frozenset(result.run.run_id for result in self.bases.values() if result.spec.members)

    def of_member(self, result: Result, number: int, method: str) -> BySeed:
        """The runs of one task of a mixture alone, with equal settings, by a method.

        With the mixture's own method, those of its learning rate; with another one, those of the first rate.
        """
        found = self._alone(result, number)
        if method == str(result.spec.method):
            return found.get((method, rate_of(result.spec)), {})
        return next((runs for (name, _), runs in found.items() if name == method), {})

    def methods_of_member(self, result: Result, number: int) -> dict[str, BySeed]:
        """The runs of one task of a mixture alone, by each method that has any."""
        found: dict[str, BySeed] = {}
        for (method, _), runs in self._alone(result, number).items():
            found.setdefault(method, runs)
        return found

    def _alone(self, result: Result, number: int) -> dict[tuple[str, str], BySeed]:
        """Method and rate -> the runs of one task of a mixture alone, on the same commits of the data."""
        spec, own = result.spec, _revisions_of(result)
        runs = self.alone.get(cell_of(spec.of_member(spec.members[number]), result), {})
        return {
            (learner.method, learner.rate): by_seed
            for learner, by_seed in runs.items()
            if json.loads(learner.revisions).items() <= own.items()
        }


def _tasks(mixture: Result) -> set[str]:
    return {str(member.task) for member in mixture.spec.members}


def cell_of(spec: JobSpec, result: Result) -> str:
    """What runs share that differ in their method and seed only, and ran under the conditions of a result."""
    training = spec.training.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_SHARED)
    data = [spec.data.fingerprint or spec.data.revision, spec.data.test_fingerprint]
    model = [spec.model.identity, result.run.resolved.get("model_revision")]
    environment = {key: result.run.environment.get(key) for key in ALIKE}
    return canonical_json([model, str(spec.task), data, training, environment])


def _learner_of(result: Result) -> Learner:
    return Learner(str(result.spec.method), rate_of(result.spec), canonical_json(_revisions_of(result)))


def rate_of(spec: JobSpec) -> str:
    """The learning rate of a job, with the search for it if there was one."""
    tuning = spec.training.tuning
    return f"{spec.training.learning_rate:g}{f' {tuning.model_dump_json()}' if tuning else ''}"


def rate_in_words(spec: JobSpec) -> str:
    """The same for people."""
    tuning = spec.training.tuning
    return f"tuned, {tuning.words}" if tuning else f"lr {spec.training.learning_rate:g}"


def _revisions_of(result: Result) -> dict[str, str]:
    """The commits of the data sets of the hub that a run read, of a mixture those of all its tasks."""
    return {name: commit for name, commit in result.run.resolved.items() if name.startswith("data_revision:")}


def task_runs_of(session: Session, finished: Sequence[Result]) -> TaskRuns | None:
    """The runs of a report by cell; None if none of them is of a mixture."""
    if not any(result.spec.members for result in finished):
        return None
    alone: dict[str, dict[Learner, dict[int, Result]]] = {}
    mixtures: dict[tuple[Place, Learner], dict[int, Result]] = {}
    extensions: dict[tuple[Place, Learner], dict[int, Result]] = {}
    for result in finished:
        spec, cell, learner = result.spec, cell_of(result.spec, result), _learner_of(result)
        if not spec.members:
            alone.setdefault(cell, {}).setdefault(learner, {})[spec.seed] = result
        else:
            key = Place(spec.task_title or str(spec.task), cell), learner
            (extensions if spec.base else mixtures).setdefault(key, {})[spec.seed] = result
    needed = {result.spec.base for result in finished if result.spec.base}
    by_hash = {result.spec.job_hash: result for result in finished} if needed else {}
    bases = {job_hash: by_hash[job_hash] for job_hash in needed if job_hash in by_hash}
    jobs = {job_hash: result for job_hash, result in by_hash.items() if not result.spec.members}
    return TaskRuns(alone, mixtures, extensions, bases, jobs, _examples(session, finished), _curves(session, finished))


def _examples(session: Session, finished: Sequence[Result]) -> dict[tuple[str, int, str], numpy.ndarray]:
    run_ids = [result.run.run_id for result in finished]
    names = dict.fromkeys(["", *(name for result in finished for name in result.members)])
    return {
        (name, run_id, language): values
        for name in names
        for (run_id, language), values in load_example_scores(session, run_ids, task=name).items()
    }


def _curves(session: Session, finished: Iterable[Result]) -> dict[tuple[int, str], Curves]:
    mixtures = [result for result in finished if result.spec.members]
    metrics = {metric_of(result, number) for result in mixtures for number in range(len(result.spec.members))}
    names = [*CURVES, *(f"validation_{metric}" for metric in sorted(metrics))]
    return {**results.list_member_curves(session, [result.run.run_id for result in mixtures], names)}


def cost_of(runs: Iterable[Result]) -> Cost:
    """The mean cost of training over seeds."""
    runs = list(runs)
    return Cost(
        _mean(result.read(TRAIN_STEPS.name).value for result in runs),
        _mean(result.read(TRAIN_FLOPS.name, phase="", variant={"tokens": "processed"}).value for result in runs),
        _mean(result.read(TRAIN_COMPUTE_S.name).value for result in runs),
    )


def stored_bytes(runs: Iterable[Result]) -> float | None:
    """The mean size over seeds of what a job stores."""
    return _mean(result.read(STORED_BYTES.name, dtype="").value for result in runs)


def frozen_bytes(result: Result) -> float | None:
    """The size of the model's weights that a job did not train, stored once for all jobs; None if not measured."""
    counted = (TOTAL_PARAMETERS, TRAINABLE_PARAMETERS_METHOD, TRAINABLE_PARAMETERS_HEAD)
    total, method, head = (result.read(definition.name).value for definition in counted)
    if total is None or method is None or head is None:
        return None
    return _BYTES_OF_A_PARAMETER * max(0.0, total - method - head)


def plus(one: float | None, other: float | None) -> float | None:
    """The sum; None if either is unknown."""
    return None if one is None or other is None else one + other


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    if not found or any(value is None for value in found):
        return None
    return float(numpy.mean([value for value in found if value is not None]))


@dataclass(frozen=True)
class Scores:
    """The scores of one task in one language by seed, of a mixture's runs or of the task alone."""

    values: Mapping[int, float]
    examples: Mapping[int, numpy.ndarray]

    def minus(self, other: Scores) -> Difference | None:
        """The mean difference over the seeds that both have, paired by seed and by test example; None without any."""
        return self._compared(other, difference_of_methods)

    def change_from(self, before: Scores) -> Difference | None:
        """The mean change over the seeds of both, of models that went on from those before: their own pairs."""
        return self._compared(before, paired_difference)

    def _compared(self, other: Scores, compare: Callable[..., Difference]) -> Difference | None:
        seeds = sorted(self.values.keys() & other.values.keys())
        if not seeds:
            return None
        pairs = [(self.examples.get(seed), other.examples.get(seed)) for seed in seeds]
        by_example = [a - b for a, b in pairs if a is not None and b is not None and len(a) == len(b)]
        is_complete = len(by_example) == len(seeds) and len({len(each) for each in by_example}) == 1
        return compare(
            [self.values[seed] for seed in seeds],
            [other.values[seed] for seed in seeds],
            examples=numpy.stack(by_example) if is_complete else None,
        )

    @property
    def mean(self) -> float | None:
        """The mean over seeds."""
        return _mean(self.values.values())


def scores_of(runs: TaskRuns, by_seed: BySeed, metric: str, language: str, member: str = "") -> Scores:
    """The test scores of runs in one language, of a member of mixtures or of single tasks."""
    values = {
        seed: value
        for seed, result in by_seed.items()
        if (value := result.read(metric, split="test", language=language, task=member).value) is not None
    }
    examples = {
        seed: scores
        for seed, result in by_seed.items()
        if (scores := runs.examples.get((member, result.run.run_id, language))) is not None
    }
    return Scores(values, examples)


def languages_of(result: Result, number: int) -> list[str]:
    """The languages in which a mixture's task was tested, the source language first if it is among them."""
    member = result.spec.members[number]
    try:
        source = catalog.get_task(member.task.name, member.task.parameters).source_language
    except AdapeffError:  # a report must not need the plug-in
        source = ""
    return sorted(member.test_languages, key=lambda language: language != source)


def first_language(result: Result, number: int) -> str:
    """The language by which reports compare a mixture's task; '' if it was tested in none."""
    return next(iter(languages_of(result, number)), "")


def metric_of(result: Result, number: int) -> str:
    """The headline metric of a mixture's task."""
    members: Mapping[str, Any] = result.run.resolved.get("members", {})
    return str(members.get(str(result.spec.members[number].task), ""))


def unit_of(metric: str) -> Display:
    """How scores of a metric are shown."""
    known = catalog.metrics().get(metric)
    return "%" if known is None else known.unit
