"""Our benchmark tasks, registered as anyone's are: one entry point that points at `TASKS`."""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.service.plugins import Task
from adapeff.worker.tasks.hub import HUB_TASKS
from adapeff.worker.tasks.offline import OFFLINE_TASKS

TASKS: Mapping[str, Task] = {task.name: task for task in (*HUB_TASKS, *OFFLINE_TASKS)}
