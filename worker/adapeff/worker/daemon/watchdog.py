"""A process between a worker and its runner, so that no runner outlives its worker.

    python -m adapeff.worker.daemon.watchdog [--cores 0,1] [--keep 5,6] -- COMMAND ...

starts COMMAND and exits as it does: with its exit code, or by the same signal. Its standard input is a pipe whose other
end the worker keeps open. When the worker dies for any reason, the pipe closes and the whole process group is
killed. (A parent-death signal would miss the runner's own children.) When memory runs out, the runner is the first
process that the kernel kills.

The file descriptors of `--keep` (the slot's locks) stay open in the command.

Runs of a fork server have the same watchdog; its runner is a fork too.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
"""Signals that only interrupt the watchdog's waiting: requests to stop are for the runner."""


def prepare(cores: Sequence[int] = ()) -> int:
    """Make this process a watchdog, before it starts its runner.

    Args:
        cores: the only ones that it and the runner may use; all if empty.

    Returns:
        A pipe that can be read when a child has ended.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in _HANDLED:
        signal.signal(number, lambda *_: None)
    return woken


def reset() -> None:
    """Undo `prepare` in a runner that is a fork of its watchdog."""
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)


def wait(runner: int, *, woken: int, lifeline: int) -> int:
    """Wait for the runner's end, or kill this process group when `lifeline`, a pipe, is closed.

    Returns:
        The runner's exit code; minus the signal's number if one killed it.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{runner}/oom_score_adj").write_text("1000")
    while True:
        ended, status = os.waitpid(runner, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([woken, lifeline], [], [])
        if woken in readable:
            os.read(woken, 4096)
        elif not os.read(lifeline, 4096):
            os.killpg(0, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Run the command after `--` until it or the worker ends."""
    divider = arguments.index("--")
    options, command = arguments[:divider], arguments[divider + 1 :]
    values = dict(zip(options[::2], options[1::2], strict=True))
    cores, kept = ([int(n) for n in values.get(name, "").split(",") if n] for name in ("--cores", "--keep"))
    woken = prepare(cores)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=kept) as runner:
        code = wait(runner.pid, woken=woken, lifeline=sys.stdin.fileno())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
