"""What a table is called: its task, and what tells it from other tables of the same task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Task
from adapeff.service.plugins.plugin_reference import is_task_file
from adapeff.service.reporting.variation import in_words
from adapeff.service.specs.job import JobSpec

if TYPE_CHECKING:
    from adapeff.service.reporting.runs import Result


def task_name(spec: JobSpec) -> str:
    """A task's name; for a task file, the name of its folder or the file's stem; the sweep's name for a mixture."""
    if spec.task_title:
        return spec.task_title
    return file_stem(spec.task.name) if is_task_file(spec.task.name) else str(spec.task)


def full_title(spec: JobSpec) -> str:
    """A task's title as registered here; the name of a mixture, or of a task whose plug-in is missing."""
    task = find_task(spec)
    return task_name(spec) if task is None or spec.members else task.title


def file_stem(name: str) -> str:
    """The name of a task file's folder, or the file's stem."""
    path = PurePath(name)
    return path.parent.name if path.name == "task.yaml" else path.stem


def title_ending(result: Result, varied: Sequence[str]) -> str:
    """The end of a table's title, which distinguishes it from other tables of the same task."""
    size = result.spec.training.train_size
    count = f", {size:,} training examples" if isinstance(size, int) else f", {size} training examples" if size else ""
    settings = result.run.settings
    others = {key: settings[key] for key in varied if key in settings and key not in ("train_size", "device")}
    return f"{count}{f', {in_words(others)}' if others else ''}"


def revision_of(environment: Mapping[str, Any]) -> str:
    """adapeff's version and revision: `0.1.0 at 2f609d1 with changes`."""
    changed = " with changes" if environment.get("git_dirty") else ""
    revision = f" at {environment['git_revision'][:7]}{changed}" if environment.get("git_revision") else ""
    return f"{environment.get('adapeff')}{revision}"


def find_task(spec: JobSpec) -> Task | None:
    """The task as registered on this machine; None if its plug-in is missing, since a report must not need it."""
    try:
        return catalog.get_task(spec.task.name, spec.task.parameters)
    except AdapeffError:
        return None
