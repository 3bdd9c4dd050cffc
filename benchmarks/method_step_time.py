"""What a training step and a forward pass of each method cost, against full fine-tuning in the same run.

All methods adapt copies of one random 12-layer, 768-wide BERT (other sizes by option) with the common head. A round
takes one training step of each method and of `full` (fused AdamW, the same threads), one forward + backward of the
bare model without an optimizer, and one forward pass of each in evaluation; the order is shuffled per round. A ratio is
taken within a round; the table gives medians over rounds, with a 95 % bootstrap interval for the two that count:

    train_ratio     training step / full's training step
    forward_ratio   forward pass, no gradients / the bare model's

Usage: python -m benchmarks.method_step_time [--rounds 15] [--threads 2] [--device cuda --precision bf16]
The last line is JSON: per method train_ratio, forward_ratio and their intervals.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import transformers
from torch import nn

from adapeff.service.plugins.catalog import get_method
from adapeff.service.plugins.references import parse_plugin
from adapeff.service.specs.job import split_list
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.choice import choose_device
from adapeff.worker.families.heads import ClassificationHead
from adapeff.worker.measure.clocks import timed
from adapeff.worker.modeling.models import TaskModel

METHODS = (
    "houlsby,pfeiffer,houlsby_parallel,pfeiffer_parallel,parallel_scaled,compacter,compacter++,prefix_tuning,lora,ia3,"
    "mam,unipelt,adapterdrop[layers=5],adapterdrop[layers=10]"
)
WARMUP_ROUNDS = 2


@dataclass
class Candidate:
    """One model to be timed, and the seconds of each round."""

    name: str
    model: TaskModel
    optimizer: torch.optim.Optimizer | None
    step: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    """Forward and backward alone."""
    forward: list[float] = field(default_factory=list)


def candidate(name: str, base: nn.Module, hidden: int, device: Device) -> Candidate:
    """A method on a copy of the base; `bare` is the base itself, all of it trainable, without an optimizer."""
    encoder = copy.deepcopy(base)
    if name != "bare":
        reference = parse_plugin(name)
        encoder = get_method(reference.name, reference.parameters).attach(encoder)
    model = TaskModel(encoder, ClassificationHead(hidden, 3, 0.1)).to(device.torch_device)
    if name == "bare":
        return Candidate(name, model, None)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Candidate(name, model, torch.optim.AdamW(trained, lr=1e-5, fused=True))


def measure(one: Candidate, inputs: dict[str, torch.Tensor], device: Device, precision: str) -> None:
    """One training step and one forward pass."""
    labels = torch.zeros(len(inputs["input_ids"]), dtype=torch.long, device=device.torch_device)

    def pass_both_ways() -> None:
        with device.autocast(precision):
            loss = nn.functional.cross_entropy(one.model(inputs).float(), labels)
        loss.backward()

    def finish() -> None:
        if one.optimizer is not None:
            one.optimizer.step()
        one.model.zero_grad(set_to_none=True)

    def look() -> None:
        with torch.inference_mode(), device.autocast(precision):
            one.model(inputs)

    one.model.train()
    both = timed(pass_both_ways, device)
    one.backward.append(both)
    one.step.append(both + timed(finish, device))
    one.model.eval()
    one.forward.append(timed(look, device))


def median_ratio(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Median over rounds of the ratio within a round, and the 95 % bootstrap interval of that median."""
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[1949]


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = choose_device(arguments.device)
    device.prepare(cpu_threads=arguments.threads)
    precision = device.choose_precision(arguments.precision)
    config = transformers.BertConfig(
        num_hidden_layers=arguments.layers,
        hidden_size=arguments.hidden,
        num_attention_heads=arguments.hidden // 64,
        intermediate_size=4 * arguments.hidden,
    )
    base = transformers.BertModel(config, add_pooling_layer=False)
    names = ["bare", "full", *split_list(arguments.methods)]
    candidates = [candidate(name, base, arguments.hidden, device) for name in names]
    ids = torch.randint(1000, 20000, (arguments.batch, arguments.length), device=device.torch_device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    order = list(candidates)
    for number in range(WARMUP_ROUNDS + arguments.rounds):
        random.Random(number).shuffle(order)
        for one in order:
            measure(one, inputs, device, precision)
            if number < WARMUP_ROUNDS:
                one.step.clear()
                one.backward.clear()
                one.forward.clear()
        print(f"\rround {number - WARMUP_ROUNDS + 1} of {arguments.rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    _print(candidates, arguments, precision)
    return 0


def _print(candidates: list[Candidate], arguments: argparse.Namespace, precision: str) -> None:
    bare, full = candidates[:2]
    print(
        f"{arguments.layers} layers x {arguments.hidden}, batch {arguments.batch} x {arguments.length}, "
        f"{arguments.device} {precision}, {arguments.threads} threads, {arguments.rounds} rounds"
    )
    print(
        "| method | step / full | step ms | fwd+bwd ms | optimizer ms | fwd+bwd / bare | forward / bare | forward ms |"
    )
    print("| --- " * 8 + "|")
    found = {}
    for one in candidates:
        train, train_low, train_high = median_ratio(one.step, full.step)
        forward, low, high = median_ratio(one.forward, bare.forward)
        both, _, _ = median_ratio(one.backward, bare.backward)
        optimizer = statistics.median(a - b for a, b in zip(one.step, one.backward, strict=True))
        milliseconds = [statistics.median(values) * 1000 for values in (one.step, one.backward, one.forward)]
        print(
            f"| {one.name} | {train:.3f} ({train_low:.3f}, {train_high:.3f}) | {milliseconds[0]:.0f} | "
            f"{milliseconds[1]:.0f} | {optimizer * 1000:.0f} | {both:.3f} | {forward:.3f} ({low:.3f}, {high:.3f}) | "
            f"{milliseconds[2]:.0f} |"
        )
        found[one.name] = {
            "train_ratio": round(train, 4),
            "train_interval": [round(train_low, 4), round(train_high, 4)],
            "forward_ratio": round(forward, 4),
            "forward_interval": [round(low, 4), round(high, 4)],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
