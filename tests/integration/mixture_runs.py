"""Finished runs of mixtures, extensions and single tasks, made by hand for tests of reports.

The jobs come from a sweep as users write it, so that their hashes, sources and members are real. Every run has figures
of its own, which the tests read back from here to compute what a report has to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy
from scipy import stats

from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.statistics.packing import pack
from adapeff.service.store import job_creation, results
from adapeff.service.store.database import Database
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from tests.factories import claimer

METRICS = {"offline_ner": "entity_f1", "offline_qa": "squad_f1", "offline_similarity": "pearson"}
"""Of the tasks that are not scored by accuracy."""
BODY = 1000
"""Parameters of the encoder."""
HEAD = 10
ADAPTER = 50
EXAMPLES = 40
Interval = tuple[float, float, float]
"""A difference with its 95 % interval: value, low, high."""


def sweep_jobs(**changes: Any) -> list[JobSpec]:
    """The jobs of a sweep."""
    raw = {"name": "grown", "models": ["org/model"], "methods": ["full"], "settings": {"test_languages": ["en", "de"]}}
    return expand(parse_sweep({**raw, **changes}), data_root=None)


def metric_of(task: str) -> str:
    """The headline metric of a task."""
    return METRICS.get(task, "accuracy")


@dataclass
class Made:
    """A finished run, and what it stored."""

    spec: JobSpec
    job_id: int = 0
    run_id: int = 0
    scores: dict[tuple[str, str], numpy.ndarray] = field(default_factory=dict)
    """Member ('' for a single task) and language -> the score of each test example."""
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    """Member ('' for a single task) -> validation scores, every 10 steps."""

    def score(self, language: str = "en", member: str = "") -> float:
        """The mean over the test examples."""
        return float(self.scores[member, language].mean())

    @property
    def title(self) -> str:
        """What the sweep calls its task."""
        return self.spec.task_title or str(self.spec.task)


@dataclass
class Runs:
    """The finished runs of a database, by task, method and seed."""

    database: Database
    made: list[Made] = field(default_factory=list)

    def __getitem__(self, key: tuple[str, str, int]) -> Made:
        task, method, seed = key
        return [
            each
            for each in self.made
            if each.title == task and str(each.spec.method) == method and each.spec.seed == seed
        ][-1]

    def finish(
        self,
        jobs: Iterable[JobSpec],
        *,
        examples: bool = True,
        without: Sequence[str] = (),
        curves: Callable[[JobSpec, str], Sequence[float]] = lambda _, __: (0.5, 0.8),
        correct: Callable[[JobSpec, str], Sequence[float] | None] = lambda _, __: None,
        environment: Mapping[str, Any] | None = None,
        resolved: Mapping[str, Any] | None = None,
        more: Sequence[Mapping[str, Any]] = (),
    ) -> list[Made]:
        """Store the jobs, each with a run that succeeded.

        Args:
            examples: whether they stored the scores of their test examples.
            without: names of figures that they did not measure.
            curves: the validation scores of a job's member, every 10 steps.
            correct: the scores of a job's member on its test examples; None: drawn by chance.
            more: further events of each run.
        """
        found = [
            self._finish(_made(job, curves, correct), examples, without, environment or {}, resolved or {}, more)
            for job in jobs
        ]
        self.made += found
        return found

    def _finish(
        self,
        made: Made,
        examples: bool,
        without: Sequence[str],
        environment: Mapping[str, Any],
        resolved: Mapping[str, Any],
        more: Sequence[Mapping[str, Any]],
    ) -> Made:
        spec = made.spec
        with self.database.session() as session:
            (made.job_id,), _ = job_creation.create_jobs(session, [spec], priority=5, max_failures=3)
        claim = claimer(self.database)(made.job_id)
        assert claim is not None
        made.run_id = claim.run_id
        machine = {"device_name": "Test CPU", "precision": "fp32", "torch": "2.13.0", "torch_threads": 1}
        stored = RunResults(environment={**machine, **environment})
        for event in (*_events(made, without=without, examples=examples), *more):
            stored.take(dict(event))
        if spec.measuring.keep_weights:
            stored.take({"event": "artifact", "name": "weights", "path": "w", "sha256": "0" * 64, "bytes": 1})
        names = {str(member.task): metric_of(str(member.task)) for member in spec.members}
        known = {"metric": "mean_score" if names else metric_of(spec.task.name), "source_language": "en"}
        outcome = RunOutcome("succeeded", resolved={**known, **({"members": names} if names else {}), **resolved})
        with self.database.session() as session:
            results.finish(session, claim, outcome, stored)
        return made


def _made(
    spec: JobSpec,
    curves: Callable[[JobSpec, str], Sequence[float]],
    correct: Callable[[JobSpec, str], Sequence[float] | None],
) -> Made:
    made, draw = Made(spec), Random(f"{spec.job_hash}")
    members = [str(member.task) for member in spec.members] or [""]
    for member in members:
        for language in ("en", "de"):
            chances = Random(f"{member or spec.task} {language}")  # the same examples are hard for every run
            values = [float(draw.random() < chances.uniform(0.5, 1)) for _ in range(EXAMPLES)]
            known = correct(spec, member)
            made.scores[member, language] = numpy.array(values if known is None else known)
        made.curves[member] = list(curves(spec, member))
    is_full = spec.method.name == "full"
    method, heads = (BODY if is_full else ADAPTER), HEAD * len(members)
    made.figures = {
        "train_steps": float(draw.randint(20, 60)),
        "train_flops": float(draw.randint(10**6, 10**7)),
        "train_compute_s": draw.uniform(5, 50),
        "stored_bytes": float(4 * (method + heads) + draw.randint(1, 99)),
        "trainable_parameters_method": float(method),
        "trainable_parameters_head": float(heads),
        "total_parameters": float(BODY + heads + (0 if is_full else ADAPTER)),
    }
    return made


def _events(made: Made, *, without: Sequence[str], examples: bool) -> Iterator[dict[str, Any]]:
    for name, value in made.figures.items():
        if name not in without:
            variant = {"variant": {"tokens": "processed"}} if name == "train_flops" else {}
            yield {"event": "measurement", "name": name, "value": value, "unit": "1", **variant}
    for (member, language), values in made.scores.items():
        of_member = {"task": member} if member else {}
        metric = metric_of(member or made.spec.task.name)
        where = {"split": "test", "language": language, **of_member}
        score = {"event": "measurement", "name": metric, "value": float(values.mean()), "unit": "1", **where}
        if metric not in without:
            yield score
        if examples:
            yield {
                "event": "example_scores",
                "language": language,
                "metric": metric,
                "values": pack(values),
                **of_member,
            }
    if made.spec.members:
        for language in ("en", "de"):
            mean = float(numpy.mean([made.score(language, str(member.task)) for member in made.spec.members]))
            where = {"split": "test", "language": language}
            yield {"event": "measurement", "name": "mean_score", "value": mean, "unit": "1", **where}
    for member, scores in made.curves.items():
        metric, of_member = metric_of(member or made.spec.task.name), {"task": member} if member else {}
        yield {"event": "curve", "name": f"validation_{metric}", "points": _points(scores), **of_member}
        where = {"split": "validation", "language": "en", **of_member}
        yield {"event": "measurement", "name": metric, "value": max(scores), "unit": "1", **where}
    length = max(map(len, made.curves.values()))
    for name, per_step in (("train_samples", 32), ("train_compute_s", 0.5), ("train_flops", flops_per_step(made.spec))):
        if name not in without:
            yield {"event": "curve", "name": name, "points": [[10 * at, 10 * at * per_step] for at in _steps(length)]}


def flops_per_step(spec: JobSpec) -> float:
    """What a step costs by the curves, different for each job."""
    return float(Random(spec.job_hash).randint(100, 999))


def _steps(length: int) -> range:
    return range(1, length + 1)


def _points(scores: Sequence[float]) -> list[list[float]]:
    return [[10 * at, score] for at, score in zip(_steps(len(scores)), scores, strict=True)]


def interval(ours: Sequence[numpy.ndarray], theirs: Sequence[numpy.ndarray], *, goes_on: bool = False) -> Interval:
    """The mean difference over seeds with its 95 % interval, from the scores of each test example by seed.

    As the docstring of `statistics.differences` says it: the variance of the seeds is that of both sides, or of the
    pairs where one goes on from the other, at least that
    of the residual of the two-way layout; the part of the examples is (MS_example - MS_residual) / (S x E); the degrees
    of freedom are Satterthwaite's. With one seed, it is the paired t interval over the examples.
    """
    table = numpy.stack(ours) - numpy.stack(theirs)
    if len(table) == 1:
        found = stats.ttest_1samp(table[0], 0).confidence_interval()
        return float(table.mean()), float(found.low), float(found.high)
    seeds, examples = table.shape
    residual = sum(
        (table[seed, at] - table[seed].mean() - table[:, at].mean() + table.mean()) ** 2
        for seed in range(seeds)
        for at in range(examples)
    ) / ((seeds - 1) * (examples - 1))
    of_examples = seeds * numpy.var(table.mean(axis=0), ddof=1)
    both = numpy.var([each.mean() for each in ours], ddof=1) + numpy.var([each.mean() for each in theirs], ddof=1)
    if goes_on:
        both = numpy.var(table.mean(axis=1), ddof=1)
    of_seeds = (both, seeds - 1)
    if residual / examples > both and not math.isclose(residual / examples, both):
        of_seeds = (residual / examples, (seeds - 1) * (examples - 1))
    parts = [
        (of_seeds[0] / seeds, of_seeds[1]),
        (max(0.0, of_examples - residual) / (seeds * examples), examples - 1),
    ]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / each for part, each in parts)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    return float(table.mean()), float(table.mean() - half), float(table.mean() + half)


def mean(values: Iterable[float]) -> float:
    """The plain mean."""
    found = list(values)
    return math.fsum(found) / len(found)
