"""Lanes: the broker's queues, one for each kind of device a job may ask for.

A worker serves the lane of its own kind of device and the lane of jobs that run on any.
"""

from __future__ import annotations

from adapeff.service.plugins import catalog

ANY = "any"
_PREFIX = "adapeff-"


def device_kinds() -> tuple[str, ...]:
    """The kinds of device for which a backend is installed."""
    return tuple(catalog.devices())


def lane_of(device: str) -> str:
    """The lane of jobs that ask for a kind of device, or for `any`."""
    return f"{_PREFIX}{device}"


def device_of(lane: str) -> str:
    """The kind of device, or `any`, that the jobs of a lane ask for."""
    return lane.removeprefix(_PREFIX)


def all_lanes() -> tuple[str, ...]:
    """Every lane this installation knows, that of jobs that run on any device first."""
    return tuple(map(lane_of, (ANY, *device_kinds())))
