"""FLOPs of the real graph against formulas written down independently, and what the counter cannot count."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from adapeff.service.plugins.catalog import get_method
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.worker.families.heads import ClassificationHead
from adapeff.worker.measure.flops import FlopCounter, count_forward, synthetic_inputs
from adapeff.worker.modeling.models import TaskModel
from benchmarks.flop_formulas import Encoder, step_flops

METHODS = ["full", "head", "bitfit", "lora", "houlsby", "pfeiffer", "compacter", "prefix_tuning"]
CPU = torch.device("cpu")


def bert(layers: int, hidden: int) -> Any:
    config = transformers.BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=4,
        intermediate_size=4 * hidden,
        vocab_size=100,
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def counter(written: str, base: nn.Module, hidden: int) -> FlopCounter:
    reference = parse_plugin(written)
    method = get_method(reference.name, reference.parameters)
    model = TaskModel(method.attach(copy.deepcopy(base)), ClassificationHead(hidden, 2, 0.1))
    names = ("input_ids", "token_type_ids", "attention_mask")

    def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
        return synthetic_inputs(names, batch=batch, length=length, vocabulary=100, device=CPU)

    return FlopCounter(model, method, inputs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("layers", "hidden", "batch", "length"),
    [
        (2, 128, 3, 24),
        pytest.param(4, 128, 2, 96, marks=pytest.mark.slow),
        pytest.param(3, 256, 4, 40, marks=pytest.mark.slow),
    ],
)
def test_counted_flops_follow_the_formula(method: str, layers: int, hidden: int, batch: int, length: int) -> None:
    counted = counter(method, bert(layers, hidden), hidden).step(batch, length)
    expected = step_flops(method, Encoder(layers, hidden, 4 * hidden, batch, length))

    assert counted.forward == pytest.approx(expected.forward, rel=0.02)
    assert counted.backward == pytest.approx(expected.backward, rel=0.02)
    assert not counted.uncounted


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_adapterdrop_saves_the_backward_pass_of_the_layers_below(depth: int) -> None:
    base = bert(4, 128)

    counted = counter(f"adapterdrop[layers={depth}]", base, 128).step(2, 32)
    expected = step_flops("houlsby", Encoder(4, 128, 512, 2, 32), left_out=depth)

    assert counted.forward == pytest.approx(expected.forward, rel=0.02)
    assert counted.backward == pytest.approx(expected.backward, rel=0.02)


def test_robust_adapterdrop_counts_the_mean_of_its_depths_and_draws_on_afterwards() -> None:
    base = bert(3, 64)

    robust = counter("adapterdrop", base, 64)
    found = robust.step(2, 16).backward
    fixed = [counter(f"adapterdrop[layers={n}]" if n else "houlsby", base, 64).step(2, 16).backward for n in range(3)]

    assert found == pytest.approx(sum(fixed) / 3, rel=1e-9)
    assert robust.model.encoder.drawn is None


def test_small_steps_foretell_every_shape() -> None:
    base = bert(2, 64)

    made = counter("unipelt", base, 64)
    made.step(5, 33)
    assert made.is_regular

    assert made.step(7, 50).total == pytest.approx(counter("unipelt", base, 64).step(7, 50).total, rel=1e-9)


def test_counting_leaves_gradients_and_mode_alone() -> None:
    made = counter("lora", bert(2, 64), 64)
    made.model.eval()
    kept = [torch.ones_like(p) if p.requires_grad else None for p in made.model.parameters()]
    for parameter, gradient in zip(made.model.parameters(), kept, strict=True):
        parameter.grad = gradient

    made.step(2, 16)

    assert not made.model.training
    assert all(p.grad is g for p, g in zip(made.model.parameters(), kept, strict=True))


def test_operations_the_counter_does_not_know_are_named() -> None:
    matrix = torch.eye(4)

    assert count_forward(lambda: torch.linalg.solve(matrix, matrix)).uncounted
    assert count_forward(lambda: matrix @ matrix).uncounted == frozenset()
    assert count_forward(lambda: matrix @ matrix).forward == 2 * 4**3


def test_attention_is_counted_on_a_cpu() -> None:
    q = torch.randn(2, 4, 16, 8)

    counted = count_forward(lambda: nn.functional.scaled_dot_product_attention(q, q, q))

    assert counted.forward == 2 * (2 * 2 * 4 * 16 * 16 * 8)
