"""What tests share: data from outside, a tiny model, real PostgreSQL and Redis, a database of one's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import psutil
import pytest

# Machines differ and are shared: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("adapeff", deadline=None)
hypothesis.settings.load_profile("adapeff")

# Tiny models gain nothing from threads, and sums must not depend on the machine's cores.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell's background job has Ctrl-C ignored, which the commands under test would inherit and, rightly, keep.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 60.0
TEMPORARY = tempfile.gettempdir()
"""Where servers keep their data: not below a test's own folder, which another user may not enter."""


def processes_of(folder: Path | str) -> list[int]:
    """The living processes of runs whose log lies in a folder, or in one of its folders."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(OSError):
            log = Path(f"/proc/{process.pid}/fd/1").readlink()
            if log.is_relative_to(folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def eventually(condition: Callable[[], Any], what: str, *, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait for a condition and return its value; fail with what was seen last when the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        if seen := condition():
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come about in {seconds:g} s; last seen: {seen!r}")
        threading.Event().wait(0.05)


def outside_folder(variable: str, default: str) -> Path:
    """A folder of files that are not in the repository, or a skip that says how to provide it."""
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"no {default} at {folder}; set {variable} to a folder that holds them")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real data sets in the hub's schema."""
    return outside_folder("ADAPEFF_TEST_DATA", "data")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person who runs the tests reaches them; slots and state are the test's own."""
    for name in list(os.environ):
        if name.startswith("ADAPEFF_") and not name.startswith("ADAPEFF_TEST_"):
            monkeypatch.delenv(name)
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("TMPDIR", "tmp"), ("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("ADAPEFF_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("ADAPEFF_PROFILE", "off")  # only tests of profiles spend time on them
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 layers and width 32 with a word tokenizer, saved as transformers saves models."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    letters = [*"abcdefghijklmnopqrstuvwxyz'.,éñèêçäöüßóíá"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += ["good", "bad", "film", "was", "the", "not"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _need(program: str, folders: tuple[str, ...] = ()) -> str:
    """A server's program; where it is missing the test is skipped, in CI it fails."""
    found = shutil.which(program, path=os.pathsep.join([*folders, os.environ["PATH"], "/usr/sbin", "/sbin"]))
    if found is None:
        message = f"{program} is not installed; `make test` installs it when run as root (Debian, Ubuntu)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


class RedisServer:
    """A private Redis without persistence, that a test may kill and start again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"
        self._folder = folder
        self._program = _need("redis-server")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        import redis

        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--requirepass", "secret", "--dir", str(self._folder), "--daemonize", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = redis.Redis(port=self.port, password="secret")

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        eventually(answers, "Redis answering")
        client.close()

    def flush(self) -> None:
        """Forget everything."""
        import redis

        with redis.Redis(port=self.port, password="secret") as client:
            client.flushall()

    def kill(self) -> None:
        """End it at once; nothing survives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A private Redis for the session; it is emptied before each test that asks for `redis_url`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    redis_server.flush()
    return redis_server.url


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    binaries = tuple(str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    initdb, postgres = _need("initdb", binaries), _need("postgres", binaries)
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    if as_user:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
    data, port = folder / "data", _free_port()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    if not data.exists():
        subprocess.run(
            [*as_user, initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"], check=True, **quiet
        )
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    process = subprocess.Popen([*as_user, postgres, "-D", str(data), *options], **quiet)
    url = f"postgresql://postgres@127.0.0.1:{port}"
    import psycopg

    def answers() -> bool:
        try:
            psycopg.connect(f"{url}/postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        eventually(answers, "PostgreSQL answering")
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # ends open connections; SIGTERM would wait for them
        process.wait()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A private PostgreSQL with a migrated template database."""
    from adapeff.service.store.database import Database, upgrade

    with (
        tempfile.TemporaryDirectory(prefix="adapeff-postgres-", dir=TEMPORARY) as folder,
        _postgres(Path(folder)) as url,
    ):
        _execute(url, 'CREATE DATABASE "template_adapeff"')
        template = Database(f"{url}/template_adapeff".replace("postgresql:", "postgresql+psycopg:"))
        upgrade(template)
        template.close()
        yield url


def _execute(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """A PostgreSQL database of the test's own, migrated."""
    name = f"test_{uuid4().hex}"
    _execute(postgres_server, f'CREATE DATABASE "{name}" TEMPLATE "template_adapeff"')
    return f"{postgres_server}/{name}"


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> str:
    """A PostgreSQL database with nothing in it."""
    name = f"empty_{uuid4().hex}"
    _execute(postgres_server, f'CREATE DATABASE "{name}"')
    return f"{postgres_server}/{name}"


@pytest.fixture(params=["sqlite", "postgres"])
def any_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database of the test's own, on SQLite and on PostgreSQL."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    from adapeff.service.store.database import Database, upgrade

    url = f"sqlite:///{tmp_path / 'test.db'}"
    database = Database(url)
    upgrade(database)
    database.close()
    return url


@pytest.fixture
def cli(any_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command in this process on a database of the test's own; an expected error is raised."""
    from adapeff.cli.main import app

    monkeypatch.setenv("ADAPEFF_DATABASE_URL", any_database_url)
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))

    def run(*arguments: object) -> None:
        app([str(argument) for argument in arguments], standalone_mode=False)

    return run


@pytest.fixture
def adapeff() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the installed command."""

    def run(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [adapeff_program(), *map(str, arguments)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


def adapeff_program() -> str:
    """The installed command of this environment."""
    return str(Path(sys.executable).parent / "adapeff")
