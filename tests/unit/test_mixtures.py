"""Mixtures: sampling, specification, and training that equals single tasks and a bare loop."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import AdapeffError
from adapeff.service.specs.job import JobSpec
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.tasks.mixture import Mixture
from adapeff.worker.training.load import prepare
from adapeff.worker.training.mixing import member_order
from adapeff.worker.training.tuning import batch_stream
from tests.several_tasks import job, mixture, train_alone

TASKS = ("offline_sentiment", "offline_ner", "offline_qa", "offline_choice")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 5))
def test_proportional_sampling_takes_each_batch_once_per_pass(sizes: list[int], seed: int) -> None:
    shares = Mixture(tasks=TASKS).shares(sizes, [32 * size for size in sizes])
    order = member_order(shares, steps=sum(sizes), seed=seed)

    for _ in range(3):
        assert Counter(itertools.islice(order, sum(sizes))) == Counter(dict(enumerate(sizes)))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"sampling": "equal"}, [1, 1, 1, 1]),
        ({"sampling": "temperature", "temperature": 2.0}, [1, 2, 4, 20]),  # roots of 1, 4, 16, 400
        ({"cap": 160}, [1, 4, 5, 5]),  # 160 examples are 5 batches
        ({"weights": {"offline_sentiment": 1, "offline_ner": 2, "offline_qa": 3, "offline_choice": 4}}, [1, 2, 3, 4]),
    ],
)
def test_shares_follow_the_formula_within_a_percent_over_10000_draws(
    parameters: dict[str, Any], expected: list[int]
) -> None:
    sizes = [1, 4, 16, 400]
    shares = Mixture(tasks=TASKS, **parameters).shares(sizes, [32 * size for size in sizes])
    drawn = Counter(itertools.islice(member_order(shares, steps=sum(sizes), seed=0), 10_000))

    assert shares == pytest.approx([each / sum(expected) for each in expected])
    for member, share in enumerate(shares):
        assert drawn[member] / 10_000 == pytest.approx(share, abs=0.01)


def test_order_depends_on_the_seed_alone() -> None:
    first, again, other = (list(itertools.islice(member_order([0.5, 0.5], steps=20, seed=s), 60)) for s in (0, 0, 1))

    assert first == again != other


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("mixture", "a mixture needs tasks"),
        (mixture("offline_sentiment", "offline_sentiment"), "a task appears twice"),
        (mixture("offline_sentiment", "offline_nlu"), "unknown task 'offline_nlu'; did you mean 'offline_nli'?"),
        (mixture("offline_sentiment", weights="{offline_ner: 2}"), "weights names 'offline_ner'"),
        (mixture("offline_sentiment", "offline_ner", weights="{offline_ner: 2}"), "weights lacks offline_sentiment"),
        (mixture("offline_sentiment", temperature=2), "add sampling=temperature"),
        (mixture("offline_sentiment", sampling="square"), "sampling"),
        ("mixture[tasks=[mixture[tasks=[offline_ner]]]]", "is a mixture itself"),
    ],
)
def test_what_cannot_be_mixed_is_said_in_a_line(task: str, said: str) -> None:
    with pytest.raises(AdapeffError) as refused:
        job(task)

    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_members_keep_their_own_settings_and_all_of_them_are_part_of_the_identity() -> None:
    spec = job(mixture("offline_sentiment[difficulty=0.4]", "offline_qa"))

    assert [member.max_length for member in spec.members] == [
        job("offline_sentiment").training.max_length,
        job("offline_qa").training.max_length,
    ]
    assert [spec.of_member(member) for member in spec.members] == [
        job("offline_sentiment[difficulty=0.4]"),
        job("offline_qa"),
    ]
    others = (
        mixture("offline_sentiment", "offline_qa"),
        mixture("offline_sentiment[difficulty=0.4]", "offline_nli"),
        mixture("offline_sentiment[difficulty=0.4]", "offline_qa", sampling="equal"),
    )
    assert len({spec.train_hash, *(job(other).train_hash for other in others)}) == 4
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec


SETTINGS: dict[str, Any] = {"steps": 12, "batch_size": 8, "train_size": 64, "max_length": 32, "evaluate_every_steps": 6}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_mixture_of_one_trains_bit_for_bit_like_the_task(tiny_model: Path, tmp_path: Path, method: str) -> None:
    settings = {**SETTINGS, "keep_weights": True, "latency_batches": [], "device": "cpu"}
    alone = train_alone(job("offline_sentiment", str(tiny_model), method, **settings), tmp_path / "alone")
    mixed = train_alone(job(mixture("offline_sentiment"), str(tiny_model), method, **settings), tmp_path / "mixed")

    assert mixed.curve("train_loss") == alone.curve("train_loss")
    assert mixed.scores("offline_sentiment") == alone.scores("") != {}
    assert mixed.weights.keys() == alone.weights.keys()
    assert all(torch.equal(mixed.weights[name], alone.weights[name]) for name in alone.weights)


@pytest.mark.slow
def test_mixture_of_two_equals_a_bare_loop(tiny_model: Path, tmp_path: Path) -> None:
    tasks = mixture("offline_sentiment", "offline_ner", loss_weights="{offline_ner: 0.5}")
    spec = job(tasks, str(tiny_model), latency_batches=[], device="cpu", **SETTINGS)
    losses = [loss for _, loss in train_alone(spec, tmp_path / "run").curve("train_loss")]

    prepared = prepare(spec, Cpu(), PhaseClock(), None, {}, TokenCache(None))
    (encoder, heads), parts = (prepared.model.encoder, prepared.model.head), prepared.parts
    assert isinstance(heads, torch.nn.ModuleList)
    decayed = [[p for p in prepared.model.parameters() if (p.ndim > 1) is matrices] for matrices in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed[0], "weight_decay": 0.01}, {"params": decayed[1], "weight_decay": 0.0}], lr=1.0
    )
    torch.manual_seed(spec.seed + 2)
    prepared.model.train()
    bare = []
    for step, batch in enumerate(itertools.islice(batch_stream(prepared, spec)[0], 12)):
        for group in optimizer.param_groups:
            group["lr"] = spec.training.learning_rate * (step if step < 1 else (12 - step) / 11)
        states = encoder(**batch.inputs).last_hidden_state
        loss = parts[batch.member].family.loss(heads[batch.member](states), batch) * (1.0, 0.5)[batch.member]
        optimizer.zero_grad()
        loss.backward()
        idle = heads[1 - batch.member]
        assert all(parameter.grad is None for parameter in idle.parameters())
        torch.nn.utils.clip_grad_norm_(prepared.model.parameters(), 1.0)
        optimizer.step()
        bare.append(loss.item())

    assert losses == pytest.approx(bare, abs=1e-5)
