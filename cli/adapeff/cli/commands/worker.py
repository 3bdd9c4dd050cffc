"""`adapeff worker`: serve the queue on this host."""

from __future__ import annotations

from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import DataRoot
from adapeff.cli.worker_client import WorkerClient


def worker(
    context: typer.Context,
    devices: Annotated[
        str,
        typer.Option(
            "--devices",
            help="Specific devices (cuda:0,cuda:1 or cpu:0,cpu:1), all of a kind (cuda or cpu), or auto: all GPUs, or "
            "all CPU slots if there is no GPU.",
        ),
    ] = "auto",
    data_root: DataRoot = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")] = False,
) -> None:
    """Run jobs from the queue, one at a time per device, until stopped.

    Press Ctrl-C to finish running jobs and take no new ones; press it again (or send SIGTERM) to return running jobs to
    the queue and stop immediately.

    Examples:

        adapeff worker

        adapeff worker --devices cuda:0,cuda:1

        adapeff worker --devices cpu:0
    """
    invocation = Invocation.of(context, data_root=data_root)
    invocation.check_settings()
    WorkerClient(invocation.child_environment()).serve(devices, quiet=quiet)
