"""Who may use a device at the same time, by real file locks."""

from __future__ import annotations

from contextlib import ExitStack
from threading import Event, Thread

from adapeff.worker.locks import occupy

SOON = 30.0


def nobody() -> None:
    raise AssertionError("there was nobody to wait for")


class User:
    """Uses a device in a thread until told to leave."""

    def __init__(self, *, alone: bool) -> None:
        self.waits, self.uses, self.leave = Event(), Event(), Event()
        self.thread = Thread(target=self._use, args=(alone,), daemon=True)
        self.thread.start()

    def _use(self, alone: bool) -> None:
        with occupy("cpu", alone=alone, waiting=self.waits.set):
            self.uses.set()
            self.leave.wait(SOON)

    def end(self) -> None:
        self.leave.set()
        self.thread.join(SOON)


def test_runs_share_a_device_but_not_with_one_that_wants_it_alone() -> None:
    with ExitStack() as sharing:
        sharing.enter_context(occupy("cpu", alone=False, waiting=nobody))
        sharing.enter_context(occupy("cpu", alone=False, waiting=nobody))
        sharing.enter_context(occupy("cuda-0", alone=True, waiting=nobody))
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
    with occupy("cpu", alone=True, waiting=nobody):
        pass
