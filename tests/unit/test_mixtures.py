"""Mixtures: sampling, specification, and training that equals single tasks and a bare loop."""

from __future__ import annotations

import itertools
import json
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
from adapeff.worker.families.encoding import Batch
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.tasks.mixture import Mixture
from adapeff.worker.training.evaluate import evaluate
from adapeff.worker.training.load import Part, Prepared, prepare
from adapeff.worker.training.mixing import member_order
from adapeff.worker.training.tuning import batch_stream, loss_of
from tests.several_tasks import job, mixture, train_alone, train_here

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


SMALL = "[test_examples=40,train_examples=32]"
MANY = tuple(f"{task}{SMALL}" for task in (*TASKS, "offline_nli", "offline_topics"))
TINY: dict[str, Any] = {
    "steps": 12,
    "batch_size": 8,
    "max_length": 32,
    "evaluate_every_steps": 6,
    "learning_rate": 1e-2,
    "latency_batches": [],
    "test_languages": ["en"],
    "device": "cpu",
}


def prepared(spec: JobSpec) -> Prepared:
    return prepare(spec, Cpu(), PhaseClock(), None, {}, TokenCache(None))


def a_pass(spec: JobSpec, ready: Prepared) -> list[Batch]:
    stream, steps = batch_stream(ready, spec)
    return list(itertools.islice(stream, steps))


def test_member_with_one_batch_has_its_turn_once_a_pass(tiny_model: Path, tmp_path: Path) -> None:
    sizes = f"{{offline_ner{SMALL}: 3}}"
    spec = job(mixture(f"offline_sentiment{SMALL}", f"offline_ner{SMALL}", train_sizes=sizes), str(tiny_model), **TINY)

    batches = a_pass(spec, prepared(spec))
    trained = train_here(spec, tmp_path / "run")

    assert Counter((batch.member, batch.items) for batch in batches) == {(0, 8): 4, (1, 3): 1}
    (steps,), (samples,) = (
        trained.measured(name, task=f"offline_ner{SMALL}") for name in ("train_steps", "train_samples")
    )
    assert samples == 3 * steps and 2 <= steps <= 3  # 12 steps are two passes of 5, and 2
    assert trained.scores(f"offline_ner{SMALL}")


def test_token_budget_counts_all_rows_of_members_with_many_rows_per_item(tiny_model: Path) -> None:
    budget = 200
    spec = job(mixture(*MANY), str(tiny_model), **{**TINY, "batch_tokens": budget, "doc_stride": 4})
    ready = prepared(spec)
    batches = a_pass(spec, ready)

    for batch in batches:
        assert batch.items == 1 or batch.inputs["input_ids"].numel() <= budget
    for member, part in enumerate(ready.parts):
        drawn = [batch for batch in batches if batch.member == member]
        assert sum(batch.items for batch in drawn) == len(part.train.encoded)
        assert sum(sum(batch.row_counts) for batch in drawn) == sum(part.train.encoded.row_counts)
    rows = {part.task.name: part.train.encoded.row_counts for part in ready.parts}
    assert set(rows["offline_choice"]) == {2, 4}
    assert len(rows["offline_qa"]) > 32, "no context was cut into windows, so this shows nothing"


def test_a_batch_reaches_the_encoder_and_the_head_of_its_task_alone(tiny_model: Path) -> None:
    spec = job(mixture(*MANY), str(tiny_model), **TINY)
    ready = prepared(spec)
    heads, loss_of_batch = ready.model.head, loss_of(ready)
    assert isinstance(heads, torch.nn.ModuleList)
    seen = set()

    for batch in a_pass(spec, ready):
        ready.model.zero_grad(set_to_none=True)
        loss_of_batch(ready.model(batch.inputs, batch.member), batch).backward()

        for number, head in enumerate(heads):
            gradients = [parameter.grad for parameter in head.parameters()]
            assert all((gradient is not None) == (number == batch.member) for gradient in gradients)
        assert ready.model.encoder.get_parameter("encoder.layer.0.output.dense.weight").grad is not None
        seen.add(batch.member)
    assert seen == set(range(len(MANY)))


def test_each_head_has_the_labels_of_its_task(tiny_model: Path, tmp_path: Path) -> None:
    trained = train_here(job(mixture(*MANY), str(tiny_model), **TINY, keep_weights=True), tmp_path / "run")

    widths = [
        {tensor.shape[0] for name, tensor in trained.weights.items() if name.startswith(f"head.{number}.")}
        for number in range(len(MANY))
    ]
    # sentiment 2, entities 7 tags, answers start and end, a choice 1 score, inference 3, topics 5; 32 is the width
    assert [min(sizes) for sizes in widths] == [2, 7, 2, 1, 3, 5]
    assert all(sizes <= {32, min(sizes)} for sizes in widths)
    for task in MANY:
        answers = [value for (name, _), value in trained.scores(task).items() if name == "examples"]
        assert answers == [40]


def test_member_without_test_data_in_a_language_is_an_error_that_names_it(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"text {number}", "label": number % 2}) + "\n" for number in range(20))
    for language in ("english", "german"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "test.jsonl").write_text(rows if language == "english" else "")
    for split in ("train", "validation"):
        (tmp_path / "english" / f"{split}.jsonl").write_text(rows)
    (tmp_path / "task.yaml").write_text(
        "family: sequence_classification\ncolumns: {text: text, label: label}\nlabels: [bad, good]\n"
        "languages: {en: english, de: german}\n"
    )

    with pytest.raises(AdapeffError, match=r"german.*test") as refused:
        job(mixture(str(tmp_path), "offline_ner"))

    assert "\n" not in str(refused.value)
    with pytest.raises(AdapeffError, match="task 'sst2' has none of the test languages de; known: en"):
        job(mixture("sst2", "offline_ner"), test_languages=["de"])


@pytest.mark.parametrize("method", ["full", "adapterdrop", "houlsby"])
def test_evaluation_of_any_member_is_without_dropout_and_training_goes_on_with_it(
    tiny_model: Path, method: str
) -> None:
    ready = prepared(job(mixture(*MANY[:3]), str(tiny_model), method, **TINY))
    ready.model.train()
    during: list[bool] = []
    for module in ready.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda module, *_: during.append(module.training))

    def answer(part: Part) -> list[Any]:
        found = evaluate(ready.model_of(part), part.family, part.validation, device=Cpu(), precision="fp32")
        return [found.predicted, found.scores]

    for part in (*ready.parts, *reversed(ready.parts)):
        assert answer(part) == answer(part)
        assert all(module.training for module in ready.model.modules())
    assert during and not any(during)
    during.clear()
    spec = job(mixture(*MANY[:3]), str(tiny_model), method, **TINY)
    for batch in a_pass(spec, ready):
        ready.model(batch.inputs, batch.member)
    assert during and all(during)


@pytest.mark.parametrize(
    ("method", "variant"),
    [("adapterdrop", {"dropped_layers": 1}), ("lora", {"merged": True}), ("prefix_tuning", {"ejected": True})],
)
def test_inference_variants_are_measured_for_each_member(
    tiny_model: Path, tmp_path: Path, method: str, variant: dict[str, Any]
) -> None:
    tasks = MANY[:2]
    trained = train_here(job(mixture(*tasks), str(tiny_model), method, **TINY, variants=True), tmp_path / "run")

    agreement = [trained.measured("agreement", task=task, variant=variant) for task in tasks]
    assert [len(found) for found in agreement] == [1, 1]
    if method != "adapterdrop":  # the others answer as the trained model does
        assert agreement == [[1.0], [1.0]]
        (difference, other) = (trained.measured("score_difference_max", task=task)[0] for task in tasks)
        assert max(difference, other) < 1e-4
