"""The contract of methods on every architecture; `python -m tests.contract` prints the matrix as Markdown."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from adapeff.service.errors import AdapeffError
from adapeff.service.plugins.catalog import methods
from adapeff.worker.modeling.models import TaskModel, trained_state
from tests.encoders import ENCODERS, adapt, batch, loss_of, store, take_steps

PARAMETERS = {
    "compacter": "[reduction_factor=4]",
    "compacter++": "[reduction_factor=4]",
    "pfeiffer": "[reduction_factor=4]",
    "pfeiffer_parallel": "[reduction_factor=4]",
    "unipelt": "[reduction_factor=4]",
    "top_k_layers": "[layers=1]",
    "adapterdrop": "[most=0]",
}
"""Parameters that replace defaults on such a small model; AdapterDrop's random depths have their own test."""

BROKEN = "BROKEN"

FUSED = ("pfeiffer", "compacter++")
"""The adapters that AdapterFusion mixes."""

REWRITES = {
    "peft:adamss": "replaces weights by their decomposition",
    "peft:ln_tuning": "trains the model's own LayerNorms; PEFT keeps the originals",
    "peft:osf": "replaces weights by their singular value decomposition",
}
"""Tuners whose removal may not restore the base bit for bit, and why."""

WITHOUT_GRADIENT = {
    "peft:shadow": "only its own auxiliary loss reads the shadow network's last update",
}
"""Tuners that train tensors without a gradient from the task's loss, and why."""


def check(name: str, architecture: str) -> None:
    """Hold a method to its contract on an architecture.

    Raises:
        AdapeffError: if the method refuses the architecture.
        AssertionError: if it breaks the contract.
    """
    with tempfile.TemporaryDirectory() as folder:
        if name == "adapterfusion":
            sources = [store(Path(folder) / kind, f"{kind}[reduction_factor=4]", architecture) for kind in FUSED]
            _check(name, f"adapterfusion[sources=[{','.join(sources)}]]", architecture)
        else:
            _check(name, name + PARAMETERS.get(name, ""), architecture)


def _check(name: str, written: str, architecture: str) -> None:
    model, base = adapt(written, architecture)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    says = set(trained_state(model))
    assert {key for key in says if key.startswith("head.")} == {key for key in before if key.startswith("head.")}

    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    assert loss.isfinite(), "no finite loss under bfloat16 autocast"
    model.zero_grad(set_to_none=True)

    take_steps(model)
    moved = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
    assert moved <= says, f"frozen weights moved: {sorted(moved - says)[:3]}"
    if name not in WITHOUT_GRADIENT and name != "full":  # `full` has embeddings that the batch does not use
        assert moved == says, f"trained weights did not move: {sorted(says - moved)[:3]}"

    _check_saving(model, written, architecture)
    if [key for key, _ in model.encoder.named_parameters()] != [key for key, _ in base.named_parameters()]:
        _check_removal(model, base, exactly=name not in REWRITES)


def _check_saving(model: TaskModel, written: str, architecture: str) -> None:
    kept = {key: tensor.clone() for key, tensor in trained_state(model).items()}
    fresh, _ = adapt(written, architecture)
    fresh.load_state_dict(kept, strict=False)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(batch()), model.eval()(batch())), "what is saved does not give the same model"


def _check_removal(model: TaskModel, base: torch.nn.Module, *, exactly: bool) -> None:
    adapted: Any = model.encoder
    while not isinstance(adapted, PeftModel):
        adapted = adapted.adapted
    tuner = adapted.base_model
    restored = tuner.unload() if hasattr(tuner, "unload") else adapted.get_base_model()  # prompts change no layer
    restored.eval()
    with torch.no_grad():
        ours, theirs = restored(**batch()).last_hidden_state, base(**batch()).last_hidden_state
    if exactly:
        assert torch.equal(ours, theirs), "removal does not restore the base"
    else:
        assert torch.allclose(ours, theirs, atol=1e-4), "removal does not restore the base even nearly"


def matrix() -> list[list[str]]:
    """Method by architecture: `ok` or the reason."""
    rows = []
    for name in methods():
        row = [name]
        for architecture in ENCODERS:
            try:
                check(name, architecture)
                row.append("ok")
            except AdapeffError as error:
                row.append(str(error).splitlines()[0])
            except Exception as error:  # noqa: BLE001 - a broken contract must not hide the rest of the matrix
                row.append(f"{BROKEN}: {name}: {type(error).__name__}: {str(error).splitlines()[0]}")
        rows.append(row)
    return rows


def main() -> int:
    """Print the matrix with its reasons below; exits with 1 if a contract is broken."""
    warnings.simplefilter("ignore")
    reasons: dict[str, int] = {}
    print("| method | " + " | ".join(ENCODERS) + " |")
    print("| --- " * (len(ENCODERS) + 1) + "|")
    for name, *cells in matrix():
        shown = [
            cell if cell == "ok" else f"{_word(cell)} ({reasons.setdefault(cell, len(reasons) + 1)})" for cell in cells
        ]
        print(f"| {name} | " + " | ".join(shown) + " |")
    print()
    for reason, number in reasons.items():
        print(f"{number}. {reason}")
    return int(any(reason.startswith(BROKEN) for reason in reasons))


def _word(cell: str) -> str:
    return BROKEN if cell.startswith(BROKEN) else "no"


if __name__ == "__main__":
    sys.exit(main())
