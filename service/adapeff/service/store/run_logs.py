"""The end of a run's log, where its folder can be reached."""

from __future__ import annotations

from pathlib import Path

from adapeff.service.masking import mask

LOG = "run.log"


def log_tail(folder: str, characters: int) -> str:
    """The last lines of a run's log, passwords and tokens masked; '' if it cannot be read from this host.

    Args:
        characters: at most so many; a line that is cut is left out.
    """
    try:
        with (Path(folder) / LOG).open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - characters)
            file.seek(start)
            text = file.read(characters).decode(errors="replace")
    except OSError:
        return ""
    if start and "\n" in text:
        text = text.partition("\n")[2]
    return mask(text.rstrip())
