"""Checkpoints: what a run has learned so far, for a later run of the same job to go on from.

They lie in one folder per job. Each is a single file that is written aside and renamed, and has its checksum in its
name, so that a file that was cut short is not taken for one. They hold tensors and JSON, and reading them runs no code.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from adapeff.service.specs.fingerprints import file_fingerprint

logger = logging.getLogger("adapeff.runner")

_FACTS = "adapeff"
_KEPT = 2
_MOST_SHARE = 0.05
"""Of the time, that writing may take."""
_LAST_SHARE = 0.1
"""Of the usual time between two checkpoints, before the one after the last step."""
_CHECKSUM_LENGTH = 16


class StoppedError(Exception):
    """The run was asked to stop, and left its checkpoints."""


class Checkpoint(NamedTuple):
    """Tensors and the facts about them."""

    facts: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names start with a prefix, without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


class Checkpoints:
    """The checkpoints of a job, written and read under the same conditions only."""

    def __init__(self, folder: Path, *, every_seconds: float, conditions: Mapping[str, Any]) -> None:
        """Use a folder, which need not exist.

        Args:
            every_seconds: how often to write; less often if writing takes longer than a twentieth of that.
            conditions: the software and hardware of the run; a checkpoint of others is not read.
        """
        self._folder = folder
        self._conditions = json.loads(json.dumps(dict(conditions)))
        self._every = every_seconds
        self._wrote = time.monotonic()
        self.is_training = False
        self.stop_requested = False
        self.resumed_at = 0
        """The step that the run went on from."""

    @contextmanager
    def training(self) -> Iterator[None]:
        """The time in which a request to stop is seen soon.

        Raises:
            StoppedError: at its end, if the run was asked to stop after the last step.
        """
        self.is_training = True
        try:
            yield
        finally:
            self.is_training = False
        if self.stop_requested:
            raise StoppedError("stopped after training")

    def is_due(self, *, is_last: bool) -> bool:
        """Whether to write now; after the last step sooner, since only the checkpoint spares the next run that part."""
        pause = self._every * (_LAST_SHARE if is_last else 1)
        return self.stop_requested or time.monotonic() - self._wrote >= pause

    def write(self, position: tuple[int, int], checkpoint: Checkpoint) -> None:
        """Write a checkpoint; one that cannot be written is only logged.

        Args:
            position: its trial and step; the highest is the newest.

        Raises:
            StoppedError: if the run was asked to stop.
        """
        began = time.monotonic()
        trial, step = position
        facts = {**checkpoint.facts, "conditions": self._conditions}
        aside = self._folder / f"partial-{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
            save_file(tensors, aside, metadata={_FACTS: json.dumps(facts)})
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            checksum = file_fingerprint(aside)[:_CHECKSUM_LENGTH]
            aside.replace(self._folder / f"{trial:04d}-{step:09d}-{checksum}.safetensors")
            for old in self._newest_first()[_KEPT:]:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            logger.warning("no checkpoint at step %d: %s", step, error)
            with suppress(OSError):
                aside.unlink()
        self._wrote = time.monotonic()
        self._every = max(self._every, (self._wrote - began) / _MOST_SHARE)
        if self.stop_requested:
            raise StoppedError(f"stopped at step {step}")

    def read(self) -> Checkpoint | None:
        """The newest checkpoint that is whole and from the same conditions."""
        for file in self._newest_first():
            try:
                if file_fingerprint(file)[:_CHECKSUM_LENGTH] != file.stem.rpartition("-")[2]:
                    logger.warning("checkpoint %s is damaged", file.name)
                    continue
                with safe_open(file, framework="pt") as opened:
                    facts = json.loads(opened.metadata()[_FACTS])
                if facts["conditions"] != self._conditions:
                    changed = [
                        f"{name}: {facts['conditions'].get(name)}, now {value}"
                        for name, value in self._conditions.items()
                        if facts["conditions"].get(name) != value
                    ]
                    logger.info("checkpoint %s is of other conditions (%s)", file.name, "; ".join(changed))
                    continue
                return Checkpoint(facts, load_file(file))
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
                logger.warning("checkpoint %s cannot be read: %s", file.name, error)
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("*-*-*.safetensors"), reverse=True)
