"""Who may use a device at the same time, by real file locks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest

from adapeff.service.errors import ResourceError
from adapeff.worker.devices.locks import host_folder, occupy, take_lock

SOON = 30.0
LOCKS = Path("locks")  # in the test's own folder, where each test works


def nobody() -> None:
    raise AssertionError("there was nobody to wait for")


class User:
    """Uses a device in a thread until told to leave."""

    def __init__(self, *, alone: bool) -> None:
        self.waits, self.uses, self.leave = Event(), Event(), Event()
        self.thread = Thread(target=self._use, args=(alone,), daemon=True)
        self.thread.start()

    def _use(self, alone: bool) -> None:
        with occupy("cpu", alone=alone, waiting=self.waits.set, folder=LOCKS):
            self.uses.set()
            self.leave.wait(SOON)

    def end(self) -> None:
        self.leave.set()
        self.thread.join(SOON)


def test_runs_share_a_device_but_not_with_one_that_wants_it_alone() -> None:
    with ExitStack() as sharing:
        sharing.enter_context(occupy("cpu", alone=False, waiting=nobody, folder=LOCKS))
        sharing.enter_context(occupy("cpu", alone=False, waiting=nobody, folder=LOCKS))
        sharing.enter_context(occupy("cuda-0", alone=True, waiting=nobody, folder=LOCKS))
        profile = User(alone=True)
        assert profile.waits.wait(SOON)
        later = User(alone=False)
        assert later.waits.wait(SOON)
        assert not profile.uses.is_set()

    assert profile.uses.wait(SOON)
    assert not later.uses.is_set()
    profile.end()
    assert later.uses.wait(SOON)
    later.end()
    with occupy("cpu", alone=True, waiting=nobody, folder=LOCKS):
        pass


def test_nobody_passes_one_who_is_about_to_wait() -> None:
    others: list[User] = []

    def let_another_come() -> None:
        others.append(User(alone=False))
        assert others[0].waits.wait(SOON)
        sharing.close()

    with ExitStack() as sharing:
        sharing.enter_context(occupy("cpu", alone=False, waiting=nobody, folder=LOCKS))
        with occupy("cpu", alone=True, waiting=let_another_come, folder=LOCKS):
            assert not others[0].uses.is_set()

    assert others[0].uses.wait(SOON)
    others[0].end()


def test_lock_is_the_hosts_whatever_tmpdir_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = host_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    assert host_folder() == before


def test_lock_is_not_taken_on_what_others_planted(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.mkdir(mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / "core-0.lock").symlink_to(victim)
    (folder / "core-1.lock").hardlink_to(victim)

    for name in ("core-0", "core-1"):
        with pytest.raises(ResourceError, match="cannot use the lock"):
            take_lock(name, folder)

    assert victim.read_text() == "mine"
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ResourceError, match="it is not a folder"):
        take_lock("core-2", tmp_path / "link")


def test_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    held = take_lock("core-0", tmp_path)
    assert held is not None
    assert take_lock("core-0", tmp_path) is None
    held.close()
    (tmp_path / "core-0.lock").unlink()

    again = take_lock("core-0", tmp_path)

    assert again is not None and take_lock("core-0", tmp_path) is None
    again.close()
