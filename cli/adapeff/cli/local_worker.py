"""Run a submission on this machine: start workers for its jobs, and show progress until they have ended."""

from __future__ import annotations

from adapeff.cli.invocation import Invocation
from adapeff.cli.messages import Interrupted, note
from adapeff.cli.progress import wait_for
from adapeff.cli.submission import send
from adapeff.cli.worker_client import WorkerClient
from adapeff.service.errors import ResourceError
from adapeff.service.lanes import device_kinds, device_of
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database
from adapeff.service.store.sweeps import Submission


def run_submission(
    invocation: Invocation,
    database: Database,
    submission: Submission,
    devices: str | None,
    *,
    cores: int = 1,
    with_queue: bool = False,
    wait_for_device: bool = False,
) -> None:
    """Run the jobs of a submission that have not ended on this machine, and wait for them.

    Args:
        devices: as for `worker`; None: those the jobs request.
        cores: the minimum number of CPU cores per slot.
        with_queue: serve the whole queue, not only these jobs.
        wait_for_device: wait until no other worker holds the devices.
    """
    kinds = _pending_kinds(database, submission.job_ids)
    if not kinds:
        return
    if cores > invocation.settings.cores_per_slot:
        invocation = invocation.with_flags(cores_per_slot=cores)
    if with_queue:
        send(database, invocation.settings)
    selections = [_check_devices(devices, kinds)] if devices else _devices_for(kinds)
    client = WorkerClient(invocation.child_environment())
    sweep_id = None if with_queue else submission.sweep_id
    with client.local_workers(selections, sweep_id=sweep_id, wait_for_device=wait_for_device) as workers:
        try:
            wait_for(database, submission.job_ids, workers=workers)
        except Interrupted:
            note("stopping: running jobs return to the queue; run the same command to resume them")
            raise


def _pending_kinds(database: Database, job_ids: list[int]) -> set[str]:
    """The kinds of device, including `any`, that unfinished jobs request."""
    with database.session(read_only=True) as session:
        pending = job_queries.list_jobs(session, ids=job_ids, states=("queued", "running"))
        return {device_of(job.lane) for job in pending}


def _check_devices(devices: str, kinds: set[str]) -> str:
    """Check that a worker on the requested devices can run every pending job."""
    kind = devices.partition(":")[0]
    if kind in device_kinds() and (others := kinds - {"any", kind}):
        raise ResourceError(
            f"--devices {devices} cannot run jobs with the setting device: {', '.join(sorted(others))}; "
            "omit --devices, or override the setting with -s device=any"
        )
    return devices


def _devices_for(kinds: set[str]) -> list[str]:
    """The devices of each worker: one worker per kind of device that jobs request; jobs for any device run on all."""
    return sorted(kinds - {"any"}) or ["auto"]
