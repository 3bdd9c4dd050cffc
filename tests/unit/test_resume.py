"""A run that is stopped goes on in the next one, and learns bit for bit what an unbroken one learns."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.specs.job import JobSpec
from adapeff.worker.sensors.host import Snapshot
from adapeff.worker.sensors.window import Window
from adapeff.worker.training.checkpoints import Checkpoint, Checkpoints, StoppedError
from tests.several_tasks import Trained, job, jobs, mixture, train_here

SMALL = "offline_sentiment[test_examples=40,train_examples=96]"
NER = "offline_ner[test_examples=40,train_examples=64]"
SETTINGS: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 2,
    "evaluate_every_epochs": 0.5,
    "max_length": 32,
    "test_languages": ["en"],
    "latency_batches": [],
}


class StopsAfter(Checkpoints):
    """Checkpoints of a run that is asked to stop after each of some steps, counted over its trials, once."""

    def __init__(self, folder: Path, steps: list[int]) -> None:
        super().__init__(folder, every_seconds=1e9, conditions={"torch": "1"})
        self.taken = 0
        self.steps = steps

    def is_due(self, *, is_last: bool) -> bool:
        self.taken += 1
        self.stop_requested = self.taken in self.steps
        return self.stop_requested


def broken(spec: JobSpec, folder: Path, steps: list[int], *sources: Trained) -> Trained:
    """Run a job that is stopped several times, each time after a number of steps of that run."""
    for number, step in enumerate(steps):
        with pytest.raises(StoppedError):
            train_here(spec, folder / str(number), *sources, checkpoints=StopsAfter(folder / "checkpoints", [step]))
    last = Checkpoints(folder / "checkpoints", every_seconds=1e9, conditions={"torch": "1"})
    return train_here(spec, folder / "last", *sources, checkpoints=last)


def answers(trained: Trained) -> bytes:
    return gzip.decompress((trained.folder / "predictions.jsonl.gz").read_bytes())


def learned(trained: Trained) -> list[dict[str, Any]]:
    """All that it wrote but times and how much memory it took."""
    kept = []
    for event in trained.events:
        is_time = event.get("unit") in ("s", "B", "FLOP/s") or event.get("name") in ("disturbance", "load_average_1m")
        is_cost = event.get("name", "").endswith(("_share", "train_compute_s", "tokenised_examples", "resumed_at_step"))
        if event["event"] in ("measurement", "curve", "example_scores") and not is_time and not is_cost:
            kept.append(event)
    return kept


def same(one: Trained, other: Trained) -> None:
    assert one.curve("train_loss") == other.curve("train_loss")
    assert answers(one) == answers(other)
    assert learned(one) == learned(other)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "broken").mkdir()
    yield tmp_path


@pytest.mark.parametrize(
    "method",
    [
        "full",
        "head",
        "bitfit",
        "lora",
        "houlsby",
        "adapterdrop",
        "prefix_tuning",
        "compacter[phm_dim=2,reduction_factor=16]",
        "peft:adalora",
    ],
)
def test_broken_run_learns_what_an_unbroken_one_does(method: str, tiny_model: Path, plain: Path) -> None:
    spec = job(SMALL, str(tiny_model), method, **SETTINGS)

    unbroken = train_here(spec, plain / "unbroken")
    resumed = broken(spec, plain / "broken", [5, 6, 7])

    same(resumed, unbroken)
    assert resumed.measured("resumed_at_step") == [18] and not unbroken.measured("resumed_at_step")
    assert resumed.measured("train_steps") == unbroken.measured("train_steps") == [24]


def test_tuning_goes_on_within_a_trial_and_between_trials(tiny_model: Path, plain: Path) -> None:
    settings = {**SETTINGS, "epochs": 1, "tuning": {"learning_rate": [1e-4, 1e-2, 1e-3], "trials": 3}}
    spec = job(SMALL, str(tiny_model), "houlsby", **settings)

    unbroken = train_here(spec, plain / "unbroken")
    resumed = broken(spec, plain / "broken", [5, 12, 13])

    same(resumed, unbroken)
    assert resumed.curve("tuning") == unbroken.curve("tuning")
    assert resumed.measured("tuning_trials") == [3]


def test_mixture_goes_on(tiny_model: Path, plain: Path) -> None:
    spec = job(mixture(SMALL, NER), str(tiny_model), "adapterdrop", **SETTINGS, best_state="disk")

    unbroken = train_here(spec, plain / "unbroken")
    resumed = broken(spec, plain / "broken", [7, 8])

    same(resumed, unbroken)
    for task in (SMALL, NER):
        name = str(next(member.task for member in spec.members if str(member.task)[:11] == task[:11]))
        assert resumed.measured("train_steps", task=name) == unbroken.measured("train_steps", task=name)


def test_extension_goes_on_and_forgets_as_much(tiny_model: Path, plain: Path) -> None:
    two = {"name": "two", "tasks": [SMALL, NER]}
    base_spec, spec = jobs(
        models=[str(tiny_model)],
        mixtures=[{"name": "two", "tasks": [SMALL, NER]}],
        extend=[{"base": two["name"], "add": ["offline_nli[test_examples=40,train_examples=64]"], "replay": [0.5]}],
        settings=SETTINGS,
    )
    base = train_here(base_spec, plain / "base")

    unbroken = train_here(spec, plain / "unbroken", base)
    resumed = broken(spec, plain / "broken", [3, 9], base)

    same(resumed, unbroken)
    assert any("forgetting" in event.get("name", "") for event in learned(unbroken))


def test_times_of_the_parts_add_up(tiny_model: Path, plain: Path) -> None:
    spec = job(SMALL, str(tiny_model), "full", **SETTINGS)

    resumed = broken(spec, plain / "broken", [20])

    (wall,) = resumed.measured("wall_s")
    phases = resumed.measured("phase_s")
    assert sum(phases) == pytest.approx(wall, abs=1e-3)
    assert resumed.measured("train_compute_s")[0] == pytest.approx(
        sum(resumed.measured("phase_s", phase=phase)[0] for phase in ("forward", "backward", "optimizer")), abs=1e-6
    )


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "c", every_seconds=1e9, conditions={"torch": "1", "git": None})


def at(step: int) -> Checkpoint:
    return Checkpoint({"step": step}, {"weight": torch.full((3,), float(step))})


def test_newest_whole_checkpoint_is_read(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert checkpoints.read() is None
    for step in (2, 9, 10):
        checkpoints.write((1, step), at(step))
    first, second = sorted((tmp_path / "c").iterdir())
    assert [first.name[:14], second.name[:14]] == ["0001-000000009", "0001-000000010"], "two are kept"

    for damage in (second.read_bytes()[:-5], b"", second.read_bytes()[:-1] + b"x"):
        second.write_bytes(damage)
        found = checkpoints.read()
        assert (
            found is not None
            and found.facts["step"] == 9
            and torch.equal(found.tensors["weight"], torch.full((3,), 9.0))
        )

    checkpoints.write((2, 1), at(1))
    found = checkpoints.read()
    assert found is not None and found.facts["step"] == 1, "of a later trial"


def test_checkpoint_of_other_software_or_hardware_is_not_read(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.write((1, 5), at(5))

    assert Checkpoints(tmp_path / "c", every_seconds=1, conditions={"torch": "2", "git": None}).read() is None
    assert checkpoints.read() is not None


def test_checkpoint_that_cannot_be_written_stops_no_training(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c").write_text("a file")

    checkpoints.write((1, 5), at(5))

    assert "no checkpoint at step 5" in caplog.text
    assert checkpoints.read() is None


def test_request_to_stop_after_the_last_step_is_heard_at_the_end_of_training(checkpoints: Checkpoints) -> None:
    with pytest.raises(StoppedError), checkpoints.training():
        checkpoints.stop_requested = True
    assert not checkpoints.is_training


counters = st.floats(0, 1e6, allow_nan=False)
snapshots = st.builds(
    Snapshot,
    time_s=counters,
    own_cpu_s=counters,
    busy_cpu_s=counters,
    energy_j=st.none() | counters,
    polls=st.integers(0, 100),
    throttled=st.dictionaries(st.sampled_from("ab"), st.integers(0, 9)),
)
windows = st.builds(Window, snapshots, snapshots)


@given(windows, windows)
def test_windows_of_two_parts_add_up(late: Window, early: Window) -> None:
    both = late.after(early)

    assert both.seconds == pytest.approx(late.seconds + early.seconds, abs=1e-6)
    if late.energy_j is None or early.energy_j is None:
        assert both.energy_j is None
    else:
        assert both.energy_j == pytest.approx(late.energy_j + early.energy_j, abs=1e-6)
    for name in "ab":
        times = [w.end.throttled.get(name, 0) - w.start.throttled.get(name, 0) for w in (both, late, early)]
        assert times[0] == times[1] + times[2]
    assert late.after(None) == late
