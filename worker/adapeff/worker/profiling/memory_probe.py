"""The memory of one method's training step, measured in a separate process.

    python -m adapeff.worker.profiling.memory_probe JOB --method N ...

Takes three steps. The peaks are those of the allocator and the process; the parts are counted tensor by tensor.
Prints one line of JSON; if memory runs out, `{"outcome": "oom"}`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from adapeff.service.errors import AdapeffError, ModelError
from adapeff.service.measurements import PEAK_MEMORY_PROCESS, PEAK_MEMORY_RESERVED
from adapeff.service.specs.profile import ProfileSpec
from adapeff.worker.devices.base import Device
from adapeff.worker.devices.choice import choose_device
from adapeff.worker.devices.memory import Memory
from adapeff.worker.measure.memory_breakdown import optimizer_bytes, step_bytes, weight_bytes
from adapeff.worker.modeling.models import import_architecture
from adapeff.worker.profiling.candidates import labelled, load_bare, make_candidate

STEPS = 3
MAX_EXAMPLES = 65_536


def probe(
    spec: ProfileSpec, method: int, batch: int, device: Device, precision: str, limit: int | None = None
) -> dict[str, Any]:
    """Take a few steps in this process and measure their memory, in bytes.

    Args:
        limit: bytes beyond which allocating fails, the model included.
    """
    import_architecture(spec.model)
    memory = Memory(device)
    memory.start()
    before = psutil.Process().memory_info().data
    bare = load_bare(spec.model, shared=False)
    bare.encoder.to(device.torch_device)
    candidate = make_candidate(spec.methods[method], bare, device=device, precision=precision, shared=False)
    if limit:  # no earlier: libraries are still loaded on the way here
        device.limit_memory(limit, data_before=before)
    items = labelled(bare.batch(batch, spec.settings.length, device))
    memory.restart()
    take, clock = candidate.trainer(), device.step_clock()
    candidate.model.train()
    for _ in range(STEPS):
        take(items, clock)
    clock.collect()
    peaks = memory.peaks()

    def loss() -> torch.Tensor:
        with device.autocast(precision):
            logits: torch.Tensor = candidate.model(items.inputs)
        return take.loss_of(logits.float(), items)

    parts = {"weights": weight_bytes(candidate.model), "optimizer": optimizer_bytes(take.optimizer)}
    return {"outcome": "ok", "peaks": peaks, "parts": parts | step_bytes(candidate.model, loss)}


def run_probe(
    job: Path, method: int, batch: int, device: Device, precision: str, limit: int | None = None
) -> dict[str, Any]:
    """The same in a fresh process.

    Args:
        job: the file of the job's specification.
        limit: bytes the process may take beyond what it has before it loads the model. Under a limit on a CPU every
            failure counts as one of memory: libraries that get none fail with messages of their own (oneDNN: "could not
            create a primitive"), so a step must have run without a limit first. A GPU's allocator says so itself.

    Raises:
        ModelError: if the process fails for another reason than memory.
    """
    command = [sys.executable, "-m", "adapeff.worker.profiling.memory_probe", str(job), "--method", str(method)]
    command += ["--batch", str(batch), "--device", device.name, "--precision", precision]
    command += ["--limit", str(limit)] if limit else []
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MALLOC_ARENA_MAX": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer
    if done.returncode < 0 or (limit and not device.signals_out_of_memory):
        return {"outcome": "oom"}  # only the system kills a probe without a limit, for its memory
    messages = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    raise ModelError(f"memory could not be measured: {messages[-1] if messages else 'the process printed nothing'}")


def largest_batch(
    job: Path, method: int, device: Device, precision: str, *, limit: int, start: int
) -> tuple[int, int | None]:
    """The largest batch whose step stays below a limit of bytes, to an eighth, and the smallest that does not.

    0 if not even one example does; the second is None if no batch up to 65,536 was too large.

    Raises:
        ModelError: if not even one example's step runs without the limit, for another reason than memory.
    """

    def fits(batch: int) -> bool:
        answer = run_probe(job, method, batch, device, precision, limit)
        if answer["outcome"] == "oom":
            return False
        peaks = {name: value for name, (value, _) in answer["peaks"].items()}
        used = peaks[PEAK_MEMORY_RESERVED.name] or peaks[PEAK_MEMORY_PROCESS.name] or 0
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


def main() -> int:
    """Run the probe given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m adapeff.worker.profiling.memory_probe")
    parser.add_argument("job", type=Path)
    parser.add_argument("--method", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    spec = ProfileSpec.model_validate_json(arguments.job.read_text(encoding="utf-8"))
    device = choose_device(arguments.device)
    device.prepare(cpu_threads=spec.settings.cpu_threads)
    try:
        answer = probe(spec, arguments.method, arguments.batch, device, arguments.precision, arguments.limit)
    except AdapeffError as error:
        print(error, file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not device.is_out_of_memory(error):
            raise
        answer = {"outcome": "oom"}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
