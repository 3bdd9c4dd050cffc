"""Models by hub id, against a small server that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adapeff.service.plugins.catalog import get_task
from adapeff.worker.tasks.declared import DeclaredTask
from tests.e2e.conftest import Adapeff, show, write_rows


class Hub:
    """Serves one repository, `org/tiny`, whose branch main stands at `commit`."""

    def __init__(self, folder: Path) -> None:
        self.commit = "a" * 40
        self.folder = folder
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                parts = self.path.split("?")[0].strip("/").split("/")
                file = hub.folder / parts[-1]
                if parts[:3] == ["api", "models", "org"] and "tree" in parts:
                    files = [f for f in hub.folder.iterdir() if "additional_chat_templates" not in parts]
                    listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in files]
                    content = json.dumps(listed).encode()
                elif parts[:3] == ["api", "models", "org"] and len(parts) in (4, 6):
                    content = json.dumps({"id": "org/tiny", "sha": hub.commit, "siblings": []}).encode()
                elif parts[:3] == ["org", "tiny", "resolve"] and file.is_file():
                    content = file.read_bytes()
                else:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("X-Repo-Commit", hub.commit)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("X-Repo-Commit", hub.commit)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of the test's own, with an empty cache."""
    opened = Hub(tiny_model)
    monkeypatch.setenv("HF_ENDPOINT", opened.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield opened
    opened.close()


def test_hub_model_is_run_stored_by_commit_and_run_again_when_the_branch_moved(
    adapeff: Adapeff, sweep: Path, hub: Hub
) -> None:
    typed = ("run", sweep, "--models", "org/tiny", "--methods", "head")

    first = adapeff(*typed)
    assert first.returncode == 0, first.stderr
    assert show(adapeff, 1)["runs"][0]["resolved"]["model_revision"] == "a" * 40

    assert "1 already submitted" in adapeff(*typed).stderr
    hub.commit = "b" * 40
    assert "1 new" in adapeff(*typed).stderr
    again = adapeff("submit", sweep, "--models", "org/tiny", "--methods", "head", "--json")
    assert json.loads(again.stdout) == {"sweep": 4, "jobs": [2], "created": []}

    assert show(adapeff, 2)["runs"][0]["resolved"]["model_revision"] == "b" * 40


def test_hub_data_set_is_read_by_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads a folder as it reads a repository; the test split has no labels, as SST-2's on the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for split, label in (("train", 1), ("validation", 0), ("test", -1)):
        write_rows(
            tmp_path / "repo" / f"{split}.jsonl",
            [{"idx": i, "sentence": f"{split} {i}", "label": label} for i in range(20)],
        )
    declared = get_task("sst2").model_dump()
    changed = {**declared["train"], "hub": str(tmp_path / "repo"), "languages": {"en": "default"}}
    task = DeclaredTask.model_validate({**declared, "train": changed, "tests": {"en": changed}})

    tested = task.examples("test", "en", None)
    train, selection = task.examples("train", "en", None), task.examples("validation", "en", None)

    assert {(e.text.split()[0], e.label) for e in tested} == {("validation", 0)}
    assert (len(train), len(selection)) == (18, 2)
    assert {e.text.split()[0] for e in (*train, *selection)} == {"train"}
    assert task.resolved_revisions(None)
