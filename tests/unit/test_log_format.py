"""A worker's log as JSON."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from adapeff.worker.daemon.log_format import JsonFormatter


def line(*arguments: Any, error: bool = False, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("adapeff.test").makeRecord(
        "adapeff.test", logging.WARNING, "file.py", 1, arguments[0], arguments[1:], None, extra=extra
    )
    if error:
        try:
            raise ValueError("bad\nline")
        except ValueError as caught:
            record.exc_info = (type(caught), caught, caught.__traceback__)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_message_is_a_line_with_what_it_is_about() -> None:
    found = line("job %s: %s, größer", 7, 'a "quoted"\ntext', job_id=7, run_id=9)

    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning",
        "logger": "adapeff.test",
        "message": 'job 7: a "quoted"\ntext, größer',
        "job_id": 7,
        "run_id": 9,
    }


def test_error_has_its_traceback() -> None:
    assert "ValueError: bad" in line("it failed", error=True)["error"]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x"])
def test_values_that_json_lacks_are_written_as_text(value: object) -> None:
    assert line("x", about=value)["about"] == str(value)
