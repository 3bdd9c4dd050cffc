"""Sweeps are removed and moved with the installed command."""

from __future__ import annotations

import gzip
import json
import os
import pty
import select as polling
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import func, select

from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Job
from tests.conftest import adapeff_program
from tests.e2e.conftest import Adapeff
from tests.integration.test_report import store
from tests.integration.test_sweep_removal import submit


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with a sweep of two finished jobs; the one that commands use."""
    url = f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("ADAPEFF_DATABASE_URL", url)
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))
    database = Database(url)
    upgrade(database)
    for seed in (0, 1):
        store(database, "full", seed, 0.8, 100)
    submit(database, "mine", 0, 1)
    database.close()
    return url


def jobs_in(url: str) -> int:
    database = Database(url)
    with database.session(read_only=True) as session:
        count = session.scalar(select(func.count()).select_from(Job)) or 0
    database.close()
    return count


def test_a_sweep_is_removed_only_with_consent(adapeff: Adapeff, url: str) -> None:
    planned = adapeff("sweeps", "rm", "mine", "--dry-run", "--json")
    refused = adapeff("sweeps", "rm", "mine")

    assert planned.returncode == 0 and "would remove sweep 'mine': 1 submissions, 2 jobs, 2 runs" in planned.stderr
    assert json.loads(planned.stdout)["removed"] is False
    assert refused.returncode == 1 and "add --yes" in refused.stderr.splitlines()[-1]
    assert jobs_in(url) == 2
    assert adapeff("sweeps", "rm", "mine", "--yes").returncode == 0
    assert jobs_in(url) == 0


@pytest.mark.parametrize(("answer", "left"), [("y", 1), ("n", 3)])
def test_others_can_write_while_a_terminal_is_asked(url: str, answer: str, left: int) -> None:
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        [adapeff_program(), "sweeps", "rm", "mine"], stdin=inside, stdout=inside, stderr=inside
    ) as process:
        os.close(inside)
        seen = b""
        while b"Remove them?" not in seen and polling.select([terminal], [], [], 60)[0]:
            seen += os.read(terminal, 4096)
        database = Database(url)
        store(database, "lora", 0, 0.8, 100)
        database.close()
        os.write(terminal, f"{answer}\n".encode())
        assert process.wait(60) == (0 if answer == "y" else 1)
    os.close(terminal)

    assert jobs_in(url) == left


def test_a_sweep_moves_to_another_database(adapeff: Adapeff, url: str, tmp_path: Path) -> None:
    archive, other = tmp_path / "mine.gz", {"ADAPEFF_DATABASE_URL": f"sqlite:///{tmp_path / 'other.db'}"}
    adapeff("db", "upgrade", **other)

    exported = adapeff("export", "mine", "--what", "archive", "--with-predictions", "-o", archive)
    planned, first, again = (
        adapeff("import", archive, *options, "--json", **other) for options in (["--dry-run"], [], [])
    )

    assert "exported 2 finished jobs" in exported.stderr and exported.returncode == 0
    assert "2 jobs would be new, 0 already here" in planned.stderr
    assert json.loads(first.stdout) == {"new": 2, "known": 0, "busy": 0, "stored": True}
    assert "0 jobs new, 2 already here" in again.stderr
    assert adapeff("report", "mine", "--json").stdout == adapeff("report", "mine", "--json", **other).stdout


def test_files_that_are_no_archive_are_one_line(adapeff: Adapeff, url: str, tmp_path: Path) -> None:
    archive = tmp_path / "mine.gz"
    adapeff("export", "mine", "--what", "archive", "-o", archive)
    content = archive.read_bytes()
    broken = {
        "cut.gz": (content[: len(content) // 2], "is damaged or incomplete"),
        "flipped.gz": (content[:-6] + bytes([content[-6] ^ 255]) + content[-5:], "is damaged or incomplete|CRC"),
        "plain.gz": (b"no archive", "cannot be read|is damaged"),
        "other.gz": (gzip.compress(b'{"a": 1}\n'), "is not an archive"),
        "bomb.gz": (gzip.compress(b"[" * (2**26 + 1), 1), "has a line of more than 67,108,864 characters"),
    }
    for name, (content, said) in broken.items():
        (tmp_path / name).write_bytes(content)
        ended = adapeff("import", tmp_path / name)
        assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
        assert any(part in ended.stderr for part in said.split("|")), ended.stderr


def test_predictions_are_asked_for_only_with_an_archive(adapeff: Adapeff, url: str) -> None:
    ended = adapeff("export", "mine", "--with-predictions")

    assert ended.returncode == 1 and "add --what archive" in ended.stderr
