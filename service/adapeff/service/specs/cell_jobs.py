"""The job of one cell of a sweep's grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapeff.service.errors import SpecError, first_problem, suggest
from adapeff.service.paths import expanded
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import DataIdentity, Task
from adapeff.service.plugins.plugin_reference import PluginReference, is_task_file, parse_plugin, split_list
from adapeff.service.specs.extensions import mixed, on_base
from adapeff.service.specs.fingerprints import source_fingerprint
from adapeff.service.specs.job import AtMost, JobSpec, Measuring, Training
from adapeff.service.specs.mixtures import JOB_REFERENCE, Step
from adapeff.service.specs.model_reference import resolve_model
from adapeff.service.specs.sweep_file import SweepSpec

_Languages = tuple[str, ...]
_Identify = Callable[[str, _Languages | None], tuple[_Languages, DataIdentity]]


class CellJobs:
    """Makes the jobs of a sweep's cells.

    The task of a cell is a task, or a name that stands for a mixture or an extension of the sweep; its method is a
    method, or a name that stands for AdapterFusion of a method's adapters.
    """

    def __init__(self, sweep: SweepSpec, data_root: Path | None) -> None:
        self.needed: list[JobSpec] = []
        """The jobs whose weights others need, each after those it needs itself."""
        self._sweep = sweep
        self._mixtures = {mixture.name: str(mixture) for mixture in sweep.mixtures}
        self._steps: dict[str, Step] = {}
        self._fusions: dict[str, tuple[str, tuple[str, ...], Mapping[str, Any]]] = {}
        self._identify, self._count = _memoised_identity(data_root), _memoised_count(data_root)

    def text_of(self, name: str) -> str:
        """A task or mixture in full."""
        return self._mixtures.get(name, name)

    def name_step(self, step: Step) -> str:
        """A name that stands for an extension.

        Raises:
            SpecError: if it is that of another one.
        """
        if self._steps.setdefault(step.title, step) != step:
            raise SpecError(f"two extensions would be called '{step.title}'; give the task folders different names")
        if step.base_text != step.base:
            self._mixtures[step.base] = step.base_text
        return step.title

    def name_fusion(self, step: Step, method: str) -> str:
        """A name that stands for AdapterFusion of a method's adapters on all tasks of an extension.

        Raises:
            SpecError: if its base is a job, whose tasks are not known yet.
        """
        if JOB_REFERENCE.fullmatch(step.base):
            raise SpecError(f"fusion needs the tasks of the base, but '{step.base}' is a job; name a mixture instead")
        name = f"adapterfusion of {method} on {step.title}"
        sizes = {**parse_plugin(step.base_text).parameters.get("train_sizes", {}), **step.train_sizes}
        self._fusions[name] = method, (*(members_of(step.base_text) or (step.base_text,)), *step.add), sizes
        return name

    def of_cell(self, cell: Mapping[str, Any]) -> JobSpec:
        """The job of a cell.

        Raises:
            SpecError: for an unknown name or parameter, or settings that do not fit.
            DataError, ModelError: if local data or a local model cannot be read.
        """
        name = str(cell["task"])
        if fusion := self._fusions.get(str(cell["method"])):
            method, tasks, sizes = fusion
            sources = [
                self._need({**cell, **_own_size(task, sizes), "task": task, "method": method}).job_hash
                for task in tasks
            ]
            cell = {**cell, **_own_size(name, sizes)}
            return self._of_task(cell, name, PluginReference(name="adapterfusion", parameters={"sources": sources}))
        if step := self._steps.get(name):
            return self._extension(cell, step.reference).model_copy(update={"task_title": name})
        text = self.text_of(name)
        reference, members = parse_plugin(text), members_of(text)
        if reference.name == "extension":
            return self._extension(cell, reference)
        if not members:
            return self._of_task(cell, text, parse_plugin(str(cell["method"])))
        task = canonical_task(reference)
        job = self._mixture(cell, task, members, task.parameters.get("train_sizes", {}))
        return job.model_copy(update={"task_title": name}) if name in self._mixtures else job

    def _need(self, cell: Mapping[str, Any]) -> JobSpec:
        """The job of a cell, which will keep its weights."""
        job = self.of_cell(cell).keeping_weights()
        self.needed.append(job)
        return job

    def _mixture(
        self, cell: Mapping[str, Any], task: PluginReference, members: Sequence[str], sizes: Mapping[str, Any]
    ) -> JobSpec:
        method = parse_plugin(str(cell["method"]))
        jobs = [self._of_task({**cell, **_own_size(member, sizes)}, member, method) for member in members]
        return mixed(task, jobs, train_size=_train_size(cell))

    def _extension(self, cell: Mapping[str, Any], reference: PluginReference) -> JobSpec:
        """An extension; one of a job is completed when it is submitted, because only the database knows the job."""
        base, added = str(reference.parameters.get("base", "")), _members(reference)
        if not base:
            raise SpecError("an extension needs a base; write extension[base=12,add=[wnut]]")
        if "tasks" in reference.parameters:
            raise SpecError("the tasks of an extension are those of its base and of add; remove tasks")
        given = canonical_task(reference).parameters
        kept = {key: value for key, value in given.items() if key not in ("base", "tasks", "train_sizes")}
        task = PluginReference(name=reference.name, parameters=kept)
        new = self._mixture(cell, task, added, given.get("train_sizes", {}))
        if JOB_REFERENCE.fullmatch(base):
            return new.model_copy(update={"sources": (*new.sources, base), "base": base})
        job = self._need({**cell, "task": base})
        if job.base and len(job.members) == len(job.task.parameters["add"]):
            raise SpecError(
                f"cannot extend '{base}': it extends job {job.base}, whose tasks are not known yet; "
                "submit it first and give its job as the base"
            )
        spec = new.model_copy(update={"sources": (*new.sources, job.job_hash), "base": job.job_hash})
        try:
            return on_base(spec, job)
        except ValueError as error:
            raise SpecError(f"cannot extend '{base}': {error}") from error

    def _of_task(self, cell: Mapping[str, Any], text: str, method_reference: PluginReference) -> JobSpec:
        """The job of a single task."""
        method = catalog.get_method(method_reference.name, method_reference.parameters)
        method_parameters = method.model_dump(mode="json", exclude_defaults=True)
        task_reference = canonical_task(parse_plugin(text))
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
            languages, data = self._identify(text, measured.test_languages)
            trained = Training.model_validate({**training, "learning_rate": learning_rate})
            _check_train_size(trained.train_size, task, data, self._count)
            return JobSpec(
                model=resolve_model(str(cell["model"])),
                task=task_reference,
                data=data,
                method=PluginReference(name=method_reference.name, parameters=method_parameters),
                seed=cell["seed"],
                training=trained,
                learning_rate_source=source,
                measuring=measured.model_copy(update={"test_languages": languages}),
                time_limit_minutes=self._sweep.time_limit_minutes,
                sources=sources,
            )
        except ValidationError as error:
            raise SpecError(f"sweep '{self._sweep.name}': {first_problem(error)}") from error


def as_list(value: Any) -> list[str]:
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
    wanted = as_list(asked)
    languages = tuple(language for language in wanted if language in task.languages)
    if not languages:
        raise SpecError(
            f"task '{task.name}' has none of the test languages {', '.join(wanted)}; "
            f"{suggest(wanted[0], task.languages)}; list languages per task: "
            f"test_languages: {{{task.name}: [{task.languages[0]}]}}"
        )
    return languages


def _source(name: str) -> str:
    """A source as stored in a job: a folder's fingerprint; a job's id or hash is looked up in the database later."""
    if JOB_REFERENCE.fullmatch(name):
        return name
    folder = expanded(name)
    if folder.is_dir():
        return source_fingerprint(folder)
    raise SpecError(
        f"source '{name}' is neither a job (its id, or 12 or more characters of its job hash) nor an existing folder"
    )


def canonical_task(reference: PluginReference) -> PluginReference:
    """Validate a task's parameters and drop those at their default; a task file becomes an absolute path."""
    registered, task = catalog.get_task(reference.name), catalog.get_task(reference.name, reference.parameters)
    given = task.model_dump(mode="json", include=set(reference.parameters))
    default = registered.model_dump(mode="json", include=set(reference.parameters))
    changed = {key: value for key, value in given.items() if value != default[key]}
    name = str(expanded(reference.name).resolve()) if is_task_file(reference.name) else reference.name
    return PluginReference(name=name, parameters=changed)


def members_of(text: str) -> tuple[str, ...]:
    """The tasks of a mixture, or the new ones of an extension; none for a single task.

    Raises:
        SpecError: if a mixture has no tasks, or an extension no new ones.
    """
    return _members(parse_plugin(text))


def _members(reference: PluginReference) -> tuple[str, ...]:
    task = catalog.get_task(reference.name, reference.parameters)
    if task.name == "mixture" and not task.members():
        raise SpecError("a mixture needs tasks; write mixture[tasks=[sst2,xnli]]")
    if task.name == "extension" and not task.members():
        raise SpecError("an extension needs new tasks; write extension[base=12,add=[wnut]]")
    return task.members()


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


def _own_size(task: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The training examples of a task of a mixture, as a setting, if it has a number of its own."""
    name = str(parse_plugin(task))
    return {"train_size": sizes[name]} if name in sizes else {}


def _train_size(cell: Mapping[str, Any]) -> int | AtMost | None:
    """The training examples of each task of a cell that has no number of its own."""
    return Training.model_validate({"learning_rate": 1.0, "train_size": cell.get("train_size")}).train_size
