"""Write a file for each finished run to a folder, in the layout of another tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapeff.cli.export_files import replacing
from adapeff.cli.render.model_card import model_card
from adapeff.service.errors import SpecError
from adapeff.service.reporting.card_metadata import card_name
from adapeff.service.reporting.finished_runs import FinishedRun
from adapeff.service.reporting.peft_results import experiment_name, peft_result
from adapeff.service.specs.job import JobSpec


@dataclass(frozen=True)
class RunFile:
    """A kind of file that a run can be exported as."""

    name: str
    """Of several, for messages."""
    make: Callable[[FinishedRun], tuple[str, str] | None]
    """Its path within the folder and its text; None for a run without one."""
    why_none: str
    """Why there may be none, and what to do."""


def _peft_result(run: FinishedRun) -> tuple[str, str]:
    name = experiment_name(run).replace("/", "--")
    return f"{name}.json", json.dumps(peft_result(run), indent=2) + "\n"


def _model_card(run: FinishedRun) -> tuple[str, str] | None:
    if run.weights is None or not isinstance(run.spec, JobSpec):
        return None
    return f"{card_name(run, run.spec)}/README.md", model_card(run, run.spec, run.weights)


RUN_FILES: Mapping[str, RunFile] = {
    "peft-results": RunFile("results", _peft_result, "no training run has finished yet; see `adapeff status`"),
    "model-cards": RunFile(
        "model cards",
        _model_card,
        "no finished run kept its weights; run the sweep again with -s keep_weights=true",
    ),
}
"""`--what` -> the file of a run."""


def check_run_folder(what: str, folder: Path | None) -> Path:
    """The folder for files of runs.

    Raises:
        SpecError: if there is none, or it is a file.
    """
    if folder is None:
        raise SpecError(f"{what} are a file for each run and need a folder; add --out FOLDER")
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"--out is '{folder}', which is no folder; {what} are a file for each run")
    return folder


def write_run_files(what: str, runs: Iterable[FinishedRun], folder: Path) -> tuple[int, int]:
    """Write the files of all runs to a folder, and give their number and that of the runs without one.

    Raises:
        SpecError: if no run has one.
    """
    kind = RUN_FILES[what]
    written = without = 0
    for run in runs:
        made = kind.make(run)
        if made is None:
            without += 1
            continue
        file = folder / made[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as unfinished:
            unfinished.write_text(made[1], encoding="utf-8")
        written += 1
    if not written:
        raise SpecError(kind.why_none)
    return written, without
