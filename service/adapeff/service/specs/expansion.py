"""Expand a sweep into its jobs."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapeff.service.errors import SpecError, first_problem, suggest
from adapeff.service.paths import expanded
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import DataIdentity, Task
from adapeff.service.plugins.plugin_reference import PluginReference, is_task_file, parse_plugin, split_list
from adapeff.service.specs.fingerprints import joint_identity, source_fingerprint
from adapeff.service.specs.job import AtMost, JobSpec, Measuring, Member, Training
from adapeff.service.specs.model_reference import resolve_model
from adapeff.service.specs.sweep_file import LIST_SETTINGS, SweepSpec

_JOB_REFERENCE = re.compile(r"[0-9]{1,9}|[0-9a-f]{12,64}")
_Languages = tuple[str, ...]
_Identify = Callable[[str, _Languages | None], tuple[_Languages, DataIdentity]]


def expand(sweep: SweepSpec, *, data_root: Path | None) -> list[JobSpec]:
    """Create all jobs of a sweep, each once, in the order models, tasks, methods, settings, seeds.

    Raises:
        SpecError: for an unknown name or parameter, or if there are no jobs.
        DataError, ModelError: if local data or a local model cannot be read.
    """
    names = [*sweep.tasks, *(task for name in sweep.suites for task in catalog.get_suite(name).tasks)]
    tasks = [task for text in names for task in _matching_folders(text)]
    _check_test_languages(sweep, tasks)
    cells = _cells(sweep, tasks)
    identify, count = _memoised_identity(data_root), _memoised_count(data_root)
    jobs = [_job(cell, sweep=sweep, identify=identify, count=count) for cell in cells]
    return list({job.job_hash: job for job in jobs}.values())


def _cells(sweep: SweepSpec, tasks: Sequence[str]) -> list[dict[str, Any]]:
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
        for model, task, method, values, seed in itertools.product(
            sweep.models, tasks, sweep.methods, itertools.product(*axes.values()), sweep.seeds
        )
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
    named = [parse_plugin(member) for text in tasks for member in _members_of(text) or (text,)]
    known = {reference.name: catalog.get_task(reference.name) for reference in named}
    if isinstance(asked, Mapping):
        for name, languages in asked.items():
            if name not in known:
                raise SpecError(f"test_languages names the task '{name}'; {suggest(str(name), known)}")
            for language in _as_list(languages):
                if language not in known[name].languages:
                    raise SpecError(
                        f"task '{name}' has no test language '{language}'; {suggest(language, known[name].languages)}"
                    )
        return
    every = {language for task in known.values() for language in task.languages}
    for language in _as_list(asked):
        if language not in every:
            raise SpecError(f"no task of the sweep has the test language '{language}'; {suggest(language, every)}")


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in (split_list(value) if isinstance(value, str) else value)]


def _languages_of(task: Task, asked: Any) -> tuple[str, ...] | None:
    """The languages in which to test a task; None: all available ones.

    Raises:
        SpecError: if the task has none of them.
    """
    if isinstance(asked, Mapping):
        asked = asked.get(task.name)
    if asked is None:
        return None
    wanted = _as_list(asked)
    languages = tuple(language for language in wanted if language in task.languages)
    if not languages:
        raise SpecError(
            f"task '{task.name}' has none of the test languages {', '.join(wanted)}; "
            f"{suggest(wanted[0], task.languages)}; list languages per task: "
            f"test_languages: {{{task.name}: [{task.languages[0]}]}}"
        )
    return languages


def _matches(cell: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    def same(key: str, wanted: Any) -> bool:
        actual = cell.get(key)
        if isinstance(wanted, list):
            return any(same(key, item) for item in wanted)
        if key in ("method", "task") and isinstance(actual, str) and isinstance(wanted, str) and "[" not in wanted:
            return parse_plugin(actual).name == wanted
        return bool(actual == wanted)

    return all(same(key, wanted) for key, wanted in rule.items())


def _check_train_size(size: int | AtMost | None, task: Task, data: DataIdentity, count: Callable[[Task], int]) -> None:
    """Refuse more training examples than there are, if the data are available locally."""
    if isinstance(size, int) and data.source != "hub" and size > (available := count(task)):
        raise SpecError(
            f"train_size is {size}, but '{task.name}' has {available} training examples; lower it, or set it to "
            f"all or {{at_most: {size}}}"
        )


def _memoised_count(data_root: Path | None) -> Callable[[Task], int]:
    counts: dict[str, int] = {}

    def count(task: Task) -> int:
        key = f"{task.name} {task.source_language} {task.model_dump(include=set(task.parameters))}"
        if key not in counts:
            counts[key] = len(task.examples("train", task.source_language, data_root))
        return counts[key]

    return count


def _memoised_identity(data_root: Path | None) -> _Identify:
    seen: dict[tuple[str, _Languages | None], tuple[_Languages, DataIdentity]] = {}

    def identify(text: str, asked: _Languages | None) -> tuple[_Languages, DataIdentity]:
        if (text, asked) not in seen:
            reference = parse_plugin(text)
            task = catalog.get_task(reference.name, reference.parameters)
            languages = asked or task.available_languages(data_root)
            seen[text, asked] = languages, task.identity(languages, data_root)
        return seen[text, asked]

    return identify


def _source(name: str) -> str:
    """A source as stored in a job: a folder's fingerprint; a job's id or hash is looked up in the database later."""
    if _JOB_REFERENCE.fullmatch(name):
        return name
    folder = expanded(name)
    if folder.is_dir():
        return source_fingerprint(folder)
    raise SpecError(
        f"source '{name}' is neither a job (its id, or 12 or more characters of its job hash) nor an existing folder"
    )


def _canonical_task(reference: PluginReference) -> PluginReference:
    """Validate a task's parameters and drop those at their default; a task file becomes an absolute path."""
    registered, task = catalog.get_task(reference.name), catalog.get_task(reference.name, reference.parameters)
    given = task.model_dump(mode="json", include=set(reference.parameters))
    default = registered.model_dump(mode="json", include=set(reference.parameters))
    changed = {key: value for key, value in given.items() if value != default[key]}
    name = str(expanded(reference.name).resolve()) if is_task_file(reference.name) else reference.name
    return PluginReference(name=name, parameters=changed)


def _members_of(text: str) -> tuple[str, ...]:
    """The tasks of a mixture; none for a single task.

    Raises:
        SpecError: if a mixture has no tasks.
    """
    reference = parse_plugin(text)
    task = catalog.get_task(reference.name, reference.parameters)
    if task.name == "mixture" and not task.members():
        raise SpecError("a mixture needs tasks; write mixture[tasks=[sst2,xnli]]")
    return task.members()


def _mixture(reference: PluginReference, jobs: Sequence[JobSpec]) -> JobSpec:
    """The job of a mixture, from those of its tasks alone: all settings but the data and the lengths are equal."""
    members = tuple(
        Member(
            task=job.task,
            data=job.data,
            max_length=job.training.max_length,
            test_languages=job.measuring.test_languages or (),
        )
        for job in jobs
    )
    longest = max(member.max_length for member in members)
    languages = tuple(dict.fromkeys(language for member in members for language in member.test_languages))
    return jobs[0].model_copy(
        update={
            "task": reference,
            "data": joint_identity([member.data for member in members]),
            "training": jobs[0].training.model_copy(update={"max_length": longest}),
            "measuring": jobs[0].measuring.model_copy(update={"test_languages": languages}),
            "members": members,
        }
    )


def _job(
    cell: Mapping[str, Any],
    *,
    sweep: SweepSpec,
    identify: _Identify,
    count: Callable[[Task], int],
) -> JobSpec:
    method_reference = parse_plugin(str(cell["method"]))
    method = catalog.get_method(method_reference.name, method_reference.parameters)
    method_parameters = method.model_dump(mode="json", exclude_defaults=True)
    if members := _members_of(str(cell["task"])):
        jobs = [_job({**cell, "task": member}, sweep=sweep, identify=identify, count=count) for member in members]
        return _mixture(_canonical_task(parse_plugin(str(cell["task"]))), jobs)
    task_reference = _canonical_task(parse_plugin(str(cell["task"])))
    settings = {key: value for key, value in cell.items() if key not in ("model", "task", "method", "seed")}
    learning_rate = settings.get("learning_rate", "default")
    source = "set in the sweep"
    if learning_rate == "default":
        learning_rate, source = method.learning_rate()
    elif settings.get("tuning"):
        raise SpecError("learning_rate and tuning exclude each other; remove one of them")
    if settings.get("tuning"):
        source = "tuned"
    training = {key: value for key, value in settings.items() if key in Training.model_fields}
    task = catalog.get_task(task_reference.name, task_reference.parameters)
    if task.max_length is not None:
        training.setdefault("max_length", task.max_length)
    measuring = {key: value for key, value in settings.items() if key in Measuring.model_fields}
    if "test_languages" in measuring:
        measuring["test_languages"] = _languages_of(task, measuring["test_languages"])
    sources = tuple(_source(name) for name in method.source_names())
    if sources:  # absolute paths, so that workers find folders from any working directory
        method_parameters["sources"] = [
            str(expanded(name).resolve()) if source.startswith("folder:") else name
            for name, source in zip(method.source_names(), sources, strict=True)
        ]
    try:
        measured = Measuring.model_validate(measuring)
        languages, data = identify(str(cell["task"]), measured.test_languages)
        trained = Training.model_validate({**training, "learning_rate": learning_rate})
        _check_train_size(trained.train_size, task, data, count)
        return JobSpec(
            model=resolve_model(str(cell["model"])),
            task=task_reference,
            data=data,
            method=PluginReference(name=method_reference.name, parameters=method_parameters),
            seed=cell["seed"],
            training=trained,
            learning_rate_source=source,
            measuring=measured.model_copy(update={"test_languages": languages}),
            time_limit_minutes=sweep.time_limit_minutes,
            sources=sources,
        )
    except ValidationError as error:
        raise SpecError(f"sweep '{sweep.name}': {first_problem(error)}") from error
