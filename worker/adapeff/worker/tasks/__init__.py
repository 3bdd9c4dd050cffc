"""Our benchmark tasks, registered as anyone's are: one entry point that points at `TASKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapeff.service.plugins.contracts import Task
from adapeff.worker.tasks.hub import HUB_TASKS
from adapeff.worker.tasks.offline import OfflineNLI, OfflineSentiment
from adapeff.worker.tasks.offline_structured import STRUCTURED_TASKS
from adapeff.worker.tasks.own import load_own_task

TASKS: Mapping[str, Task] = {
    task.name: task for task in (*HUB_TASKS, OfflineSentiment(), OfflineNLI(), *STRUCTURED_TASKS)
}

TASK_FILES: Mapping[str, Callable[[str], Task]] = {"yaml": load_own_task}
"""How a task that is named by a path is loaded."""
