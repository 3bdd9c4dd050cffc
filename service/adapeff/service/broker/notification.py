"""Tell a URL or a command that a sweep has ended."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import urllib.request

from adapeff.service.masking import mask
from adapeff.service.store.sweeps import EndedSweep

logger = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 30.0


def message_of(sweep: EndedSweep) -> dict[str, object]:
    """What is told: the submission's id, its sweep's name, its jobs by state, and a line for people."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(sweep.states.items()))
    return {
        "sweep": sweep.name,
        "submission": sweep.id,
        "submitted_at": sweep.created_at.isoformat(),
        "jobs": dict(sweep.states),
        "text": f"adapeff: sweep {sweep.name} has ended: {states}",
    }


def notify(target: str, sweep: EndedSweep) -> None:
    """POST the message to a URL, or give it to a command on its standard input; a failure is only logged.

    Args:
        target: `http://...`, `https://...`, or a command line, which runs without a shell.
    """
    message = json.dumps(message_of(sweep)).encode()
    try:
        if target.startswith(("http://", "https://")):
            request = urllib.request.Request(target, message, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
                pass
        else:
            subprocess.run(
                shlex.split(target),
                input=message,
                check=True,
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
            )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning("sweep %s has ended, but notify failed: %s", sweep.name, mask(str(error)))
    else:
        logger.info("sweep %s has ended; told %s", sweep.name, mask(target.split()[0]))
