"""The built-in benchmark tasks, registered like any package's: one entry point that points at `TASKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapeff.service.plugins.contracts import Task
from adapeff.worker.tasks.extension import Extension
from adapeff.worker.tasks.hub import HUB_TASKS
from adapeff.worker.tasks.mixture import Mixture
from adapeff.worker.tasks.offline import OfflineNLI, OfflineSentiment
from adapeff.worker.tasks.offline_similarity import OfflineSimilarity
from adapeff.worker.tasks.offline_structured import STRUCTURED_TASKS
from adapeff.worker.tasks.offline_topics import OfflineTopics
from adapeff.worker.tasks.own import load_own_task

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        *HUB_TASKS,
        OfflineSentiment(),
        OfflineNLI(),
        *STRUCTURED_TASKS,
        OfflineSimilarity(),
        OfflineTopics(),
        Mixture(),
        Extension(),
    )
}

TASK_FILES: Mapping[str, Callable[[str], Task]] = {"": load_own_task}
"""Suffix of a path -> what loads the task it names; '' is for folders and all suffixes without a loader of their own.

Packages may register loaders for other forms, such as `.toml`, in the entry-point group `adapeff.task_files`.
"""
