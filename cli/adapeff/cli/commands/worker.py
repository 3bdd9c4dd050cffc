"""`adapeff worker`: serve the queue on this host."""

from __future__ import annotations

from typing import Annotated

import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.options import DataRoot, WaitForDevice
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
    drain: Annotated[bool, typer.Option("--drain", help="Stop when the queue is empty.")] = False,
    max_jobs: Annotated[int | None, typer.Option(help="Stop after this many runs.", min=1)] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Stop within this time, e.g. 3h55m: take no job that would take longer, judging by similar runs, and "
            "return running jobs to the queue half a minute before.",
        ),
    ] = None,
    wait_for_device: WaitForDevice = False,
    data_root: DataRoot = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")] = False,
) -> None:
    """Run jobs from the queue, one at a time per device, until stopped.

    Press Ctrl-C to finish running jobs and take no new ones; press it again (or send SIGTERM or SIGUSR1) to return
    running jobs to the queue and stop immediately. Jobs that were in training write a checkpoint first, from which
    their next run goes on.

    Examples:

        adapeff worker

        adapeff worker --devices cuda:0,cuda:1

        adapeff worker --devices cpu:0

        adapeff worker --drain --until 3h55m
    """
    invocation = Invocation.of(context, data_root=data_root)
    invocation.check_settings()
    WorkerClient(invocation.child_environment()).serve(
        devices, quiet=quiet, drain=drain, max_jobs=max_jobs, until=until, wait_for_device=wait_for_device
    )
