"""`adapeff worker`: serve the queue on this host."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from adapeff.cli import invocation as context
from adapeff.cli.options import DataRoot

Devices = Annotated[
    str, typer.Option("--devices", help="cuda:0,cuda:1 or cpu:0,cpu:1, or cuda, cpu, auto (GPUs, else CPU slots).")
]


def worker(
    devices: Devices = "auto",
    data_root: DataRoot = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show warnings only.")] = False,
) -> None:
    """Run jobs from the queue, one at a time per device, until stopped.

    Ctrl-C once: finish what runs and take nothing new. Twice (or SIGTERM): hand back what runs to the queue, now.

    Examples:

        adapeff worker

        adapeff worker --devices cuda:0,cuda:1

        adapeff worker --devices cpu:0
    """
    context.set_flags(data_root=data_root)
    context.settings()
    command = [sys.executable, "-m", "adapeff.worker", "daemon", "--devices", devices, *(["--quiet"] if quiet else [])]
    os.execve(sys.executable, command, context.child_environment())
