"""Batches, the training loop against a bare one, clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import DataError
from adapeff.service.plugins.catalog import get_method, get_task
from adapeff.service.specs.job import Training
from adapeff.service.specs.model_reference import resolve_model
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.families.encoding import Encoded, Rows, collate
from adapeff.worker.families.sequences import Example, SequenceClassification
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.modeling.models import TaskModel, build_model, load_model
from adapeff.worker.training.batches import epoch_order, steps_per_epoch, subset, training_batches
from adapeff.worker.training.evaluate import SplitData, evaluate
from adapeff.worker.training.progress import BestState
from adapeff.worker.training.train import DivergedError, train
from adapeff.worker.training.train_result import TrainResult
from benchmarks.bare_loop import bare_loop

CPU = Cpu()
RATE = 1e-3
FAMILY = SequenceClassification(("negative", "positive"), Training(learning_rate=RATE, max_length=48))


def lengths_as_data(lengths: list[int]) -> Encoded:
    """Examples of given lengths."""
    rows = Rows({"input_ids": 0, "attention_mask": 0})
    rows.inputs = [{"input_ids": [1] * length, "attention_mask": [1] * length} for length in lengths]
    return rows.encoded({"label": [0] * len(lengths)})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=400), st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_every_example_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    data = lengths_as_data(lengths)

    batches = epoch_order(data, batch_size=batch_size, seed=seed, epoch=epoch)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size) or len(lengths) > batch_size * 50
    assert batches == epoch_order(data, batch_size=batch_size, seed=seed, epoch=epoch)


@given(st.integers(8, 30).flatmap(lambda n: st.lists(st.integers(1, 60), min_size=8 * n, max_size=8 * n)))
def test_bucketing_never_processes_more_than_file_order(lengths: list[int]) -> None:
    """One pool of full batches: sorted by length they hold the least padding there can be."""
    data = lengths_as_data(lengths)
    bucketed = epoch_order(data, batch_size=8, seed=0, epoch=0)

    processed = sum(max(lengths[i] for i in batch) * len(batch) for batch in bucketed)
    plain = sum(max(lengths[i : i + 8]) * len(lengths[i : i + 8]) for i in range(0, len(lengths), 8))

    assert sum(lengths) <= processed <= plain


def test_padding_is_masked_and_counted() -> None:
    batch = collate(lengths_as_data([2, 5]), [0, 1])

    assert batch.inputs["input_ids"].shape == (2, 5)
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [2, 5]
    assert sum(batch.row_lengths) == 7


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(20, 400), st.integers(0, 3))
def test_token_budget_is_kept_and_used(lengths: list[int], budget: int, seed: int) -> None:
    """No batch of several items is over the budget, padding included, and every item comes once."""
    data = lengths_as_data(lengths)

    batches = epoch_order(data, batch_size=1, batch_tokens=budget, seed=seed, epoch=0)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)
    assert len(batches) == steps_per_epoch(data, batch_size=1, batch_tokens=budget, seed=seed)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.data())
def test_subsets_are_nested_and_stratified(labels: list[int], data: st.DataObject) -> None:
    """A smaller subset lies in every larger one, and each label has its share of the whole to about one example."""
    examples = [Example(str(i), "text", None, label) for i, label in enumerate(labels)]
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, len(labels))] * 2)))
    smaller, larger = (subset(examples, size, FAMILY) for size in (small, large))

    assert set(smaller) <= set(larger)
    assert len(smaller) == small
    assert [int(example.id) for example in smaller] == sorted(int(example.id) for example in smaller)
    classes = len(set(labels))
    for label in set(labels):
        share = labels.count(label) / len(labels)
        assert abs(sum(example.label == label for example in smaller) - small * share) <= 1 + classes / 2 * share


def test_subset_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="train_size is 3, but there are 2 training examples"):
        subset([Example("1", "a", None, 0), Example("2", "b", None, 1)], 3, FAMILY)


@pytest.fixture
def split(tiny_model: Path) -> SplitData:
    """A small training set for the tiny model."""
    examples = get_task("offline_sentiment", {"train_examples": 100}).examples("train", "en", None)
    return SplitData(examples, FAMILY.encode(examples, load_model(resolve_model(str(tiny_model))).tokenizer))


@pytest.fixture
def data(split: SplitData) -> Encoded:
    """Its tokens."""
    return split.encoded


def build(tiny_model: Path, method: str = "full", seed: int = 0) -> TaskModel:
    """A classifier on the tiny model."""
    loaded = load_model(resolve_model(str(tiny_model)))
    return build_model(loaded, get_method(method, {}), FAMILY, seed=seed)


def run(model: TaskModel, data: Encoded, steps: int = 20, **changes: Any) -> TrainResult:
    """Train with the stage."""
    settings = Training(**{"learning_rate": RATE, "batch_size": 16, **changes.pop("settings", {})})
    torch.manual_seed(7)
    arguments: dict[str, Any] = {
        "evaluate_every": 10,
        "clock": PhaseClock(),
        "validate": lambda: 0.0,
        "best": BestState(model, None),
        "report": lambda step, loss, eta: None,
        "loss_of": FAMILY.loss,
        **changes,
    }
    batches = training_batches(data, batch_size=settings.batch_size, seed=0)
    return train(model, batches, settings=settings, steps=steps, device=CPU, precision="fp32", **arguments)


def test_losses_of_full_equal_a_bare_loops(tiny_model: Path, data: Encoded) -> None:
    steps = 40
    ours = run(build(tiny_model), data, steps).losses

    model = build(tiny_model)
    batches = [(b.inputs, b.targets["label"]) for b in islice(training_batches(data, batch_size=16, seed=0), steps)]
    torch.manual_seed(7)
    theirs, _ = bare_loop(model.encoder, model.head, batches, steps=steps, learning_rate=RATE)

    assert ours == pytest.approx(theirs, abs=1e-5)
    assert len(set(ours)) == steps


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "head", "houlsby"))]
)
def test_same_seed_gives_identical_losses(method: str, tiny_model: Path, data: Encoded) -> None:
    torch.set_num_threads(1)

    assert run(build(tiny_model, method), data).losses == run(build(tiny_model, method), data).losses
    assert run(build(tiny_model, method), data).losses != run(build(tiny_model, method, seed=1), data).losses


def test_every_method_starts_from_the_same_head(tiny_model: Path) -> None:
    heads = [build(tiny_model, method).head.state_dict() for method in ("full", "head", "lora", "houlsby")]

    for other in heads[1:]:
        for name, tensor in heads[0].items():
            assert torch.equal(tensor, other[name])


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_best_state_by_validation_is_what_remains(
    on_disk: bool, tiny_model: Path, split: SplitData, tmp_path: Path
) -> None:
    model = build(tiny_model)
    scores = iter([0.5, 0.9, 0.9, 0.1])
    states: list[list[int]] = []

    def validate() -> float:
        states.append(evaluate(model, FAMILY, split, device=CPU, precision="fp32").predicted)
        return next(scores)

    best = BestState(model, tmp_path / "best.safetensors" if on_disk else None)
    result = run(model, split.encoded, validate=validate, best=best, evaluate_every=5)

    assert (result.best_step, result.best_score) == (10, 0.9)
    assert [at.step for at in result.validation] == [5, 10, 15, 20]
    assert evaluate(model, FAMILY, split, device=CPU, precision="fp32").predicted == states[1]


def test_validation_does_not_disturb_training(tiny_model: Path, split: SplitData) -> None:
    def evaluated(model: TaskModel) -> Callable[[], float]:
        return lambda: float(len(evaluate(model, FAMILY, split, device=CPU, precision="fp32").predicted))

    one, other = build(tiny_model), build(tiny_model)

    often = run(one, split.encoded, evaluate_every=1, validate=evaluated(one)).losses
    never = run(other, split.encoded, evaluate_every=1000).losses

    assert often == never


def test_loss_that_is_no_number_stops_with_advice(tiny_model: Path, data: Encoded) -> None:
    with pytest.raises(DivergedError, match="try a lower learning rate than 1e"):
        run(build(tiny_model), data, steps=60, settings={"learning_rate": 1e30, "max_grad_norm": 1e30})


def test_prediction_does_not_depend_on_its_neighbours(tiny_model: Path, split: SplitData) -> None:
    """Predictions come back in the data's order, whatever the batches they were made in."""
    model = build(tiny_model)
    whole = evaluate(model, FAMILY, split, device=CPU, precision="fp32")

    for index in (0, 17, 99):
        example = split.examples[index]
        tokenizer = load_model(resolve_model(str(tiny_model))).tokenizer
        alone = SplitData([example], FAMILY.encode([example], tokenizer))
        one = evaluate(model, FAMILY, alone, device=CPU, precision="fp32")
        assert one.predicted == [whole.predicted[index]]
        assert one.scores == pytest.approx([whole.scores[index]], abs=1e-5)
        assert whole.gold[index] == example.label


def test_phases_never_overlap_and_add_up() -> None:
    clock = PhaseClock()
    with clock.phase("outer"):
        _busy(0.02)
        with clock.phase("inner"):
            _busy(0.03)
        _busy(0.01)

    assert clock.seconds["inner"] >= 0.03
    assert clock.seconds["outer"] >= 0.03
    assert sum(clock.seconds.values()) <= clock.wall() + 1e-6


def test_split_phases_add_up_over_several_trainings() -> None:
    clock = PhaseClock()
    for _ in range(2):
        with clock.phase("train"):
            _busy(0.002)
        clock.split("train", {"forward": 0.7, "data_wait": 0.1})

    assert clock.seconds["forward"] == pytest.approx(1.4)
    assert clock.seconds["data_wait"] == pytest.approx(0.2)
    assert "train" not in clock.seconds


def _busy(seconds: float) -> None:
    """Work for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
