"""One base model in memory with the adapters and heads of several tasks: switch, switch off, remove, merge.

host = Host(load_model(resolve_model("org/model")).encoder)
host.add("sentiment", "runs/.../sentiment")     # folders of runs with keep_weights: true
host.add("nli", "runs/.../nli")
logits = host.use("nli")(inputs)
host.remove("sentiment")
served = host.merge("nli", inputs)              # LoRA family: a plain model, checked against the adapter's outputs
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn

from adapeff.service.errors import ModelError
from adapeff.service.paths import expanded
from adapeff.worker.families.heads import head_from_state
from adapeff.worker.methods.stored import Biases, load_adapter, plain_path
from adapeff.worker.modeling.models import TaskModel
from adapeff.worker.modeling.weights import read_weights


class Host:
    """A frozen encoder with the adapter and head of each task, by name; one adapter is active at a time."""

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder: Any = encoder
        self._heads: dict[str, dict[str, nn.Module]] = {}
        """The heads of each adapter by task; the only head of an adapter has the name ''."""
        self._biases: dict[str, Biases] = {}
        """The model's own biases, by the task whose adapter was trained with them."""
        self._own: Biases = {}
        """Those that are not the model's now, as it had them."""

    @property
    def names(self) -> list[str]:
        """The tasks, in the order they were added."""
        return list(self._heads)

    def add(self, name: str, folder: str | Path) -> None:
        """Add the task that a run trained, or the mixture of tasks.

        Raises:
            ModelError: if the name is taken or not an identifier, the folder has no adapter with a head, or they do not
                fit the model.
        """
        if not name.isidentifier():
            raise ModelError(f"'{name}' cannot name an adapter; use letters, digits and _, such as task_1")
        if name in self._heads:
            raise ModelError(f"there is already an adapter '{name}'; remove it first, or choose another name")
        heads = _heads(folder)
        self._take_back_biases()
        biases: Biases = {}
        self._encoder = load_adapter(self._encoder, folder, name, biases=biases).eval()
        self._heads[name], self._biases[name] = heads, biases

    def use(self, name: str, task: str = "") -> TaskModel:
        """The model of a task; its adapter is the active one until another is used.

        Args:
            task: one of a mixture's tasks, such as `sst2`; '' for an adapter of a single task.

        Raises:
            ModelError: if there is no such adapter or task.
        """
        head = self._head_of(name, task)
        self._encoder.set_adapter(name, inference_mode=True)
        self._give_biases(name)
        return TaskModel(self._encoder, head).eval()

    @contextmanager
    def switched_off(self) -> Iterator[nn.Module]:
        """The bare encoder, as if there were no adapters."""
        given = {path: tensor.clone() for path, tensor in self._present(self._own).items()}
        self._take_back_biases()
        try:
            with self._encoder.disable_adapter():
                yield self._encoder
        finally:
            self._put(given)

    def remove(self, name: str) -> None:
        """Remove a task; removing the last one restores the original encoder.

        Raises:
            ModelError: if the task is unknown.
        """
        self._require(name)
        self._take_back_biases()
        del self._heads[name], self._biases[name]
        if self._heads:
            self._encoder.set_adapter(next(iter(self._heads)), inference_mode=True)
            self._encoder.delete_adapter(name)
        else:
            _give_back_originals(self._encoder)
            self._encoder = self._encoder.unload()

    def _give_biases(self, name: str) -> None:
        """Have the model's own biases be those of a task."""
        self._take_back_biases()
        self._put(self._biases[name])

    def _take_back_biases(self) -> None:
        own, self._own = self._own, {}
        self._put(own)
        self._own = {}

    def _put(self, biases: Biases) -> None:
        there = self._present(biases)
        self._own = {path: parameter.detach().clone() for path, parameter in there.items()}
        with torch.no_grad():
            for path, parameter in there.items():
                parameter.copy_(biases[path])

    def _present(self, biases: Biases) -> Biases:
        if not biases:
            return {}
        return {path: p for key, p in self._encoder.named_parameters() if (path := plain_path(key)) in biases}

    def merge(
        self, name: str, inputs: Mapping[str, torch.Tensor], *, task: str = "", tolerance: float = 1e-3
    ) -> TaskModel:
        """A separate model with a task's adapter merged into its weights, so that the adapter costs nothing.

        Args:
            inputs: a batch on which both must give the same logits.
            task: as for `use`.
            tolerance: largest allowed difference, relative to the largest logit.

        Raises:
            ModelError: if the adapter cannot be merged, or the merged model's outputs differ.
        """
        adapted = self.use(name, task)
        copied: Any = copy.deepcopy(self._encoder)
        try:
            merged = TaskModel(copied.merge_and_unload(), copy.deepcopy(adapted.head)).eval()
        except (NotImplementedError, AttributeError, ValueError) as error:
            raise ModelError(f"the adapter '{name}' cannot be merged: {error}") from error
        with torch.inference_mode():
            ours, theirs = merged(dict(inputs)), adapted(dict(inputs))
        difference = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)).item()
        if not difference <= tolerance:
            raise ModelError(
                f"merging '{name}' changed the outputs by {difference:.2g}, more than {tolerance:g}; serve it unmerged"
            )
        return merged

    def _head_of(self, name: str, task: str) -> nn.Module:
        self._require(name)
        heads = self._heads[name]
        if task not in heads:
            known = ", ".join(f"'{each}'" for each in heads if each)
            raise ModelError(
                f"the adapter '{name}' has heads for {known}, not for '{task}'; choose one of them"
                if known
                else f"the adapter '{name}' has one head only, not one for '{task}'; leave out the task"
            )
        return heads[task]

    def _require(self, name: str) -> None:
        if name not in self._heads:
            raise ModelError(f"there is no adapter '{name}'; there are: {', '.join(self._heads) or 'none'}")


def _give_back_originals(adapted: nn.Module) -> None:
    """Put the model's own modules in the place of those that an adapter had trained whole (`modules_to_save`)."""
    for path, module in list(adapted.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, name = path.rpartition(".")
            setattr(adapted.get_submodule(parent), name, module.original_module)


def _heads(folder: str | Path) -> dict[str, nn.Module]:
    """The heads of a run by task; the only one has the name ''."""
    description, tensors = read_weights(expanded(folder))
    names = description.get("heads")
    prefixes = {name: f"head.{number}." for number, name in enumerate(names)} if names else {"": "head."}
    heads = {}
    for name, prefix in prefixes.items():
        state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        head = head_from_state(state)
        if head is None:
            raise ModelError(f"'{folder}' contains no head{f' for {name}' if name else ''}")
        heads[name] = head
    return heads
