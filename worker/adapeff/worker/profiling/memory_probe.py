"""What one method's training step takes of memory, in a process of its own.

    python -m adapeff.worker.profiling.memory_probe JOB --method N ...

Three steps are taken; the peaks are those of the allocator and of the process, the parts are counted tensor by tensor.
Answers with one line of JSON; where memory runs out, `{"outcome": "oom"}`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from adapeff.service.errors import AdapeffError, ModelError
from adapeff.service.specs.profile import ProfileSpec
from adapeff.worker.devices.environment import Memory, autocast, out_of_memory, prepare_device
from adapeff.worker.measure.clocks import step_clock
from adapeff.worker.measure.memory_breakdown import optimizer_bytes, step_bytes, weight_bytes
from adapeff.worker.modeling.models import import_architecture
from adapeff.worker.profiling.candidates import labelled, load_bare, make_candidate

STEPS = 3
MAX_EXAMPLES = 65_536


def probe(
    spec: ProfileSpec, method: int, batch: int, device: torch.device, precision: str, limit: int | None = None
) -> dict[str, Any]:
    """Take a few steps in this process and say what they took, in bytes.

    Args:
        limit: bytes beyond which allocating fails, the model included.
    """
    import_architecture(spec.model)
    memory = Memory(device)
    memory.start()
    before = psutil.Process().memory_info().data
    bare = load_bare(spec.model, shared=False)
    bare.encoder.to(device)
    candidate = make_candidate(spec.methods[method], bare, device=device, precision=precision, shared=False)
    if limit and device.type == "cpu":  # no earlier: libraries are still loaded on the way here
        room = max(before + limit, psutil.Process().memory_info().data + 2**20)
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    elif limit:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), torch.cuda.current_device())
    items = labelled(bare.batch(batch, spec.settings.length, device))
    memory.restart()
    take, clock = candidate.trainer(), step_clock(device)
    candidate.model.train()
    for _ in range(STEPS):
        take(items, clock)
    clock.collect()
    peaks = memory.peaks()

    def loss() -> torch.Tensor:
        with autocast(device, precision):
            logits: torch.Tensor = candidate.model(items.inputs)
        return take.loss_of(logits.float(), items)

    parts = {"weights": weight_bytes(candidate.model), "optimizer": optimizer_bytes(take.optimizer)}
    return {"outcome": "ok", "peaks": peaks, "parts": parts | step_bytes(candidate.model, loss)}


def run_probe(
    job: Path, method: int, batch: int, device: torch.device, precision: str, limit: int | None = None
) -> dict[str, Any]:
    """The same in a fresh process.

    Args:
        job: the file of the job's specification.
        limit: bytes the process may take beyond what it has before it loads the model. Below a limit on a CPU every
            failure is one of memory: libraries that get none fail in words of their own (oneDNN: "could not create a
            primitive"), so whoever limits a step has seen it run without. On a GPU the allocator says so itself.

    Raises:
        ModelError: if the process fails for another reason than memory.
    """
    command = [sys.executable, "-m", "adapeff.worker.profiling.memory_probe", str(job), "--method", str(method)]
    command += ["--batch", str(batch), "--device", device.type, "--precision", precision]
    command += ["--limit", str(limit)] if limit else []
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MALLOC_ARENA_MAX": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer
    if done.returncode < 0 or (
        limit and device.type == "cpu"
    ):  # a probe without a limit is killed by the system alone, for its memory
        return {"outcome": "oom"}
    said = [line for line in done.stderr.splitlines() if line.strip()]
    raise ModelError(f"memory could not be measured: {said[-1].strip() if said else 'the process said nothing'}")


def largest_batch(
    job: Path, method: int, device: torch.device, precision: str, *, limit: int, start: int
) -> tuple[int, int | None]:
    """The largest batch whose step stays below a limit of bytes, to an eighth, and the smallest that was seen not to.

    0 if not even one example does; the second is None if no batch up to 65,536 was too large.

    Raises:
        ModelError: if not even one example's step runs without the limit, for another reason than memory.
    """

    def fits(batch: int) -> bool:
        answer = run_probe(job, method, batch, device, precision, limit)
        if answer["outcome"] == "oom":
            return False
        peaks = {name: value for name, (value, _) in answer["peaks"].items()}
        used = peaks["peak_memory_reserved_bytes"] or peaks["peak_memory_process_bytes"] or 0
        return bool(used <= limit)

    run_probe(job, method, 1, device, precision)
    low, high = 0, None
    batch = start
    while high is None and batch <= MAX_EXAMPLES:
        low, high = (batch, None) if fits(batch) else (low, batch)
        batch *= 2
    while high is not None and high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, high


def available_memory(device: torch.device) -> int:
    """Bytes a search may use: what the GPU has free, or four fifths of what the host has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available * 0.8)


def main() -> int:
    """Probe as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m adapeff.worker.profiling.memory_probe")
    parser.add_argument("job", type=Path)
    parser.add_argument("--method", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    spec = ProfileSpec.model_validate_json(arguments.job.read_text(encoding="utf-8"))
    device = torch.device(arguments.device)
    prepare_device(device)
    torch.set_num_threads(spec.settings.cpu_threads)
    try:
        answer = probe(spec, arguments.method, arguments.batch, device, arguments.precision, arguments.limit)
    except AdapeffError as error:
        print(error, file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        answer = {"outcome": "oom"}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
