"""The devices a run can use, registered like anyone's: one entry point that points at `DEVICES`.

To add one, write its backend (see `base.Device`) and name it here. `any` and `auto` choose the first automatic one
that is available, accelerators before the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapeff.worker.devices.accelerator import Accelerator
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.devices.cuda import Cuda

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Cuda(),
        Accelerator("xpu", visible="ZE_AFFINITY_MASK"),
        Accelerator("mps", has_timed_events=False),
        Cpu(),
    )
}
