"""Find methods, tasks, families, suites and metrics by their entry points, both built-in ones and other packages'.

A distribution registers one entry point per group, pointing at a plain mapping from name to plug-in:

    [project.entry-points."adapeff.methods"]
    mypackage = "mypackage.methods:METHODS"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapeff.service.errors import SpecError, UnknownNameError, first_problem, suggest
from adapeff.service.plugins.contracts import FamilyPlugin, Method, Metric, Suite, Task
from adapeff.service.plugins.plugin_reference import is_task_file

_SINGULAR = {"families": "family"}


@cache
def _registered(group: str) -> Mapping[str, Any]:
    plugins: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for point in sorted(entry_points(group=f"adapeff.{group}"), key=lambda point: point.name):
        try:
            mapping = point.load()
        except Exception as error:
            raise SpecError(
                f"the {group} of the installed package '{point.name}' cannot be loaded ({error}); "
                "repair or uninstall that package"
            ) from error
        for name, plugin in mapping.items():
            if name in plugins:
                kind = _SINGULAR.get(group, group[:-1])
                raise SpecError(f"{kind} '{name}' is registered by both '{owner[name]}' and '{point.name}'")
            plugins[name], owner[name] = plugin, point.name
    return plugins


def methods() -> Mapping[str, type[Method]]:
    """All registered methods by name."""
    return _registered("methods")


def tasks() -> Mapping[str, Task]:
    """All registered tasks by name."""
    return _registered("tasks")


def suites() -> Mapping[str, Suite]:
    """All registered suites by name."""
    return _registered("suites")


def metrics() -> Mapping[str, Metric]:
    """All registered metrics by name."""
    return _registered("metrics")


def families() -> Mapping[str, type[FamilyPlugin]]:
    """All registered families of tasks by name."""
    return _registered("families")


def devices() -> Mapping[str, Any]:
    """All registered device backends by name."""
    return _registered("devices")


def get_method(name: str, parameters: Mapping[str, Any]) -> Method:
    """Create the method `name` with its hyper-parameters.

    Raises:
        UnknownNameError: if no package registers it.
        SpecError: if a parameter is unknown or has a wrong value.
    """
    if name not in methods():
        raise UnknownNameError("method", name, methods())
    kind = methods()[name]
    _check_names("method", name, parameters, kind.model_fields)
    try:
        return kind.model_validate(dict(parameters))
    except ValidationError as error:
        raise SpecError(f"method '{name}': {first_problem(error)}") from error


def get_task(name: str, parameters: Mapping[str, Any] | None = None) -> Task:
    """Create the task `name`, or the one described by the file at that path, with its parameters.

    Raises:
        UnknownNameError: if no package registers it, or its family.
        SpecError: if a parameter is unknown or has a wrong value, or the file is malformed.
    """
    task: Task
    if is_task_file(name):
        task = _task_loader(name)(name)
    elif name in tasks():
        task = tasks()[name]
    elif Path(name).is_dir():
        raise SpecError(f"unknown task '{name}'; for the folder of that name write ./{name}")
    else:
        raise UnknownNameError("task", name, tasks())
    if task.family:
        get_family(task.family)
    if not parameters:
        return task
    _check_names("task", name, parameters, task.parameters)
    try:
        return type(task).model_validate({**task.model_dump(), **parameters})
    except ValidationError as error:
        raise SpecError(f"task '{name}': {first_problem(error)}") from error


def _task_loader(path: str) -> Callable[[str], Task]:
    """The registered loader for a path's suffix; folders and other suffixes go to the one registered for ''."""
    loaders = _registered("task_files")
    loader: Callable[[str], Task] = loaders.get(Path(path).suffix.lower(), loaders[""])
    return loader


def get_family(name: str) -> type[FamilyPlugin]:
    """The family `name`.

    Raises:
        UnknownNameError: if no package registers it.
    """
    if name not in families():
        raise UnknownNameError("family", name, families())
    return families()[name]


def get_suite(name: str) -> Suite:
    """The suite `name`.

    Raises:
        UnknownNameError: if no package registers it.
    """
    if name not in suites():
        raise UnknownNameError("suite", name, suites())
    return suites()[name]


def get_metric(name: str) -> Metric:
    """The metric `name`.

    Raises:
        UnknownNameError: if no package registers it.
    """
    if name not in metrics():
        raise UnknownNameError("metric", name, metrics())
    return metrics()[name]


def _check_names(what: str, name: str, given: Mapping[str, Any], known: Any) -> None:
    for parameter in given:
        if parameter not in known:
            raise SpecError(f"{what} '{name}' has no parameter '{parameter}'; {suggest(parameter, known)}")
