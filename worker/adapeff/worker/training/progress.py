"""How far a training has come, as a checkpoint holds it: a run that restores it goes on bit for bit on a CPU."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR

from adapeff.worker.devices.base import Device
from adapeff.worker.modeling.models import TaskModel, trained_state
from adapeff.worker.training.checkpoints import Checkpoint
from adapeff.worker.training.train_result import TrainResult


class BestState:
    """Keeps the trainable tensors of the best step, in memory or in a file."""

    def __init__(self, model: TaskModel, file: Path | None) -> None:
        self._model = model
        self._file = file
        self._kept: dict[str, torch.Tensor] = {}

    def keep(self) -> None:
        """Save the current state."""
        state = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in trained_state(self._model).items()}
        if self._file is None:
            self._kept = state
        else:
            save_file(state, self._file)

    def kept(self) -> dict[str, torch.Tensor]:
        """The last saved state; empty if there is none."""
        if self._file is None:
            return self._kept
        return load_file(self._file) if self._file.exists() else {}

    def put_back(self, state: Mapping[str, torch.Tensor]) -> None:
        """Keep a state that `kept` returned earlier."""
        if self._file is None:
            self._kept = dict(state)
        elif state:
            save_file(dict(state), self._file)

    def restore(self) -> None:
        """Load the last saved state into the model."""
        put_state(self._model, self.kept())


def put_state(model: TaskModel, state: Mapping[str, torch.Tensor]) -> None:
    """Copy saved values into a model's parameters; parameters without a saved value keep theirs."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(state[name])


@dataclass
class Progress:
    """Everything that changes while `train` runs."""

    model: TaskModel
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    best: BestState
    device: Device
    result: TrainResult
    data_wait: float = 0.0

    @property
    def step(self) -> int:
        """Steps taken."""
        return len(self.result.losses)

    def capture(self) -> Checkpoint:
        """A copy of the state after the last step, whose loss is in the result."""
        optimizer = self.optimizer.state_dict()
        version, numbers, gauss = random.getstate()
        facts = {
            "result": self.result.facts(),
            "data_wait": self.data_wait,
            "optimizer_groups": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
            "python_random": [version, list(numbers), gauss],
            "numpy_random": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        }
        tensors = {
            **{f"model.{name}": tensor for name, tensor in trained_state(self.model).items()},
            **{f"best.{name}": tensor for name, tensor in self.best.kept().items()},
            **{
                f"optimizer.{number}.{name}": tensor
                for number, state in optimizer["state"].items()
                for name, tensor in state.items()
            },
            **{f"random.{name}": state for name, state in _random_states(self.device).items()},
        }
        return Checkpoint(facts, tensors)

    def restore(self, saved: Checkpoint) -> None:
        """Go back to a captured state; random numbers continue from it too."""
        facts = saved.facts
        self.result = TrainResult.from_facts(facts["result"])
        self.data_wait = facts["data_wait"]
        put_state(self.model, saved.below("model."))
        self.best.put_back(saved.below("best."))
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in saved.below("optimizer.").items():
            number, _, part = name.partition(".")
            states.setdefault(int(number), {})[part] = tensor
        self.optimizer.load_state_dict({"state": states, "param_groups": facts["optimizer_groups"]})
        self.scheduler.load_state_dict(facts["scheduler"])
        version, numbers, gauss = facts["python_random"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(tuple(facts["numpy_random"]))
        states_of_torch = saved.below("random.")
        torch.set_rng_state(states_of_torch["cpu"])
        if "device" in states_of_torch:
            torch.get_device_module(self.device.torch_device).set_rng_state(states_of_torch["device"])


def _random_states(device: Device) -> dict[str, torch.Tensor]:
    module = torch.get_device_module(device.torch_device)
    of_device = {"device": module.get_rng_state()} if hasattr(module, "get_rng_state") else {}
    return {"cpu": torch.get_rng_state(), **of_device}
