"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapeff.cli import completion

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SweepFile = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="A sweep file (YAML), or the name of a ready-made one.",
        autocompletion=completion.sweep_files,
    ),
]
SweepName = Annotated[
    str | None,
    typer.Argument(
        metavar="[SWEEP]",
        help="A sweep's name, for all its submissions, or the number of one; the newest name if none is given.",
        autocompletion=completion.sweep_names,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key or setting; repeatable. Lists are axes."),
]
Models = Annotated[str | None, typer.Option("--models", help="Models, comma separated, instead of the sweep's.")]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        help="Tasks, comma separated, instead of the sweep's; './customers/*' takes every folder with a task.yaml.",
        autocompletion=completion.task_names,
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help="Methods, e.g. 'full,lora[rank=8,alpha=16]', instead of the sweep's.",
        autocompletion=completion.method_names,
    ),
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Seeds, comma separated, instead of the sweep's.")]
Force = Annotated[bool, typer.Option("--force", help="Run again what has a result already, as a repeat.")]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Folder of local data sets in the hub's schema.")]
JobIds = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="JOB...",
        min=1,
        max=2**31 - 1,
        help="Job ids, as `adapeff status` shows them.",
        autocompletion=completion.job_ids,
    ),
]
JobId = Annotated[
    int,
    typer.Argument(
        metavar="JOB",
        min=1,
        max=2**31 - 1,
        help="A job's id, as `adapeff status` shows it.",
        autocompletion=completion.job_ids,
    ),
]


def overrides(
    given: list[str] | None, models: str | None, tasks: str | None, methods: str | None, seeds: str | None
) -> list[str]:
    """All overrides of a command in one list."""
    named = {"models": models, "tasks": tasks, "methods": methods, "seeds": seeds}
    return [*(given or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]
