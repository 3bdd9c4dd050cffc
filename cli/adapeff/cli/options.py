"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapeff.cli import completion
from adapeff.service.errors import SpecError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SweepFile = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="A sweep file (YAML), or the name of a ready-made sweep.",
        autocompletion=completion.sweep_files,
    ),
]
SweepName = Annotated[
    str | None,
    typer.Argument(
        metavar="SWEEP",
        help="A sweep's name (all its submissions) or the id of one submission; default: the latest sweep.",
        autocompletion=completion.sweep_names,
    ),
]
AllJobs = Annotated[bool, typer.Option("--all", help="Include all finished jobs of all sweeps.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Override a key or setting; repeatable. A list is an axis of the grid."
    ),
]
Models = Annotated[str | None, typer.Option("--models", help="Comma-separated models that replace the sweep's.")]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        help="Comma-separated tasks that replace the sweep's; './customers/*' selects every folder with a task.yaml.",
        autocompletion=completion.task_names,
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help="Methods that replace the sweep's, e.g. 'full,lora[rank=8,alpha=16]'.",
        autocompletion=completion.method_names,
    ),
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Comma-separated seeds that replace the sweep's.")]
Force = Annotated[bool, typer.Option("--force", help="Run finished jobs again, as repeats.")]
WaitForDevice = Annotated[
    bool, typer.Option("--wait-for-device", help="Wait until no other worker of this host holds the devices.")
]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Folder of local data sets, in the hub's schema.")]
JobIds = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="JOB",
        min=1,
        max=2**31 - 1,
        help="Job ids, as shown by `adapeff status`.",
        autocompletion=completion.job_ids,
    ),
]
JobId = Annotated[
    int,
    typer.Argument(
        metavar="JOB",
        min=1,
        max=2**31 - 1,
        help="A job id, as shown by `adapeff status`.",
        autocompletion=completion.job_ids,
    ),
]


def overrides(
    given: list[str] | None, models: str | None, tasks: str | None, methods: str | None, seeds: str | None
) -> list[str]:
    """All overrides of a command in one list."""
    named = {"models": models, "tasks": tasks, "methods": methods, "seeds": seeds}
    return [*(given or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def check_exclusive(first: str, has_first: bool, second: str, has_second: bool) -> None:
    """Refuse two options that exclude each other.

    Raises:
        SpecError: naming both.
    """
    if has_first and has_second:
        raise SpecError(f"{first} and {second} cannot be combined; omit one of them")
