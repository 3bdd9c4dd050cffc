"""The CPU quota of this process's control group (a container's limit), and how long it held the process back.

Both forms are read: version 2 (`cpu.max`, `cpu.stat`) and version 1 (`cpu.cfs_quota_us`, `throttled_time` in ns).
A group is inside others, and the smallest quota on the way up counts. Source: the kernel's documentation,
Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cpu_quota(mount: Path = MOUNT, own: Path = OWN) -> float | None:
    """How many cores the process may use at most on average; None: no quota."""
    found = [quota for folder in _folders(mount, own) if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def throttled_seconds(mount: Path = MOUNT, own: Path = OWN) -> float | None:
    """Seconds so far in which a quota held the group's processes back; None where there is no quota."""
    if cpu_quota(mount, own) is None:
        return None
    for folder in _folders(mount, own):
        if _quota(folder) is not None:
            stat = _pairs(folder / "cpu.stat")
            if "throttled_usec" in stat:
                return stat["throttled_usec"] / 1e6
            if "throttled_time" in stat:
                return stat["throttled_time"] / 1e9
    return None


def _folders(mount: Path, own: Path) -> Iterator[Path]:
    """The group's folder and those above it, of version 2, then of version 1's cpu controller."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        roots = [mount] if not controllers else [mount / "cpu", mount / controllers]
        for root in roots:
            folder = root / path.lstrip("/")
            while True:
                if folder.is_dir():
                    yield folder
                if folder == root or root not in folder.parents:
                    break
                folder = folder.parent


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None


def _pairs(file: Path) -> dict[str, int]:
    try:
        words = [line.split() for line in file.read_text().splitlines()]
        return {key: int(value) for key, value in words}
    except (OSError, ValueError):
        return {}
