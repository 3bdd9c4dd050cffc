"""Run one job: `python -m adapeff.worker.runner job.json --out DIR`.

Needs neither database nor queue, only torch, transformers and peft. It writes `events.jsonl` (see `events.py`) and the
artifacts to DIR and logs to stderr. The exit code is 0 on success and 1 if the job failed; the last event contains the
reason. With `--checkpoints`, SIGTERM during training ends it after the current step, and the next run goes on there.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import transformers
from pydantic import ValidationError

from adapeff.service.errors import (
    AdapeffError,
    NotHereError,
    ResourceError,
    SpecError,
    UnknownNameError,
    first_line,
    first_problem,
)
from adapeff.service.masking import mask
from adapeff.service.plugins import catalog
from adapeff.service.specs.fingerprints import file_fingerprint
from adapeff.service.specs.profile import AnySpec, ProfileSpec, read_spec
from adapeff.worker.devices.choice import choose_device, out_of_memory
from adapeff.worker.devices.locks import occupy
from adapeff.worker.events import DISK_FAILED, WAITING, EventLog
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.modeling.weights import WEIGHTS
from adapeff.worker.profiling.profiler import run_profile
from adapeff.worker.training.checkpoints import Checkpoints, StoppedError
from adapeff.worker.training.run import run_job

logger = logging.getLogger("adapeff.runner")

CONDITIONS = (
    *("device_type", "device_name", "precision", "torch_threads", "cpu_capability", "python", "git_revision"),
    *("adapeff", "torch", "transformers", "peft", "tokenizers", "numpy"),
)
"""What of a run's environment has to be the same for another run to go on from its checkpoint."""


def ending(error: BaseException) -> tuple[str, str]:
    """Return the outcome and one-line message of a run that ends with an exception."""
    if isinstance(error, AdapeffError):
        return "error", mask(str(error)).strip()
    line = first_line(error)
    if out_of_memory(error):
        return "oom", f"out of memory ({line}); use a smaller batch_size or max_length"
    return "error", f"{type(error).__name__}: {line}"


_OF_THE_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.EFBIG, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT),
}


def is_of_the_host(error: BaseException) -> bool:
    """Whether the error is this host's fault, not the job's: something is missing, or the disk fails."""
    if isinstance(error, ResourceError | UnknownNameError | ImportError):
        return True
    if isinstance(error, OSError):
        return error.errno in _OF_THE_DISK
    return any(f"(os error {number})" in str(error) for number in _OF_THE_DISK)  # how Rust libraries report them


def main() -> int:
    """Parse the command line, run the job and write its outcome as the last event."""
    parser = argparse.ArgumentParser(prog="python -m adapeff.worker.runner", description="Run one job, alone.")
    parser.add_argument("job", type=Path, help="the job's specification, JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for events and artifacts")
    parser.add_argument("--device", choices=sorted(catalog.devices()), help="default: the job's device")
    parser.add_argument("--data-root", type=Path, help="folder of local data sets")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="JOB_HASH[@SHA256]=FOLDER",
        help="folder with the weights of a source job, and their expected hash; repeatable",
    )
    parser.add_argument("--cache", type=Path, help="folder of tokenised data, shared by runners; may be emptied")
    parser.add_argument("--checkpoints", type=Path, help="folder of the job's checkpoints, to go on from and to write")
    parser.add_argument("--checkpoint-seconds", type=float, default=300, help="how often to write one (default: 300)")
    parser.add_argument("--locks", type=Path, help="folder of the host's locks (default: the host's standard one)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, level=logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.disable_progress_bar()
    os.umask(0o077)  # a run's files are private to this user
    arguments.out.mkdir(parents=True, exist_ok=True)
    clock, log = PhaseClock(), EventLog(arguments.out)
    opened = _listen_to_termination()

    def checkpoints(here: Mapping[str, Any]) -> Checkpoints:
        every, conditions = arguments.checkpoint_seconds, {name: here.get(name) for name in CONDITIONS}
        opened.append(Checkpoints(arguments.checkpoints, every_seconds=every, conditions=conditions))
        return opened[-1]

    try:
        spec = _read_spec(arguments.job)
        sources = dict(_read_source(text) for text in arguments.source)
        if arguments.device is not None and spec.device not in ("any", arguments.device):
            raise SpecError(f"the job requests device: {spec.device}, but --device is {arguments.device}")
        with ExitStack() as locks:
            with clock.phase("wait"):
                device, alone = choose_device(arguments.device or spec.device).identity(), isinstance(spec, ProfileSpec)
                waiting: dict[str, Any] = {"waiting": lambda: _tell_waiting(log), "folder": arguments.locks}
                locks.enter_context(occupy(device, alone=alone, **waiting))
            if isinstance(spec, ProfileSpec):
                run_profile(spec, arguments.job, arguments.out, device_name=arguments.device, clock=clock)
            else:
                run_job(
                    spec,
                    arguments.out,
                    device_name=arguments.device,
                    data_root=arguments.data_root,
                    sources=sources,
                    cache=arguments.cache,
                    clock=clock,
                    checkpoints=checkpoints if arguments.checkpoints else None,
                )
    except StoppedError as error:
        logger.info("%s", error)
        _end_by(signal.SIGTERM)
    except KeyboardInterrupt:
        return _end(log, 130, outcome="cancelled", message="interrupted")
    except Exception as error:
        outcome, message = ending(error)
        logger.log(logging.ERROR, "%s", message, exc_info=None if isinstance(error, AdapeffError) else error)
        return _end(log, 1, outcome=outcome, message=message, not_here=is_of_the_host(error))
    resumed_at = next((checkpoints.resumed_at for checkpoints in opened), 0)
    return _end(log, 0, outcome="succeeded", message=f"resumed at step {resumed_at}" if resumed_at else "")


def _listen_to_termination() -> list[Checkpoints]:
    """Let SIGTERM or SIGUSR1 end the process; with a checkpoint, if it trains with any of the returned list."""
    opened: list[Checkpoints] = []

    def terminate(number: int, _: object) -> None:
        training = [checkpoints for checkpoints in opened if checkpoints.is_training]
        if not training or training[0].stop_requested:
            _end_by(number)
        training[0].stop_requested = True

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, terminate)
    return opened


def _end_by(number: int) -> None:
    """End as the signal would end a process that does not handle it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _end(log: EventLog, code: int, **values: Any) -> int:
    """Write the last event and return the exit code, which replaces the event if it cannot be written."""
    try:
        log.emit("end", **values)
    except OSError as error:
        logger.error("cannot write the run's last event: %s", error)  # noqa: TRY400 - the message is enough
        return DISK_FAILED
    return code


def _read_source(text: str) -> tuple[str, Path]:
    """Parse JOB_HASH[@SHA256]=FOLDER into a job hash and the folder of its weights.

    Raises:
        SpecError: if the weights do not match the hash.
    """
    name, _, folder = text.partition("=")
    job_hash, _, digest = name.partition("@")
    weights = Path(folder) / WEIGHTS
    if digest and weights.is_file() and file_fingerprint(weights) != digest:
        raise SpecError(
            f"the weights of source job {job_hash[:12]} in {weights} have changed since its run stored them; "
            "restore them, or rerun that job (adapeff submit --force)"
        )
    return job_hash, Path(folder)


def _tell_waiting(log: EventLog) -> None:
    logger.info("waiting: a profile uses its device alone, so it waits for other runs, and they for it")
    log.emit("stage", stage=WAITING)


def _read_spec(path: Path) -> AnySpec:
    try:
        return read_spec(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SpecError(f"cannot read job file {path}: {error.strerror}") from error
    except ValidationError as error:
        raise NotHereError(
            f"{path} is not a job specification that this adapeff can read: {first_problem(error)}"
        ) from error
    except (ValueError, AttributeError) as error:
        raise SpecError(f"{path} is not a job specification: it is not a JSON object ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
