"""Resolve a job's `device` setting to a registered device in this process."""

from __future__ import annotations

from collections.abc import Iterable

from adapeff.service.errors import ResourceError, UnknownNameError
from adapeff.service.plugins import catalog
from adapeff.worker.devices.base import Device


def choose_device(name: str) -> Device:
    """The device for `cpu`, `any` (an accelerator where one is available) or another registered name.

    Raises:
        UnknownNameError: if no such device is registered.
        ResourceError: if it is not available in this process.
    """
    if name == "any":
        return next(device for device in automatic_devices() if device.is_available())
    devices = catalog.devices()
    if name not in devices:
        raise UnknownNameError("device", name, devices)
    device: Device = devices[name]
    if not device.is_available():
        raise ResourceError(
            f"the job asks for device: {name}, but torch sees none here; use device: cpu or another host"
        )
    return device


def automatic_devices() -> Iterable[Device]:
    """The devices that `any` and `auto` may choose, in the order in which they are tried: the CPU comes last."""
    automatic = [device for device in catalog.devices().values() if device.is_automatic]
    return sorted(automatic, key=lambda device: device.name == "cpu")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a device or the host ran out of memory."""
    return any(device.is_out_of_memory(error) for device in catalog.devices().values())
