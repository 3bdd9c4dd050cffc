"""The two sides of a comparison, and the cells that both have runs of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from sqlalchemy.orm import Session

from adapeff.service.errors import JobError, SpecError, suggest
from adapeff.service.reporting.columns import MetricView, metric_view
from adapeff.service.reporting.runs import Result, comparable_settings, load_results
from adapeff.service.reporting.titles import task_name
from adapeff.service.specs.job import canonical_json
from adapeff.service.store import sweeps

Kind = Literal["method", "sweep", "host", "version"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Cell:
    """The runs of both sides for one model and task, paired by seed (and method)."""

    model: str
    task: str
    metric: MetricView
    first: tuple[Result, ...]
    second: tuple[Result, ...]

    @property
    def languages(self) -> list[str]:
        """The test languages that all runs have, the source language first."""
        found = [
            dict.fromkeys(
                key.language
                for key, reading in result.run.readings.named(self.metric.name)
                if key.split == "test" and not key.variant and reading.value is not None
            )
            for result in (*self.first, *self.second)
        ]
        shared = [language for language in found[0] if all(language in each for each in found)]
        return sorted(shared, key=lambda language: language != self.metric.source_language)


def read_side(session: Session, text: str) -> Side:
    """Read a side: `method=lora`, `sweep=demo`, `host=gpu1`, `version=0.1.0`, or a name alone.

    A name alone is a sweep if there is one of that name, else a method.

    Raises:
        SpecError: for an unknown kind or an empty name.
    """
    kind, equals, name = text.partition("=")
    if equals and "[" not in kind:
        if kind not in KINDS:
            raise SpecError(f"'{text}' compares by '{kind}'; {suggest(kind, KINDS)}")
        if not name:
            raise SpecError(f"'{text}' has no name; expected {kind}=NAME")
        return Side(kind, name)
    try:
        sweeps.find_sweep_ids(session, text)
    except JobError:
        return Side("method", text)
    return Side("sweep", text)


def results_of(session: Session, side: Side, sweep_ids: Sequence[int] | None) -> list[Result]:
    """The finished runs of a side.

    Args:
        sweep_ids: submissions whose jobs count; None, and for a sweep: all.

    Raises:
        JobError: if there are none.
    """
    if side.kind == "sweep":
        found = load_results(session, sweep_ids=sweeps.find_sweep_ids(session, side.name))
    else:
        found = [result for result in load_results(session, sweep_ids=sweep_ids) if _is_of(result, side)]
    if not found:
        raise JobError(f"no finished run of {side.kind} '{side}'; `adapeff status --all` lists the jobs")
    return found


def _is_of(result: Result, side: Side) -> bool:
    environment = result.run.environment
    candidates: Mapping[Kind, tuple[str, ...]] = {
        "method": (str(result.spec.method),),
        "host": (result.run.host, str(environment.get("device_name"))),
        "version": (str(environment.get("adapeff")), str(environment.get("git_revision"))[:7]),
        "sweep": (),
    }
    pattern = side.name if side.kind != "method" else side.name.replace("[", "[[]")
    return any(fnmatchcase(candidate, pattern) for candidate in candidates[side.kind])


def pair_cells(first: Sequence[Result], second: Sequence[Result], *, per_method: bool) -> list[Cell]:
    """The cells that both sides have runs of with equal settings, by model and task.

    Args:
        per_method: pair only runs of the same method.
    """

    def grouped(results: Sequence[Result]) -> dict[tuple[str, str], dict[str, Result]]:
        groups: dict[tuple[str, str], dict[str, Result]] = {}
        for result in results:  # ids ascend, so the newest run of a cell is kept
            spec = result.spec
            pair = canonical_json([spec.seed, str(spec.method) if per_method else "", comparable_settings(spec)])
            groups.setdefault((spec.model.identity, str(spec.task)), {})[pair] = result
        return groups

    ours, theirs = grouped(first), grouped(second)
    cells = []
    for key in ours.keys() & theirs.keys():
        pairs = sorted(ours[key].keys() & theirs[key].keys())
        if pairs:
            some = ours[key][pairs[0]]
            recorded = dict(some.run.resolved)
            metric = metric_view(
                str(recorded.get("metric", "accuracy")), str(recorded.get("source_language", "en")), recorded
            )
            chosen = tuple(ours[key][pair] for pair in pairs), tuple(theirs[key][pair] for pair in pairs)
            cells.append(Cell(str(some.spec.model), task_name(some.spec), metric, *chosen))
    return sorted(cells, key=lambda cell: (cell.model, cell.task))
