"""A search for the learning rate, from the sweep to the report."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.conftest import Adapeff


def test_the_best_rate_by_validation_is_trained_with_and_its_cost_is_reported(adapeff: Adapeff, sweep: Path) -> None:
    done = adapeff(
        *("run", sweep, "--methods", "lora", "--json"),
        *("-s", "tuning={learning_rate: [1e-5, 1e-3], trials: 2}"),
    )
    assert done.returncode == 0, done.stderr

    view = json.loads(adapeff("show", "1", "--json").stdout)
    value = {m["name"]: m["value"] for m in view["measurements"] if "split" not in m and "variant" not in m}
    validated = next(m["value"] for m in view["measurements"] if m.get("split") == "validation" and m["unit"] == "1"
                     and m["name"] == "accuracy")  # fmt: skip
    trials = dict(view["curves"]["tuning"])
    assert set(trials) == {1e-5, 1e-3}
    assert trials[value["learning_rate"]] == max(trials.values()) == validated
    assert value["tuning_trials"] == 2
    assert value["tuning_compute_s"] > value["train_compute_s"]
    (cost,) = (row for row in json.loads(done.stdout) if row.get("figure") == "tuning_compute_s")
    assert cost["method"] == "lora (tuned, 2 trials)"
    assert cost["mean"] == value["tuning_compute_s"]

    plain = adapeff("run", sweep, "--methods", "lora", "--json", "-s", f"learning_rate={value['learning_rate']}")
    assert plain.returncode == 0, plain.stderr
    same = json.loads(adapeff("show", "2", "--json").stdout)
    assert same["curves"]["train_loss"] == view["curves"]["train_loss"]
