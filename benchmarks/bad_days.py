"""Redis away while runs end, malformed messages, a broken host: is any job lost, stuck or done twice?

`python -m benchmarks.bad_days [--outages 10] [--seconds 30] [--database sqlite|postgres]` starts private servers and
real workers on loopback, runs short jobs on a tiny model through each trouble, and ends with one line of JSON. It stops
by itself; needs redis-server, and PostgreSQL for `postgres`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from adapeff.service.lanes import all_lanes
from adapeff.service.store import job_queries
from adapeff.service.store.database import Database, upgrade
from tests.conftest import RedisServer, _postgres

DEADLINE_SECONDS = 300.0
MALFORMED = [
    "hello", "{}", "[]", "null", "1", '{"body": 1}', '{"body": "x", "properties": {}}', "\x00\xff", '{"properties": 3}',
    '{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", "headers": {}}',
]  # fmt: skip


def make_sweep(folder: Path) -> Path:
    """A tiny random encoder and a sweep of short jobs on generated data."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    model = folder / "tiny"
    model.mkdir()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (model / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(model / "vocab.txt"), model_max_length=64).save_pretrained(model)
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **size)).save_pretrained(model)
    sweep = folder / "days.yaml"
    sweep.write_text(
        "models: [./tiny]\ntasks: [offline_sentiment]\nmethods: [head]\nseeds: [0]\n"
        "settings: {steps: 2, max_length: 16, latency_batches: [], device: cpu}\n"
    )
    return sweep


class World:
    """A database, a Redis, and commands that use them."""

    def __init__(self, folder: Path, url: str, server: RedisServer) -> None:
        self.folder, self.server = folder, server
        self.sweep = make_sweep(folder)
        self.environment = {
            **os.environ,
            "ADAPEFF_DATABASE_URL": url,
            "ADAPEFF_BROKER_URL": server.url,
            "ADAPEFF_STATE_DIR": str(folder / "state"),
            "ADAPEFF_LOCK_DIR": str(folder / "locks"),
            "ADAPEFF_RECONCILE_SECONDS": "2",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.database = Database(url.replace("postgresql://", "postgresql+psycopg://"))

    def submit(self, seeds: range) -> None:
        """Put jobs on the queue; where Redis is away, they are stored all the same."""
        command = ["submit", str(self.sweep), "--seeds", ",".join(map(str, seeds))]
        subprocess.run([str(Path(sys.executable).parent / "adapeff"), *command], env=self.environment, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    @contextmanager
    def worker(self, devices: str, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker; afterwards it is asked to stop, and must do so."""
        with (self.folder / f"worker-{devices.replace(':', '-')}-{len(changes)}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "adapeff.worker", "daemon", "--devices", devices],
                env={**self.environment, **changes},
                stderr=log,
            )
            try:
                yield process
            finally:
                process.terminate()
                code = process.wait(60)
                print(f"worker {devices} ended with {code}", file=sys.stderr)

    def states(self) -> dict[str, int]:
        """State -> jobs."""
        with self.database.session(read_only=True) as session:
            return job_queries.count_by_state(session)

    def wait_for(self, succeeded: int) -> float:
        """Wait until this many jobs have succeeded; return the seconds.

        Raises:
            TimeoutError: with the state of the jobs.
        """
        began = time.monotonic()
        while self.states().get("succeeded", 0) < succeeded:
            if time.monotonic() - began > DEADLINE_SECONDS:
                raise TimeoutError(f"{self.states()} after {DEADLINE_SECONDS:g} s, {succeeded} succeeded expected")
            time.sleep(0.5)
        return time.monotonic() - began

    def counted_twice(self) -> int:
        """Jobs with more than one run that counts."""
        with self.database.session(read_only=True) as session:
            every = job_queries.list_runs(session, [job.id for job in job_queries.list_jobs(session)])
        return sum(sum(run.outcome == "succeeded" for run in runs) > 1 for runs in every.values())


def outages(world: World, count: int, seconds: float) -> list[float]:
    """Redis killed while a run goes on, back after some seconds; how long the next jobs then take."""
    taken = []
    done = world.states().get("succeeded", 0)
    with world.worker("cpu:0"):
        for number in range(count):
            world.submit(range(100 + 2 * number, 102 + 2 * number))
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not world.states().get("running") and time.monotonic() < deadline:
                time.sleep(0.2)
            world.server.kill()
            time.sleep(seconds)  # the run ends in this time
            world.server.start()
            done += 2
            taken.append(world.wait_for(done))
            print(f"outage {number + 1}: all done {taken[-1]:.1f} s after Redis was back", file=sys.stderr)
    return taken


def malformed(world: World, count: int) -> float:
    """Messages that are none in every lane, then jobs; how long these take."""
    done = world.states().get("succeeded", 0)
    with world.worker("cpu:0") as worker:
        client = redis.Redis.from_url(world.server.url)
        for number in range(count):
            client.lpush(all_lanes()[number % 2], MALFORMED[number % len(MALFORMED)])
        world.submit(range(2))
        seconds = world.wait_for(done + 2)
        if worker.poll() is not None:
            raise RuntimeError(f"the worker ended with {worker.returncode}")
        client.close()
    return seconds


def broken_host(world: World, count: int) -> float:
    """Two workers, one of which cannot write its artifacts; how long the jobs take."""
    done = world.states().get("succeeded", 0)
    (world.folder / "file").write_text("no folder")
    with world.worker("cpu:1", ADAPEFF_ARTIFACTS_URL=str(world.folder / "file" / "artifacts")), world.worker("cpu:0"):
        world.submit(range(10, 10 + count))
        return world.wait_for(done + count)


def main() -> None:
    """Go through the troubles, and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outages", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        if arguments.database == "postgres":
            (folder / "postgres").mkdir()
            url = stack.enter_context(_postgres(folder / "postgres")) + "/postgres"
        else:
            url = f"sqlite:///{folder / 'days.db'}"
        database = Database(url.replace("postgresql://", "postgresql+psycopg://"))
        upgrade(database)
        database.close()
        server = RedisServer(folder)
        stack.callback(server.kill)
        world = World(folder, url, server)
        found: dict[str, Any] = {"database": arguments.database, "malformed_messages": 40}
        found["seconds_after_malformed"] = round(malformed(world, 40), 1)
        found["seconds_with_a_broken_host"] = round(broken_host(world, 6), 1)
        found["seconds_after_outages"] = [round(one, 1) for one in outages(world, arguments.outages, arguments.seconds)]
        found |= {"states": world.states(), "counted_twice": world.counted_twice()}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
