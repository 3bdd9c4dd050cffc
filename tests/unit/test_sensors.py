"""Sensors: recorded answers of NVML and of the kernel stand in for machines that are not here."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapeff.worker.sensors.control_group import cpu_quota, throttled_seconds
from adapeff.worker.sensors.host import HostSensor, Snapshot
from adapeff.worker.sensors.nvml import NvmlSensor, PowerIntegral
from adapeff.worker.sensors.window import Window, energy_above_idle, idle_window, sample_problems
from tests.fake_device import FakeNvml
from tests.replay_sensor import ReplaySensor


def snapshots(*times: float, **values: Any) -> ReplaySensor:
    return ReplaySensor(Snapshot(time_s=at, own_cpu_s=at, **values) for at in times)


def test_gpu_energy_is_that_above_idle() -> None:
    sensor = NvmlSensor(FakeNvml([1_000, 61_000]), "GPU-1", snapshots(0, 2))
    idle = Window(Snapshot(time_s=0, own_cpu_s=0, energy_j=0.0), Snapshot(time_s=10, own_cpu_s=0, energy_j=100.0))

    window = Window(sensor.read(), sensor.read())

    assert window.energy_j == 60
    assert energy_above_idle(window, idle) == (40.0, "")
    assert window.problems() == []


def test_throttled_and_shared_gpus_are_told() -> None:
    sensor = NvmlSensor(FakeNvml([0, 1], throttle=0x40 | 0x1, processes=3), "GPU-1", snapshots(0, 2))

    start = sensor.read()
    sensor.poll()  # what the sensor sees in between counts too
    problems = Window(start, sensor.read()).problems()

    assert problems == [
        "clocks throttled (hardware thermal slowdown) in 100% of 2 polls",
        "other processes computed on the device in 100% of 2 polls",
    ]


def test_energy_of_a_divided_gpu_is_nobodys() -> None:
    sensor = NvmlSensor(FakeNvml([1, 2], divided=True), "GPU-1", snapshots(0, 1))

    assert energy_above_idle(Window(sensor.read(), sensor.read()), None) == (
        None,
        "the GPU is divided (MIG): its energy counter is shared by its instances",
    )


@pytest.mark.parametrize(
    ("uuid", "energy", "reason"), [("MIG-1", [1, 2], "MIG"), ("GPU-1", None, "neither its energy nor its power")]
)
def test_energy_that_cannot_be_had_says_why(uuid: str, energy: list[int] | None, reason: str) -> None:
    sensor = NvmlSensor(FakeNvml(energy or []), uuid, snapshots(0, 1))

    value, why = energy_above_idle(Window(sensor.read(), sensor.read()), None)

    assert value is None
    assert reason in why


@given(
    st.lists(st.floats(0.001, 10), min_size=1, max_size=20),
    st.floats(0, 1000),
    st.floats(-20, 20),
)
def test_power_that_rises_evenly_is_integrated_exactly(gaps: list[float], watts: float, slope: float) -> None:
    times = [0.0, *accumulate(gaps)]
    moments, powers = iter(times), iter([watts + slope * at for at in times])

    integral = PowerIntegral(lambda: next(powers), lambda: next(moments))
    joules = [integral.read() for _ in gaps][-1]

    end = times[-1]
    assert joules == pytest.approx(watts * end + slope * end**2 / 2, abs=1e-6)


def test_power_stands_in_for_an_energy_counter() -> None:
    sensor = NvmlSensor(FakeNvml(power=250_000), "GPU-1", snapshots(0, 1))

    began = time.perf_counter()
    window = Window(sensor.read(), sensor.read())
    seconds = time.perf_counter() - began

    assert window.energy_j is not None
    assert 0 < window.energy_j <= 250 * seconds
    assert window.end.energy_reason == ""


def test_other_work_on_the_cores_is_told() -> None:
    start = Snapshot(time_s=0, own_cpu_s=0, busy_cpu_s=0, stolen_cpu_s=0, cores=2)
    quiet = Snapshot(time_s=10, own_cpu_s=9.5, busy_cpu_s=10, stolen_cpu_s=0.1, cores=2)
    busy = Snapshot(time_s=10, own_cpu_s=9.5, busy_cpu_s=15.5, stolen_cpu_s=1.0, cores=2)

    assert Window(start, quiet).problems() == []
    assert Window(start, busy).problems() == [
        "other processes used 30% of the cores",
        "the hypervisor took 5% of the cores",
    ]


def test_host_reads_the_kernels_counters_and_survives_their_absence(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text("1000000\n")
    (package / "energy_uj").write_text("900000\n")
    sensor = HostSensor(rapl=tmp_path)

    first = sensor.read()
    (package / "energy_uj").write_text("100000\n")  # the counter has wrapped
    second = sensor.read()

    assert Window(first, second).energy_j == pytest.approx(0.2)
    assert first.busy_cpu_s is not None and first.busy_cpu_s > 0
    bare = HostSensor(stat=tmp_path / "none", rapl=tmp_path / "none").read()
    assert bare.busy_cpu_s is None
    assert "RAPL" in bare.energy_reason
    assert Window(bare, bare).foreign_cpu is None
    assert idle_window(ReplaySensor([bare])) is None


def test_samples_speak_for_themselves() -> None:
    assert sample_problems([1.0] * 20) == []
    assert sample_problems([1.0] * 10 + [1.2] * 10) == ["samples drifted by +20%"]
    assert sample_problems([1.0, 2.0] * 10)[0].startswith("samples spread")
    assert sample_problems([1.0, 9.0]) == []


def cgroup(folder: Path, *, version: int, quota: str, throttled_s: float) -> tuple[Path, Path]:
    """A control group in another one, which has the quota, as the kernel shows them."""
    own, mount = folder / "cgroup", folder / "mount"
    top = mount / ("cpu,cpuacct" if version == 1 else "") / "service"
    (top / "run").mkdir(parents=True)
    own.write_text("0::/service/run\n" if version == 2 else "3:memory:/x\n4:cpu,cpuacct:/service/run\n")
    if version == 2:
        (top / "cpu.max").write_text(f"{quota} 100000\n")
        (top / "run" / "cpu.max").write_text("max 100000\n")
        (top / "cpu.stat").write_text(f"usage_usec 5\nnr_throttled 2\nthrottled_usec {throttled_s * 1e6:.0f}\n")
    else:
        (top / "cpu.cfs_quota_us").write_text("-1\n" if quota == "max" else f"{quota}\n")
        (top / "cpu.cfs_period_us").write_text("100000\n")
        (top / "cpu.stat").write_text(f"nr_periods 9\nnr_throttled 2\nthrottled_time {throttled_s * 1e9:.0f}\n")
    return mount, own


@pytest.mark.parametrize("version", [1, 2])
def test_quota_of_a_control_group_is_read_in_both_versions(tmp_path: Path, version: int) -> None:
    mount, own = cgroup(tmp_path, version=version, quota="60000", throttled_s=1.5)

    assert cpu_quota(mount, own) == 0.6
    assert throttled_seconds(mount, own) == 1.5


@pytest.mark.parametrize("version", [1, 2])
def test_no_quota_is_none(tmp_path: Path, version: int) -> None:
    mount, own = cgroup(tmp_path, version=version, quota="max", throttled_s=0)

    assert (cpu_quota(mount, own), throttled_seconds(mount, own)) == (None, None)
    assert cpu_quota(tmp_path / "nothing", tmp_path / "nothing") is None


def test_time_that_a_quota_took_is_told() -> None:
    start = Snapshot(time_s=0, own_cpu_s=0, held_back_s=1.0)
    end = Snapshot(time_s=10, own_cpu_s=6, held_back_s=5.0)

    assert Window(start, end).problems() == ["a CPU quota held this process back for 40% of the time"]
    assert Window(start, replace(end, held_back_s=1.05)).problems() == []
