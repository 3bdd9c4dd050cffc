"""A recorded sensor, for tests of what is computed from sensors."""

from __future__ import annotations

from collections.abc import Iterable

from adapeff.worker.sensors.host import Snapshot


class ReplaySensor:
    """Gives recorded snapshots, one after the other."""

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._snapshots = iter(snapshots)

    def read(self) -> Snapshot:
        """The next snapshot."""
        return next(self._snapshots)
