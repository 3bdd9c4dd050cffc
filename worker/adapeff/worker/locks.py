"""Locks of this host: a file each, held as long as the process that took it, or one it left it to, lives."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from adapeff.service.errors import ResourceError


def open_lock(name: str) -> IO[str]:
    """The file of a lock, not locked yet.

    Raises:
        ResourceError: if it cannot be written.
    """
    folder = Path(tempfile.gettempdir()) / f"adapeff-slots-{os.getuid()}"
    try:
        folder.mkdir(exist_ok=True)
        return (folder / f"{name}.lock").open("w")
    except OSError as error:
        raise ResourceError(f"cannot write the lock of a device under {folder}: {error.strerror}") from error


def try_lock(file: IO[str], *, shared: bool = False) -> bool:
    """Lock a file if no other process holds it (`shared`: holds it for itself)."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def occupy(device: str, *, alone: bool, waiting: Callable[[], None]) -> Iterator[None]:
    """Use a device beside others who do, or alone; waits for whoever stands in the way.

    Who wants it alone waits for those who use it, and those who come later wait for him.

    Args:
        device: its name on this host.
        waiting: is called once if there is somebody to wait for.
    """
    with open_lock(f"{device}-door") as door, open_lock(f"{device}-use") as use:
        free = try_lock(door) and try_lock(use, shared=not alone)
        if not free:
            waiting()
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(use, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
