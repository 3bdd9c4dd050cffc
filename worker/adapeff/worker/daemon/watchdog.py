"""Stand between a worker and its runner, so that no runner outlives its worker.

    python -m adapeff.worker.daemon.watchdog [--cores 0,1] [--keep 5,6] -- COMMAND ...

starts COMMAND in its own process group and ends as it ends: with its exit code, or by the same signal. Its standard
input is a pipe whose other end the worker holds. When the worker is gone, for whatever reason, the pipe closes and the
whole group is killed. (A parent-death signal would miss the runner's own children.) The runner is also the first
process the kernel kills when memory runs out.

The files named by `--keep` (numbers of open ones: the slot's locks) stay open in the command too.
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
    given = dict(zip(options[::2], options[1::2], strict=True))
    if "--cores" in given:
        os.sched_setaffinity(0, {int(core) for core in given["--cores"].split(",")})
    kept = [int(number) for number in given.get("--keep", "").split(",") if number]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGTERM, lambda *_: None)  # the group's SIGTERM is for the runner; a handler is not inherited
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
