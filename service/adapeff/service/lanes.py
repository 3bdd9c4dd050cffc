"""Lanes: the broker's queues, one for each kind of device that a job may request.

A worker serves the lane of its kind of device, and the lane of jobs that run on any device.
"""

from __future__ import annotations

from adapeff.service.plugins import catalog

ANY = "any"
_PREFIX = "adapeff-"


def device_kinds() -> tuple[str, ...]:
    """The kinds of device for which a backend is installed."""
    return tuple(catalog.devices())


def lane_of(device: str) -> str:
    """The lane of jobs that request a kind of device, or `any`."""
    return f"{_PREFIX}{device}"


def device_of(lane: str) -> str:
    """The kind of device, or `any`, that the jobs of a lane request."""
    return lane.removeprefix(_PREFIX)


def all_lanes() -> tuple[str, ...]:
    """Every lane of this installation, starting with the one for any device."""
    return tuple(map(lane_of, (ANY, *device_kinds())))
