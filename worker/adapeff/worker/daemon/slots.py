"""Slots: one accelerator, or one pinned set of CPU cores, each for one run at a time.

A slot is held by file locks for the worker's life. Runners inherit them, so a second worker stays out until even an
orphan of the first one has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from adapeff.service.errors import ConfigError, ResourceError
from adapeff.service.plugins import catalog
from adapeff.worker.devices.base import Device, Place
from adapeff.worker.devices.choice import automatic_devices
from adapeff.worker.devices.locks import take_lock

logger = logging.getLogger(__name__)
_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Slot:
    """Where one run at a time may run."""

    kind: str
    """The name of its device backend."""
    index: int
    cores: tuple[int, ...] = ()
    device_id: str = ""
    """The accelerator, as its visibility variable takes it."""
    locks: tuple[IO[str], ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """Kind and number, such as `cpu:0`."""
        return f"{self.kind}:{self.index}"

    def release(self) -> None:
        """Let other workers have it, unless a run still holds it."""
        for lock in self.locks:
            lock.close()

    @property
    def environment(self) -> dict[str, str]:
        """What the runner's environment needs so that it sees this device only."""
        variables: dict[str, str] = {}
        for name, device in catalog.devices().items():
            variables |= device.visibility(self.device_id if name == self.kind else None)
        return variables


def open_slots(devices: str, *, cores_per_slot: int, lock_dir: Path | None = None, wait: bool = False) -> list[Slot]:
    """Take the slots of a list such as `cpu:0,cpu:1`, of a kind such as `cpu`, or of `auto`.

    `auto` is every accelerator of the host, or every CPU slot if there is none. Slots that another worker holds are
    left out, unless the list names them.

    Args:
        lock_dir: the folder of the host's locks; None: the default one.
        wait: wait until no other worker holds them, rather than fail.

    Raises:
        ConfigError: if the list is malformed or mixes kinds.
        ResourceError: if a device does not exist or is held by another worker.
    """
    kind, places = _chosen_places(devices, cores_per_slot)
    is_named = any(":" in part for part in devices.split(","))
    told = False
    while True:
        slots, held = _take(kind, places, lock_dir)
        if not held or (slots and not is_named):
            return slots
        for slot in slots:
            slot.release()
        if not wait:
            raise ResourceError(
                f"{', '.join(held)} {'is' if len(held) == 1 else 'are'} in use by another adapeff worker on this host; "
                "stop it, or name other devices with --devices, or wait with --wait-for-device"
            )
        if not told:
            logger.warning("waiting for %s, in use by another adapeff worker on this host", ", ".join(held))
            told = True
        time.sleep(_WAIT_SECONDS)


def _take(kind: str, places: Iterable[tuple[int, Place]], lock_dir: Path | None) -> tuple[list[Slot], list[str]]:
    """The slots that no other worker holds, and the names of those that one does."""
    slots, held = [], []
    for index, place in places:
        locks = _lock_all(place.locks, lock_dir)
        if locks is None:
            held.append(f"{kind}:{index}")
        else:
            slots.append(Slot(kind, index, cores=place.cores, device_id=place.device_id, locks=locks))
    return slots, held


def _chosen_places(devices: str, cores_per_slot: int) -> tuple[str, list[tuple[int, Place]]]:
    """The kind that a list names, and its places by their numbers."""
    if devices == "auto":
        return next(
            (device.name, list(enumerate(places)))
            for device in automatic_devices()
            if (places := device.places(cores_per_slot))
        )
    parts = [_parse(part) for part in devices.split(",")]
    kinds = {device.name for device, _ in parts}
    if len(kinds) > 1:
        raise ConfigError(f"'{devices}' mixes {' and '.join(sorted(kinds))} slots; start one worker for each kind")
    device = parts[0][0]
    places = device.places(cores_per_slot)
    if not places:
        raise ResourceError(f"'{devices}': this host has {device.absent}; use --devices cpu or another host")
    indices: set[int] = set()
    for _, index in parts:
        if index is not None and index >= len(places):
            last = f"{device.name}:{len(places) - 1}"
            raise ResourceError(
                f"'{device.name}:{index}': this host has {len(places)} {device.name} slots, {device.name}:0 to {last}"
            )
        indices |= set(range(len(places))) if index is None else {index}
    return device.name, [(index, places[index]) for index in sorted(indices)]


def _parse(part: str) -> tuple[Device, int | None]:
    """The device and the number that an entry names; None: all of them."""
    kind, colon, number = part.strip().partition(":")
    known = catalog.devices()
    if kind not in known or (colon and not number.isdecimal()):
        kinds = ", ".join(known)
        raise ConfigError(
            f"'{part}' is not a device; expected auto or one of {kinds}, with a number for single ones: cpu:0,cpu:1"
        )
    return known[kind], int(number) if colon else None


def usable_accelerators() -> list[tuple[str, str]]:
    """(id, product name) of each accelerator that a worker of this host would use by itself."""
    return [
        (place.device_id, device.describe(place.device_id))
        for device in automatic_devices()
        for place in device.places(1)
        if place.device_id
    ]


def _lock_all(names: Sequence[str], lock_dir: Path | None) -> tuple[IO[str], ...] | None:
    """Take the locks of all names, or none of them."""
    taken: list[IO[str]] = []
    for name in names:
        lock = take_lock(name, lock_dir)
        if lock is None:
            for other in taken:
                other.close()
            return None
        taken.append(lock)
    return tuple(taken)
