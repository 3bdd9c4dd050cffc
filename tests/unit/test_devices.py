"""Device backends: one contract that all of them keep, and what is particular to each."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adapeff.service.errors import ConfigError, ResourceError, UnknownNameError
from adapeff.service.plugins import catalog
from adapeff.worker.devices import DEVICES
from adapeff.worker.devices.accelerator import Accelerator
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.choice import automatic_devices, choose_device, out_of_memory
from adapeff.worker.devices.cpu import Cpu, bf16_instructions
from adapeff.worker.devices.cuda import Cuda, visible_devices
from adapeff.worker.devices.environment import environment
from adapeff.worker.devices.memory import Memory
from adapeff.worker.devices.step_clocks import EventStepClock
from adapeff.worker.measure.clocks import timed
from adapeff.worker.sensors.host import HostSensor
from adapeff.worker.sensors.window import Window
from tests.fake_device import GIB, FakeCuda, FakeNvml, FakeRuntime

ROOT = Path(__file__).parents[2]


def a_device(name: str) -> Device:
    """A device by its name here, or a skip."""
    device = FakeCuda() if name == "fake" else DEVICES[name]
    if not device.is_available():
        pytest.skip(f"this host has {device.absent}")
    return device


@pytest.fixture(params=["fake", *(pytest.param(n, marks=() if n == "cpu" else pytest.mark.gpu) for n in DEVICES)])
def device(request: pytest.FixtureRequest) -> Device:
    """Every backend that this machine can run, and the fake GPU."""
    return a_device(request.param)


def test_every_device_times_steps_by_phase(device: Device) -> None:
    clock = device.step_clock()
    for _ in range(3 * 4):
        clock.mark()

    steps = clock.collect()

    assert len(steps) == 3
    assert all(min(step) >= 0 for step in steps)
    assert clock.collect() == []


def test_every_device_times_actions_and_computes_in_its_precisions(device: Device) -> None:
    model, x = nn.Linear(4, 2).to(device.torch_device), torch.ones(3, 4, device=device.torch_device)

    assert timed(lambda: model(x), device) > 0
    assert device.choose_precision("auto") in ("fp32", "bf16")
    assert device.choose_precision("fp32") == "fp32"
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with device.autocast(device.choose_precision(precision)):
            assert model(x).dtype == dtype


def test_every_device_has_memory_peaks_or_a_reason(device: Device) -> None:
    memory = Memory(device)
    memory.start()
    with memory.aside():
        pass

    for value, reason in memory.peaks().values():
        assert (value is None) == bool(reason)
        assert value is None or value >= 0
    assert device.available_memory() > 0


def test_every_device_is_recorded_and_has_one_identity(device: Device) -> None:
    recorded = environment(device, "fp32")

    assert recorded["device_type"] == device.name
    assert recorded["device_name"]
    assert device.identity() == device.identity()
    assert device.open_sensor().read().time_s > 0


def test_every_device_tells_a_lack_of_memory_from_other_errors(device: Device) -> None:
    assert device.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert device.is_out_of_memory(MemoryError())
    assert device.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not device.is_out_of_memory(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_shows_a_process_its_own_and_hides_the_rest(name: str) -> None:
    device = DEVICES[name]

    assert device.name == name
    assert all(value for value in device.visibility("0").values())
    assert all(value == "" for value in device.visibility(None).values())
    assert device.latency_grid.batches and device.latency_grid.lengths


def test_registry_needs_no_torch() -> None:
    code = "import sys, adapeff.worker.devices, adapeff.worker.daemon.slots; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert dict(catalog.devices()) == dict(DEVICES)


def test_only_the_backend_speaks_of_cuda() -> None:
    """Callers ask the device, so adding one changes none of them."""
    package = ROOT / "worker" / "adapeff"
    speaking = {str(f.relative_to(package)) for f in package.rglob("*.py") if re.search(r"\bcuda", f.read_text())}

    assert speaking <= {"worker/devices/cuda.py", "worker/devices/__init__.py"}


def test_any_is_an_accelerator_before_the_cpu_and_untested_ones_are_never_chosen() -> None:
    assert [device.name for device in automatic_devices()] == ["cuda", "cpu"]
    assert choose_device("cpu") is DEVICES["cpu"]
    with pytest.raises(UnknownNameError, match="gpu"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device("any").name == "cpu"
        with pytest.raises(ResourceError, match="device: cuda, but torch sees none here"):
            choose_device("cuda")


@given(st.lists(st.integers(0, 10_000), min_size=4, max_size=40))
def test_events_give_the_seconds_between_marks_whatever_order_they_complete_in(gaps: Sequence[int]) -> None:
    times = list(itertools.accumulate(gaps[: len(gaps) // 4 * 4]))
    runtime = FakeRuntime(event_times_ms=times)
    clock = FakeCuda(runtime).step_clock()
    for _ in times:
        clock.mark()
    assert runtime.synchronisations == 0

    steps = clock.collect()

    assert runtime.synchronisations == 1
    for number, step in enumerate(steps):
        a, b, c, d = times[4 * number : 4 * number + 4]
        assert step == pytest.approx(((b - a) / 1000, (c - b) / 1000, (d - c) / 1000))


def test_events_that_are_read_too_early_are_an_error_and_never_a_time() -> None:
    runtime = FakeRuntime(event_times_ms=range(4))
    clock = EventStepClock(lambda: runtime.Event(enable_timing=True), lambda: None)
    for _ in range(4):
        clock.mark()

    with pytest.raises(RuntimeError, match="not ready"):
        clock.collect()


def test_step_without_its_last_marks_is_an_error() -> None:
    clock = FakeCuda(FakeRuntime(event_times_ms=range(3))).step_clock()
    for _ in range(3):
        clock.mark()

    with pytest.raises(ValueError, match="shorter"):
        clock.collect()


def test_allocator_peaks_leave_out_what_was_aside_and_survive_it() -> None:
    device = FakeCuda()
    memory = Memory(device)
    memory.start()
    device.runtime.allocate(GIB)
    with memory.aside():
        device.runtime.allocate(2 * GIB)
        device.runtime.free(2 * GIB)
    device.runtime.free(GIB)

    peaks = memory.peaks()

    assert peaks["peak_memory_allocated_bytes"] == (GIB, "")
    assert peaks["peak_memory_reserved_bytes"] == (GIB, "")
    memory.restart()
    assert memory.peaks()["peak_memory_allocated_bytes"] == (0, "")


def test_memory_runs_out_at_the_limit_and_the_error_is_recognised() -> None:
    device = FakeCuda()
    device.limit_memory(3 * GIB, data_before=0)
    device.runtime.allocate(2 * GIB)

    with pytest.raises(torch.OutOfMemoryError) as raised:
        device.runtime.allocate(2 * GIB)

    assert device.is_out_of_memory(raised.value)
    assert out_of_memory(raised.value)
    assert device.available_memory() == 6 * GIB
    assert Memory(device).peaks()["peak_memory_allocated_bytes"] == (2 * GIB, "")


def test_limit_beyond_the_gpu_is_the_whole_gpu() -> None:
    device = FakeCuda()

    device.limit_memory(100 * GIB, data_before=0)

    assert device.runtime.fraction == 1.0


def test_gpu_that_only_emulates_bf16_trains_in_fp32(caplog: pytest.LogCaptureFixture) -> None:
    old = FakeCuda(FakeRuntime(bf16=False))

    assert FakeCuda().choose_precision("auto") == "bf16"
    assert old.choose_precision("auto") == "fp32"
    assert old.choose_precision("bf16") == "bf16"
    assert "no bf16 instructions" in caplog.text


def test_nvml_that_is_gone_leaves_the_hosts_sensor_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device = FakeCuda(nvml=FakeNvml(is_gone=True))

    snapshot = device.open_sensor().read()

    assert snapshot.energy_j is None
    assert snapshot.energy_reason == "NVML does not answer (NVMLError: driver not loaded)"
    assert device.places(1) == []
    assert device.environment()["driver"] is None


def test_nvml_that_dies_in_the_middle_gives_no_energy_rather_than_a_wrong_one() -> None:
    device = FakeCuda(nvml=FakeNvml(energy=[5_000_000], power=250_000))
    sensor = device.open_sensor()

    window = Window(sensor.read(), sensor.read())

    assert window.start.energy_j == 5000
    assert window.energy_j is None
    assert window.end.energy_reason == "the GPU's energy counter stopped answering"


def test_gpus_are_offered_and_locked_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    device = FakeCuda(nvml=FakeNvml(uuids=["GPU-a", "GPU-b"]))

    (place,) = device.places(1)

    assert (place.device_id, place.locks) == ("GPU-b", ("cuda-GPU-b",))
    assert device.describe("GPU-b") == "Fake H100"
    assert device.visibility("GPU-b") == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert device.identity() == "cuda-aa-1"


def test_divided_gpu_is_offered_by_its_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    places = FakeCuda(nvml=FakeNvml(divided=True)).places(1)

    assert [place.device_id for place in places] == ["MIG-0", "MIG-2"]


@given(st.lists(st.sampled_from(["0", "1", "7", "GPU-a", "GPU-b", "GPU-", "x", ""]), max_size=5))
def test_visible_devices_are_some_of_the_hosts_each_once(entries: list[str]) -> None:
    visible = visible_devices(["GPU-a", "GPU-b"], ",".join(entries))

    assert set(visible) <= {"GPU-a", "GPU-b"}
    assert len(set(visible)) == len(visible)


def test_cpu_slots_share_out_the_cores_and_none_is_left_half() -> None:
    cores = len(os.sched_getaffinity(0))

    places = Cpu().places(1)

    assert [len(place.cores) for place in places] == [1] * cores
    assert len(Cpu().places(cores)) == 1
    with pytest.raises(ConfigError, match="cores_per_slot"):
        Cpu().places(cores + 1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f", ()),
        ("flags\t\t: fpu avx512_bf16 avx512f", ("avx512_bf16",)),
        ("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile", ("amx_bf16", "avx512_bf16")),
        ("Features\t: fp asimd bf16 i8mm", ("bf16",)),
        ("", ()),
    ],
    ids=["none", "avx512", "amx", "arm", "empty"],
)
def test_bf16_of_a_cpu_is_read_from_its_features(tmp_path: Path, line: str, expected: tuple[str, ...]) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: A CPU\n{line}\n")

    assert bf16_instructions(cpuinfo) == expected
    assert bf16_instructions(tmp_path / "absent") == ()


@pytest.mark.skipif(not hasattr(torch.cpu, "_is_avx512_bf16_supported"), reason="this torch does not say")
def test_bf16_of_this_cpu_is_what_torch_finds() -> None:
    if Path("/proc/cpuinfo").exists():
        assert torch.cpu._is_avx512_bf16_supported() == ("avx512_bf16" in bf16_instructions())


def test_cpu_trains_in_fp32_unless_bf16_is_asked_for_and_says_what_it_has() -> None:
    cpu = Cpu()

    assert cpu.choose_precision("auto") == "fp32"
    assert cpu.choose_precision("bf16") == "bf16"
    assert cpu.environment()["bf16_instructions"] == (",".join(bf16_instructions()) or None)


class FakeAcceleratorRuntime:
    """What `torch.accelerator` answers for a device whose allocator keeps no statistics."""

    synchronisations = 0

    def is_available(self) -> bool:
        return True

    def current_accelerator(self) -> torch.device:
        return torch.device("mps")

    def synchronize(self) -> None:
        self.synchronisations += 1

    def max_memory_allocated(self) -> int:
        raise RuntimeError("Allocator for mps is not a DeviceAllocator.")


def test_accelerator_without_events_or_statistics_waits_and_says_why() -> None:
    runtime = FakeAcceleratorRuntime()
    device = Accelerator("mps", has_timed_events=False, runtime=runtime)
    clock = device.step_clock()
    for _ in range(4):
        clock.mark()

    assert runtime.synchronisations == 4
    assert len(clock.collect()) == 1
    assert device.is_available()
    assert not Accelerator("xpu", runtime=runtime).is_available()
    assert Memory(device).peaks()["peak_memory_allocated_bytes"] == (
        None,
        "torch keeps no allocator statistics on mps (RuntimeError)",
    )
    assert device.is_out_of_memory(RuntimeError("MPS backend out of memory"))


def test_host_is_the_only_sensor_of_a_cpu() -> None:
    assert isinstance(Cpu().open_sensor(), HostSensor)
    assert isinstance(DEVICES["cuda"], Cuda)
