"""The shared parts of commands: an invocation's settings, and the worker's side in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import typer

from adapeff.cli.invocation import Invocation
from adapeff.cli.main import app
from adapeff.cli.worker_client import LocalWorker, WorkerClient
from adapeff.service.errors import AdapeffError, ExitCode, UnreachableError


def invocation(*typed: str, **flags: Any) -> Invocation:
    """The invocation of `adapeff TYPED status`."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("adapeff", [*typed, "status"])
    name, command, rest = group.resolve_command(context, ["status"])
    return Invocation.of(command.make_context(name, rest, context), **flags)


def test_flags_before_the_command_are_settings(tmp_path: Path) -> None:
    made = invocation("--state-dir", str(tmp_path / "here"), data_root=None)

    assert made.settings.state_dir == tmp_path / "here"
    assert made.loaded_settings.origins["state_dir"] == "flag"
    assert made.loaded_settings.origins["data_root"] == "default"


def test_flag_reaches_another_process_by_its_environment(tmp_path: Path) -> None:
    made = invocation("--database-url", "postgresql://u:hush@h/d").with_flags(data_root=tmp_path, cores_per_slot=None)

    added = made.child_environment().items() - os.environ.items()

    assert dict(added) == {"ADAPEFF_DATABASE_URL": "postgresql://u:hush@h/d", "ADAPEFF_DATA_ROOT": str(tmp_path)}


def test_further_flags_leave_the_invocation_as_it_is(tmp_path: Path) -> None:
    made = invocation()

    assert made.with_flags(cores_per_slot=2).settings.cores_per_slot == 2
    assert made.settings.cores_per_slot == 1


def test_worker_answers_in_json_lines(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"word {i},{i % 2}\n" for i in range(40)))

    answer = WorkerClient(os.environ).init_task(str(tmp_path / "data.csv"))

    assert answer["file"] == str(tmp_path / "task.yaml")
    assert answer["task"]["columns"] == {"text": "text", "label": "label"}


def test_error_of_the_worker_is_raised_with_its_own_message(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AdapeffError, match=r"^unknown data set 'xnly'; did you mean 'xnli'\?"):
        WorkerClient(os.environ).verify_data_sets(["xnly"])

    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("code", "kind"), [(ExitCode.UNREACHABLE, UnreachableError), (ExitCode.ERROR, AdapeffError), (77, AdapeffError)]
)
def test_local_worker_that_ended_says_why(code: int, kind: type[AdapeffError]) -> None:
    program = f"import sys; print('started\\nadapeff: no disk\\n', file=sys.stderr); sys.exit({int(code)})"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-c", program], stderr=log)
        process.wait()

        error = LocalWorker(process, log).error()

    assert type(error) is kind
    assert str(error) == "no disk"


def test_local_worker_that_logged_nothing_is_named_by_its_exit_code() -> None:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"], stderr=log)
        process.wait()

        assert str(LocalWorker(process, log).error()) == "the worker exited with code 5"


def test_local_workers_are_stopped_when_they_are_no_longer_needed(tmp_path: Path) -> None:
    client = WorkerClient({**os.environ, "ADAPEFF_STATE_DIR": str(tmp_path / "state")})

    with client.local_workers(["cpu:0"]) as workers:
        assert [worker.exit_code for worker in workers] == [None]

    assert workers[0].exit_code is not None
