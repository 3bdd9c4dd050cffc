"""Invalid input gets an exit code and one line: the value, the expected value, and what to do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import adapeff_program
from tests.e2e.conftest import Adapeff

NO_SERVER = "127.0.0.1:1"


@dataclass(frozen=True)
class Bad:
    """Invalid input: a command line (`{sweep}` is a valid sweep file), its exit code, and its message."""

    name: str
    typed: str
    code: int
    says: str
    sweep: str | None = None
    """The sweep file's text, or an addition to the valid sweep if it starts with +."""
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] | None = None


def train_file(folder: Path) -> Path:
    return folder / "data_root/sentiment/sst2/default/train.jsonl"


def future_database(folder: Path) -> None:
    subprocess.run([adapeff_program(), "db", "upgrade"], check=True, capture_output=True)
    with sqlite3.connect(folder / "state" / "adapeff.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def no_database(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "adapeff.db").write_text("text " * 500)


def one_finished(folder: Path) -> None:
    done = [adapeff_program(), "run", str(folder / "small.yaml"), "--methods", "head"]
    subprocess.run(done, check=True, capture_output=True)


def one_queued(folder: Path) -> None:
    done = [adapeff_program(), "submit", str(folder / "small.yaml"), "--methods", "head"]
    subprocess.run(done, check=True, capture_output=True)


SUBMIT = "submit {sweep}"
TABLE = [
    Bad("yaml syntax", SUBMIT, 1, "line 2, column 6 is not YAML", sweep="models: [a\ntasks: x\n"),
    Bad("yaml list", SUBMIT, 1, "contains a list, expected a mapping with keys such as models", sweep="- a\n"),
    Bad("empty file", SUBMIT, 1, "contains nothing, expected a mapping", sweep=""),
    Bad("unknown key", SUBMIT, 1, "unknown key 'metods'; did you mean 'methods'?", sweep="+metods: [full]\n"),
    Bad("setting at the top", SUBMIT, 1, "unknown key 'epochs' (it belongs under `settings:`)", sweep="+epochs: 3\n"),
    Bad("unknown setting", "submit {sweep} -s epohcs=1", 1, "unknown key 'epohcs' in override"),
    Bad("unknown setting in file", SUBMIT, 1, "unknown setting 'epohcs'; did you mean 'epochs'?",
        sweep="models: [a/b]\ntasks: [sst2]\nmethods: [full]\nsettings: {epohcs: 1}\n"),
    Bad("override without =", "submit {sweep} -s epochs", 1, "override 'epochs' is not of the form key=value"),
    Bad("missing model folder", "submit {sweep} --models ./nowhere", 1, "model folder './nowhere' does not exist"),
    Bad("malformed model", "submit {sweep} --models a/b/c", 1, "'a/b/c' is not a valid model reference: expected a hub id org/name[@revision]"),
    Bad("missing package", "submit {sweep} --models package:no_such_package/model", 1, "'no_such_package' is not installed"),
    Bad("folder without model", "submit {sweep} --models ./data_root", 1, "contains no config.json"),
    Bad("unknown task", "submit {sweep} --tasks sst3", 1, "unknown task 'sst3'; did you mean 'sst2'?"),
    Bad("unknown suite", SUBMIT, 1, "unknown suite 'ofline'; did you mean 'offline'?", sweep="+suites: [ofline]\n"),
    Bad("unknown method", "submit {sweep} --methods lorra", 1, "unknown method 'lorra'; did you mean 'lora'?"),
    Bad("unknown parameter", "submit {sweep} --methods lora[rnak=8]", 1, "has no parameter 'rnak'; did you mean 'rank'?"),
    Bad("wrong parameter type", "submit {sweep} --methods lora[rank=big]", 1, "method 'lora': 'rank' is 'big'"),
    Bad("malformed method", "submit {sweep} --methods lora[rank", 1, "is not of the form name or name[key=value,...]"),
    Bad("negative setting", "submit {sweep} -s epochs=-1", 1, "'epochs' is -1: input should be greater than 0"),
    Bad("wrong type of setting", "submit {sweep} -s batch_size=many", 1, "'batch_size' is 'many'"),
    Bad("wrong type of seed", "submit {sweep} --seeds zero", 1, "'seeds.0' is 'zero': input should be a valid integer"),
    Bad("unknown language", "submit {sweep} --set test_languages=[xx]", 1, "no task of the sweep has the test language 'xx'; known: en"),
    Bad("empty grid", SUBMIT, 1, "no jobs left after its excludes", sweep="+exclude: [{seed: 0}]\n"),
    Bad("empty axis", "submit {sweep} -s batch_size=[]", 1, "setting 'batch_size' is an empty list, so the grid is empty"),
    Bad("no methods", SUBMIT, 1, "'methods' is missing", sweep="models: [a/b]\ntasks: [sst2]\n"),
    Bad("no tasks", SUBMIT, 1, "a sweep needs at least one task or suite", sweep="models: [a/b]\nmethods: [full]\n"),
    Bad("missing sweep file", "submit nowhere.yaml", 1, "sweep file 'nowhere.yaml' does not exist; ready-made sweeps: demo"),
    Bad("unknown ready-made sweep", "run demoo", 1, "unknown sweep 'demoo'; did you mean 'demo'?"),
    Bad("sweep not UTF-8", SUBMIT, 1, "is not UTF-8 text (byte 0)", prepare=lambda f: (f / "small.yaml").write_bytes(b"\xff\xfe")),
    Bad("missing data file", SUBMIT, 1, "has no train data in 'en'; expected", prepare=lambda f: train_file(f).unlink()),
    Bad("data not JSON", SUBMIT, 1, "line 1: not JSON", prepare=lambda f: train_file(f).write_text("{\n")),
    Bad("wrong columns", SUBMIT, 1, "no column 'sentence'; found: text, label",
        prepare=lambda f: train_file(f).write_text('{"text": "a", "label": 1}\n')),
    Bad("label out of range", SUBMIT, 1, "unknown label 7; expected 0 (negative), 1 (positive)",
        prepare=lambda f: train_file(f).write_text('{"idx": 0, "sentence": "a", "label": 7}\n')),
    Bad("data set not available, hub offline", "run {sweep} --data-root .", 4, "cannot be loaded from the hub"),
    Bad("model not available, hub offline", "run {sweep} --models org/none --methods head", 4, "model 'org/none' is not cached on this host, and the hub cannot be reached"),
    Bad("unreachable broker", SUBMIT, 3, "The jobs are stored", environment={"REDIS_URL": f"redis://:hush@{NO_SERVER}/0"}),
    Bad("unreachable database", "status", 3, "cannot be reached", environment={"DATABASE_URL": f"postgres://u:hush@{NO_SERVER}/d"}),
    Bad("unknown kind of database", "status", 1, "expected sqlite:///PATH or postgresql://", environment={"DATABASE_URL": "mysql://h/d"}),
    Bad("unknown kind of broker", "status", 1, "expected redis://", environment={"ADAPEFF_BROKER_URL": "amqp://h"}),
    Bad("database of another application", "status", 1, "has no adapeff tables; if it is meant for adapeff",
        environment={"DATABASE_URL": "sqlite:///other.db"}),
    Bad("database of a newer version", "status", 1, "revision 9999, but this adapeff only supports", prepare=future_database),
    Bad("file is not a database", "status", 1, "it is not an SQLite database",
        prepare=no_database),
    Bad("state folder cannot be created", "status", 1, "cannot create the folder", environment={"ADAPEFF_STATE_DIR": "/proc/adapeff"}),
    Bad("disk full", "export --all --format json --out /dev/full", 1, "No space left on device"),
    Bad("disk full on stdout", "config --json > /dev/full", 1, "No space left on device; free some space or choose another location"),
    Bad("read-only place", "report --all --plot pareto /proc/x.png", 1, "/proc/x.png); choose a location that exists and that you may write to", prepare=one_finished),
    Bad("no GPU", "run {sweep} -s device=cuda", 1, "this host has no GPU"),
    Bad("device that does not exist", "worker --devices cpu:4096", 1, "this host has"),
    Bad("unknown kind of device", "submit {sweep} -s device=gpu", 1, "'device' is 'gpu': unknown device; did you mean"),
    Bad("malformed device", "worker --devices gpu:0", 1, "'gpu:0' is not a device; expected auto or one of cuda"),
    Bad("mixed devices", "worker --devices cpu:0,cuda:0", 1, "cuda:0"),
    Bad("unknown variable", "status", 1, "unknown environment variable ADAPEFF_DATABSE_URL; did you mean", environment={"ADAPEFF_DATABSE_URL": "x"}),
    Bad("unknown key in adapeff.toml", "status", 1, "unknown setting 'lease'", prepare=lambda f: (f / "adapeff.toml").write_text("lease = 1\n")),
    Bad("adapeff.toml is not TOML", "status", 1, "adapeff.toml is not TOML", prepare=lambda f: (f / "adapeff.toml").write_text("a = \n")),
    Bad("value of the wrong type", "status", 1, "from environment ADAPEFF_LEASE_SECONDS", environment={"ADAPEFF_LEASE_SECONDS": "long"}),
    Bad("port is not a number", "status", 1, "it is not a valid address (port could not be cast to integer value", environment={"DATABASE_URL": "postgresql://u:hush@h:port/d"}),
    Bad("data_root does not exist", "submit {sweep} --data-root nowhere", 1, "no such folder; give an existing one"),
    Bad("Redis database is not a number", SUBMIT, 1, "Redis databases are numbered, and 'abc' is not a number", environment={"REDIS_URL": "redis://:hush@h:1/abc"}),
    Bad("broken IPv6 address", "status", 1, "it is not a valid address (invalid ipv6 url)", environment={"DATABASE_URL": "postgresql://u:hush@[::1/x"}),
    Bad("port out of range", "status", 1, "it is not a valid address (port out of range", environment={"DATABASE_URL": "postgresql://u:hush@h:99999/x"}),
    Bad("alias in YAML", SUBMIT, 1, "aliases (*name) are not supported; write the value itself", sweep="models: &m [*m]\n"),
    Bad("key twice in YAML", SUBMIT, 1, "the key 'seeds' appears twice", sweep="+seeds: [1]\n"),
    Bad("exclude that matches nothing", SUBMIT, 1, "matches no job of the grid", sweep="+exclude: [{method: lorra}]\n"),
    Bad("unknown key in exclude", SUBMIT, 1, "unknown key 'metod' in exclude/include; did you mean 'method'?", sweep="+exclude: [{metod: full}]\n"),
    Bad("boolean for a number", "submit {sweep} -s steps=true", 1, "'steps' is True: input should be a valid integer"),
    Bad("number too large", "submit {sweep} -s batch_size=10000000000000000000000", 1, "'batch_size' is 10000000000000000000000"),
    Bad("longer than the model", "run {sweep} --methods head -s max_length=100", 4, "max_length is 100, but model"),
    Bad("a sweep and all", "report small --all", 1, "a sweep and --all cannot be combined; omit one of them"),
    Bad("two formats", "report --json --format csv", 1, "--json and --format csv cannot be combined; omit one of them"),
    Bad("impossible date", SUBMIT, 1, "contains a value that cannot be read", sweep="+description: 2024-99-99\n"),
    Bad("settings are a list", "submit {sweep} -s epochs=1", 1, "expected a mapping",
        sweep="models: [a/b]\ntasks: [sst2]\nmethods: [full]\nsettings: [1]\n"),
    Bad("the same batch twice", "submit {sweep} -s latency_batches=[1,1]", 1, "a value appears twice; list each once"),
    Bad("sweep id with a non-ASCII digit", "status ²", 1, "there is no sweep '²'"),
    Bad("devices that fit no job", "run {sweep} --devices cuda:0", 1, "cannot run jobs with the setting device: cpu"),
    Bad("more threads than cores", "run {sweep} --methods head -s cpu_threads=9", 4, "start the worker with ADAPEFF_CORES_PER_SLOT=9"),
    Bad("unknown job", "show 99", 1, "there is no job 99; `adapeff status` lists them"),
    Bad("unknown sweep", "report nosuch", 1, "there is no sweep 'nosuch'; known: none yet"),
    Bad("unknown state", "status --state done", 1, "unknown state 'done'"),
    Bad("watch as JSON", "status --watch --json", 1, "omit one of them"),
    Bad("log of a job that has not run", "logs 1", 1, "job 1 has not run yet (it is queued)", prepare=one_queued),
    Bad("retry of a queued job", "retry 1", 1, "job 1 is queued; only failed and cancelled jobs can be retried", prepare=one_queued),
    Bad("cancel without a job", "cancel", 1, "no job to cancel is given; name job ids, or select jobs with --sweep or --where"),
    Bad("parquet to the terminal", "export --all --format parquet", 1, "parquet is a binary format and needs a file; add --out FILE.parquet"),
    Bad("files of runs without a folder", "export --all --what peft-results", 1, "peft-results are a file for each run and need a folder; add --out FOLDER"),
    Bad("files of runs into a file", "export --all --what model-cards -o small.yaml", 1, "--out is 'small.yaml', which is no folder"),
    Bad("files of runs as CSV", "export --all --what model-cards --format csv -o cards", 1, "model-cards have a format of their own; omit --format"),
    Bad("card of weights that were not kept", "export --all --what model-cards -o cards", 1,
        "no finished run kept its weights; run the sweep again with -s keep_weights=true", prepare=one_finished),
    Bad("results of nothing", "export --all --what peft-results -o results", 1, "no training run has finished yet; see `adapeff status`"),
    Bad("MLflow and a file", "export --all --mlflow sqlite:///x.db -o x.csv", 1, "--mlflow and --out, --format, --what and --with-predictions cannot be combined"),
    Bad("unknown plot format", "report --all --plot pareto x.doc", 1, "--plot is 'x.doc'; expected a file name ending in .png, .svg or .pdf", prepare=one_finished),
    Bad("plot of nothing", "report --all --plot pareto x.png", 1, "the picture 'pareto' would be empty: no finished job has a score"),
    Bad("unknown command", "sumbit", 2, "No such command 'sumbit'"),
    Bad("unknown option", "status --wach", 2, "No such option"),
    Bad("job id out of range", "show 99999999999999999999999", 2, "2147483647"),
    Bad("job id is not a number", "show first", 2, "as an integer"),
]  # fmt: skip


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_bad_input_gets_one_line_and_an_exit_code(bad: Bad, sweep: Path, tmp_path: Path) -> None:
    if bad.sweep is not None:
        sweep.write_text(sweep.read_text() + bad.sweep[1:] if bad.sweep.startswith("+") else bad.sweep)
    if bad.prepare is not None:
        bad.prepare(tmp_path)
    if "GPU" in bad.says and Path("/dev/nvidia0").exists():
        pytest.skip("this host has a GPU")
    typed, redirect, target = bad.typed.format(sweep="small.yaml").partition(" > ")

    with open(target if redirect else tmp_path / "out", "w") as out:
        done = subprocess.run(
            [adapeff_program(), *typed.split()],
            env={**os.environ, **bad.environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == bad.code, done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stderr
    assert bad.says in " ".join(done.stderr.split())
    if bad.code == 1:
        notes = ("sweep ", "exported 0 measurements", "no job has finished")
        complaint = [line for line in done.stderr.splitlines() if not line.startswith(notes)]
        assert len(complaint) == 1


def test_unreachable_broker_loses_nothing(adapeff: Adapeff, sweep: Path) -> None:
    away = {"ADAPEFF_BROKER_URL": f"redis://{NO_SERVER}/0"}

    assert adapeff("submit", sweep, **away).returncode == 3

    assert '"queued": 2' in adapeff("status", "--json").stdout
    assert adapeff("run", sweep).returncode == 0


def test_refused_sweep_stores_nothing(adapeff: Adapeff, sweep: Path) -> None:
    assert adapeff("submit", sweep, "--methods", "full,lorra").returncode == 1

    assert '"counts": {}' in adapeff("status", "--json").stdout
