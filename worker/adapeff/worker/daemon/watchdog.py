"""A process between a worker and its runner, so that no runner outlives its worker.

    python -m adapeff.worker.daemon.watchdog [--cores 0,1] [--keep 5,6] -- COMMAND ...

starts COMMAND and exits as it does: with its exit code, or by the same signal. Its standard input is a pipe whose other
end the worker keeps open. When the worker dies for any reason, the pipe closes and the whole process group is
killed. (A parent-death signal would miss the runner's own children.) When memory runs out, the runner is the first
process that the kernel kills.

The file descriptors of `--keep` (the slot's locks) stay open in the command.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

POLL_SECONDS = 0.2


def main(arguments: list[str]) -> int:
    """Run the command after `--` until it or the worker ends."""
    divider = arguments.index("--")
    options, command = arguments[:divider], arguments[divider + 1 :]
    values = dict(zip(options[::2], options[1::2], strict=True))
    if "--cores" in values:
        os.sched_setaffinity(0, {int(core) for core in values["--cores"].split(",")})
    kept = [int(number) for number in values.get("--keep", "").split(",") if number]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # SIGTERM to the group is for the runner, which does not inherit handlers
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=kept) as child:
        with contextlib.suppress(OSError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
        while child.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
            if readable and not os.read(sys.stdin.fileno(), 4096):
                os.killpg(0, signal.SIGKILL)
    code = child.returncode
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
