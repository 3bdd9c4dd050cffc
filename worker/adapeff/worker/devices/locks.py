"""Locks of this host: one file each, held as long as the process that took it, or one that inherited it, lives.

Their folder is the same for all users and independent of TMPDIR, because the devices are shared. Others may write to
it, so nothing in it is trusted: links are never followed, and a lock counts only while its file is the one at its path.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from adapeff.service.errors import ResourceError

_SHARED_BY_ALL = stat.S_ISVTX | stat.S_IWOTH


def host_folder() -> Path:
    """The default folder of locks, shared by all workers of a host."""
    system = Path("/run/lock")
    try:
        shared = system.stat().st_mode & _SHARED_BY_ALL == _SHARED_BY_ALL
    except OSError:
        shared = False
    return (system if shared else Path("/tmp")) / "adapeff"


def take_lock(name: str, folder: Path | None = None) -> IO[str] | None:
    """Take a lock for this process; None if another process holds it.

    Raises:
        ResourceError: if its file cannot be created or trusted.
    """
    try:
        return _lock(name, folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _lock(name: str, folder: Path | None, kind: int) -> IO[str]:
    where = folder or host_folder()
    while True:
        try:
            file = _open(where, f"{name}.lock")
        except OSError as error:
            raise ResourceError(f"cannot use the lock of a device under {where}: {error.strerror}") from error
        try:
            fcntl.flock(file, kind)
        except BlockingIOError:
            file.close()
            raise
        if _is_at(where / f"{name}.lock", file):
            return file
        file.close()  # it was removed since: a lock on it would exclude nobody


def _open(folder: Path, name: str) -> IO[str]:
    try:
        folder.mkdir(mode=0o700)
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (
        status.st_uid not in (0, os.getuid()) and status.st_mode & _SHARED_BY_ALL != _SHARED_BY_ALL
    ):
        raise OSError(0, "it is not a folder, or belongs to another user only; remove it")
    path = folder / name
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.fchmod(number, 0o644)  # any user may lock what any user may read
    except FileExistsError:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(number)
        raise OSError(0, f"{name} is not a regular file; remove it")
    return os.fdopen(number)


def _is_at(path: Path, file: IO[str]) -> bool:
    status = os.fstat(file.fileno())
    try:
        there = path.lstat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (there.st_dev, there.st_ino)


@contextmanager
def occupy(device: str, *, alone: bool, waiting: Callable[[], None], folder: Path | None = None) -> Iterator[None]:
    """Lock a device, shared or exclusively; waits for conflicting processes.

    A process that needs the device exclusively waits for its current users, and later ones wait for it.

    Args:
        device: its name on this host.
        waiting: called once if the process has to wait.
        folder: of the locks; None: the host's default.
    """
    use_as = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    waiting_once = cache(waiting)
    with ExitStack() as held:
        # The door stays locked while its holder waits for the device, so that nobody who comes later passes it.
        with _wait_for(f"{device}-door", fcntl.LOCK_EX, waiting_once, folder):
            held.enter_context(_wait_for(f"{device}-use", use_as, waiting_once, folder))
        yield


def _wait_for(name: str, kind: int, waiting: Callable[[], None], folder: Path | None) -> IO[str]:
    try:
        return _lock(name, folder, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        return _lock(name, folder, kind)
