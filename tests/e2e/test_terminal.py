"""The command line with unusual streams, folders and homes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from adapeff.service.store.database import Database, upgrade
from tests.conftest import adapeff_program
from tests.e2e.conftest import Adapeff
from tests.integration.test_report import store


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which `adapeff` is the installed command."""
    return subprocess.run(
        ["bash", "-c", line.replace("adapeff ", f"{adapeff_program()} ")],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        "adapeff methods ls | head -1",
        "adapeff methods ls >&-",
        "adapeff status >&-",
        "adapeff config 2>&-",
        "PYTHONIOENCODING=ascii adapeff methods ls",
        "LC_ALL=C PYTHONUTF8=0 adapeff tasks ls",
    ],
)
def test_streams_that_are_closed_or_narrow_give_no_traceback(line: str) -> None:
    done = shell(line)

    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_completion_offers_sweeps_jobs_and_plug_ins(adapeff: Adapeff, sweep: Path, tmp_path: Path) -> None:
    assert adapeff("submit", sweep).returncode == 0

    def offered(typed: str) -> list[str]:
        words = f"adapeff {typed} "
        done = shell(
            "adapeff ", _ADAPEFF_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()))
        )
        return done.stdout.split()

    assert offered("status") == ["small"]
    assert offered("show") == ["2", "1"] or offered("show") == ["1", "2"]
    assert "houlsby" in offered("methods show")
    assert "xnli" in offered("tasks show")
    assert offered(f"--state-dir {tmp_path / 'elsewhere'} status") == []


def test_completion_offers_commands_and_their_flags() -> None:
    def offered(word: str, typed: str) -> list[str]:
        done = shell(
            "adapeff ",
            _ADAPEFF_COMPLETE="complete_bash",
            COMP_WORDS=f"adapeff {typed}",
            COMP_CWORD=str(len(typed.split())),
        )
        return [line for line in done.stdout.split() if line.startswith(word)]

    assert offered("re", "re") == ["retry", "release", "report", "recommend"]
    assert offered("--w", "submit --w") == ["--wait"]
    assert offered("v", "tasks v") == ["validate", "verify"]


def test_folder_with_a_ready_made_sweeps_name_hides_nothing(adapeff: Adapeff) -> None:
    Path("demo").mkdir()

    done = adapeff("submit", "demo", "--dry-run", "--models", "org/none")

    assert done.returncode == 0, done.stderr


def test_sweeps_are_listed_with_all_their_submissions(adapeff: Adapeff, sweep: Path) -> None:
    adapeff("submit", sweep)
    adapeff("submit", sweep, "--seeds", "1")

    listed = adapeff("sweeps", "ls")

    assert "small" in listed.stdout and "sweeps" in listed.stdout
    assert len(json.loads(adapeff("status", "small", "--json").stdout)["jobs"]) == 4


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("submit {sweep} --seeds 0,x", "'seeds=0,x': 'seeds.1' is 'x': input should be a valid integer"),
        (
            "export --all -o x.xlsx",
            "--out is 'x.xlsx'; expected a suffix of .csv, .json, .parquet, or the format as --format",
        ),
        ("export --all --format csv -o x.parquet", "--out is 'x.parquet', but --format is csv"),
        (
            "report --all --plot pareto nowhere/x.png",
            "--plot is 'nowhere/x.png', but the folder nowhere does not exist",
        ),
        ("run {sweep} --plot x.xyz", "--plot is 'x.xyz'; expected a file name ending in .png, .svg or .pdf"),
    ],
)
def test_wrong_options_are_reported_before_any_work(adapeff: Adapeff, sweep: Path, typed: str, said: str) -> None:
    done = adapeff(*typed.format(sweep=sweep).split())

    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())


def test_new_files_are_private_whatever_the_umask(sweep: Path, tmp_path: Path) -> None:
    done = shell(f"umask 000; adapeff submit {sweep}", ADAPEFF_STATE_DIR=str(tmp_path / "new" / "state"))

    assert done.returncode == 0, done.stderr
    home = tmp_path / "new"
    made = [home, home / "state", home / "state" / "adapeff.db", *home.rglob("*.msg")]
    assert len(made) > 3
    assert [str(place) for place in made if stat.S_IMODE(place.stat().st_mode) & 0o077] == []


def test_second_upgrade_says_that_there_is_nothing_to_do(adapeff: Adapeff, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'own.db'}"
    adapeff("db", "upgrade", ADAPEFF_DATABASE_URL=url)

    assert "already at" in adapeff("db", "upgrade", ADAPEFF_DATABASE_URL=url).stdout


def test_many_tables_start_with_their_index_and_are_too_many_for_a_page(adapeff: Adapeff, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'many.db'}"
    database = Database(url)
    upgrade(database)
    for size in range(101):
        settings = {"test_languages": ["en", "de"], "train_size": 10 + size}
        store(database, "full", 0, 0.8, 100, settings=settings)
    database.close()

    shown = adapeff("report", "--all", ADAPEFF_DATABASE_URL=url)
    page = adapeff("report", "--all", "--format", "html", ADAPEFF_DATABASE_URL=url)

    assert shown.returncode == 0 and shown.stdout.lstrip().startswith("101 tables") and "--where" in shown.stdout
    assert page.returncode == 1 and "101 tables are too many for a page" in page.stderr
