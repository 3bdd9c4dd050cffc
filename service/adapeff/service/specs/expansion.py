"""Expand a sweep into its jobs."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapeff.service.errors import SpecError, suggest
from adapeff.service.paths import expanded
from adapeff.service.plugins import catalog
from adapeff.service.plugins.plugin_reference import is_task_file, parse_plugin
from adapeff.service.specs.cell_jobs import CellJobs, as_list, members_of
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.mixtures import matching_methods, steps_of
from adapeff.service.specs.sweep_file import LIST_SETTINGS, SweepSpec


def expand(sweep: SweepSpec, *, data_root: Path | None) -> list[JobSpec]:
    """Create all jobs of a sweep, each once, in the order models, tasks, methods, settings, seeds.

    Jobs come after those they build on, so extensions are last.

    Raises:
        SpecError: for an unknown name or parameter, or if there are no jobs.
        DataError, ModelError: if local data or a local model cannot be read.
    """
    names = [*sweep.tasks, *(task for name in sweep.suites for task in catalog.get_suite(name).tasks)]
    tasks = [task for text in names for task in _matching_folders(text)]
    tasks = list(dict.fromkeys([*tasks, *(mixture.name for mixture in sweep.mixtures)]))
    jobs = CellJobs(sweep, data_root)
    extended = [jobs.text_of(task) for growth in sweep.extend for task in (growth.base, *growth.add)]
    _check_test_languages(sweep, [*map(jobs.text_of, tasks), *filter(_is_task, extended)])
    grid = [jobs.of_cell(cell) for cell in _cells(sweep, tasks, jobs)]
    needed = {job.job_hash: job for job in jobs.needed}
    kept = [needed.get(job.keeping_weights().job_hash, job) for job in grid]
    return list({job.job_hash: job for job in (*_first(kept), *needed.values(), *kept)}.values())


def _first(jobs: Iterable[JobSpec]) -> list[JobSpec]:
    """The jobs that build on no other."""
    return [job for job in jobs if not job.sources]


def _cells(sweep: SweepSpec, tasks: Sequence[str], jobs: CellJobs) -> list[dict[str, Any]]:
    """The cells of the grid, minus the excluded and plus the included ones, each as a mapping.

    Raises:
        SpecError: if an axis is empty, an exclude matches nothing, or nothing is left.
    """
    axes = {key: value for key, value in sweep.settings.items() if key not in LIST_SETTINGS and isinstance(value, list)}
    for key, values in axes.items():
        if not values:
            raise SpecError(f"setting '{key}' is an empty list, so the grid is empty; list at least one value")
    fixed = {key: value for key, value in sweep.settings.items() if key not in axes}
    cells: list[dict[str, Any]] = [
        {"model": model, "task": task, "method": method, **fixed, **dict(zip(axes, values, strict=True)), "seed": seed}
        for model, (task, methods) in itertools.product(sweep.models, _columns(sweep, tasks, jobs))
        for method, values, seed in itertools.product(methods, itertools.product(*axes.values()), sweep.seeds)
    ]
    for rule in sweep.exclude:
        if not any(_matches(cell, rule) for cell in cells):
            raise SpecError(f"exclude {rule} matches no job of the grid; correct or remove it")
    cells = [cell for cell in cells if not any(_matches(cell, rule) for rule in sweep.exclude)]
    for extra in sweep.include:
        seeds = (extra["seed"],) if "seed" in extra else sweep.seeds
        cells += [{**fixed, **extra, "seed": seed} for seed in seeds]
    if not cells:
        raise SpecError(f"sweep '{sweep.name}' has no jobs left after its excludes; loosen `exclude`")
    return cells


def _columns(sweep: SweepSpec, tasks: Sequence[str], jobs: CellJobs) -> list[tuple[str, Sequence[str]]]:
    """The tasks of the grid with the methods of each; extensions and fusions come last."""
    columns: list[tuple[str, Sequence[str]]] = [(task, sweep.methods) for task in tasks]
    for growth in sweep.extend:
        methods = matching_methods(growth, sweep.methods)
        steps = list(steps_of(growth, sweep.mixtures))
        columns += [(jobs.name_step(step), methods) for step in steps]
        if growth.fusion:
            columns += [
                (added, [jobs.name_fusion(step, growth.fusion)])
                for step in steps[:: len(growth.replay)]
                for added in step.add
            ]
    return columns


def _matching_folders(task: str) -> list[str]:
    """The task, or the folders with a task.yaml that match a pattern such as ./customers/*.

    Raises:
        SpecError: if no folder matches.
    """
    if not glob.has_magic(task.partition("[")[0]):
        return [task]
    pattern = expanded(task)
    matches = sorted(Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor))))
    tasks = [path for path in matches if (path / "task.yaml").is_file() or path.suffix in (".yaml", ".yml")]
    if not tasks:
        raise SpecError(f"no folder with a task.yaml matches '{task}'; check the pattern and the working directory")
    return [str(path) if path.is_absolute() else f"./{path}" for path in tasks]


def _check_test_languages(sweep: SweepSpec, tasks: Sequence[str]) -> None:
    """Refuse test languages that no task has, and languages for a task that is not in the sweep."""
    asked = sweep.settings.get("test_languages")
    named = [parse_plugin(member) for text in tasks for member in members_of(text) or (text,)]
    known = {reference.name: catalog.get_task(reference.name) for reference in named}
    if isinstance(asked, Mapping):
        for name, languages in asked.items():
            if name not in known:
                raise SpecError(f"test_languages names the task '{name}'; {suggest(str(name), known)}")
            for language in as_list(languages):
                if language not in known[name].languages:
                    raise SpecError(
                        f"task '{name}' has no test language '{language}'; {suggest(language, known[name].languages)}"
                    )
        return
    every = {language for task in known.values() for language in task.languages}
    for language in as_list(asked):
        if language not in every:
            raise SpecError(f"no task of the sweep has the test language '{language}'; {suggest(language, every)}")


def _matches(cell: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    def same(key: str, wanted: Any) -> bool:
        actual = cell.get(key)
        if isinstance(wanted, list):
            return any(same(key, item) for item in wanted)
        if key in ("method", "task") and isinstance(actual, str) and isinstance(wanted, str) and "[" not in wanted:
            return wanted in (actual, _plain_name(actual))
        return bool(actual == wanted)

    return all(same(key, wanted) for key, wanted in rule.items())


def _is_task(text: str) -> bool:
    """Whether a text is a task, and not a job or an extension by name."""
    name = _plain_name(text)
    return name in catalog.tasks() or is_task_file(name)


def _plain_name(text: str) -> str:
    """The name of a task or method without parameters; a name that stands for an extension or a fusion unchanged."""
    try:
        return parse_plugin(text).name
    except SpecError:
        return text
