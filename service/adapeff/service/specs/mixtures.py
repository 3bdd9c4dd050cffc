"""Several tasks with one model, as sweeps write them: named mixtures, and extensions of a trained model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from adapeff.service.errors import SpecError, suggest
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Frozen
from adapeff.service.plugins.plugin_reference import PluginReference, is_task_file, parse_plugin, split_list

JOB_REFERENCE = re.compile(r"[0-9]{1,9}|[0-9a-f]{12,64}")
"""A job's id, or 12 or more characters of its hash."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Replay = Annotated[float, Field(ge=0, le=1, strict=True)] | Literal["sized"]
"""A share of an old task's training examples, or `sized`: as many as the new tasks have."""


class NamedMixture(Frozen):
    """A mixture under a name of its own; everything else is as in `mixture[...]`."""

    name: str
    tasks: tuple[str, ...] = Field(min_length=1)
    parameters: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        """Gather the mixture's parameters; a task may be written as {task: xnli, train_size: 1000}."""
        if not isinstance(value, Mapping) or "parameters" in value:
            return value
        rest = {key: each for key, each in value.items() if key not in ("name", "tasks")}
        known = catalog.get_task("mixture").parameters
        for key in rest:
            if key not in known:
                raise ValueError(f"unknown key '{key}' of a mixture; {suggest(str(key), {'name', *known})}")
        written = value.get("tasks", ())
        for key, given in rest.items():
            if isinstance(given, Mapping):
                rest[key] = {_written(str(task)): each for task, each in given.items()}
        tasks, sizes = [], dict(rest.get("train_sizes") or {})
        for task in split_list(written) if isinstance(written, str) else written:
            if isinstance(task, Mapping):
                if task.keys() - {"task", "train_size"} or "task" not in task:
                    raise ValueError(f"{dict(task)} is not of the form {{task: xnli, train_size: 1000}}")
                if "train_size" in task:
                    sizes[_written(task["task"])] = task["train_size"]
                tasks.append(_written(task["task"]))
            else:
                tasks.append(_written(task))
        parameters = {**rest, **({"train_sizes": sizes} if sizes else {})}
        return {"name": value.get("name", ""), "tasks": tasks, "parameters": parameters}

    @field_validator("name")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a name for a mixture; use letters, digits, '_', '.' and '-'")
        if JOB_REFERENCE.fullmatch(name):
            raise ValueError(f"'{name}' looks like a job; choose another name for the mixture")
        if name in catalog.tasks():
            raise ValueError(f"'{name}' is the name of a task; choose another name for the mixture")
        return name

    def __str__(self) -> str:
        return str(PluginReference(name="mixture", parameters={"tasks": list(self.tasks), **self.parameters}))

    def without(self, left_out: str) -> str:
        """The mixture without one of its tasks, as a task of a sweep; the only task left stands alone."""
        kept = [task for task in self.tasks if task != left_out]
        if len(kept) == 1 and "train_sizes" not in self.parameters:
            return kept[0]
        parameters = {
            key: {task: each for task, each in value.items() if task != left_out}
            if isinstance(value, Mapping)
            else value
            for key, value in self.parameters.items()
        }
        return str(PluginReference(name="mixture", parameters={"tasks": kept, **_filled(parameters)}))


def _written(task: Any) -> Any:
    """A task as references write it: its parameters in order. What is no reference is left to be refused."""
    try:
        return str(parse_plugin(task)) if isinstance(task, str) else task
    except SpecError as error:
        raise ValueError(str(error)) from error


def _filled(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if value != {}}


class Growth(Frozen):
    """An entry of `extend`: a trained model learns further tasks, in each of the stated ways."""

    base: str = ""
    """A task or mixture of the sweep, which stands for its job with the same model, method and seed; or a job."""
    add: tuple[str, ...] = ()
    """The new tasks, all added at once."""
    leave_one_out: str = ""
    """A mixture of the sweep, instead of `base` and `add`: each of its tasks is added to a mixture of the others."""
    replay: tuple[Replay, ...] = Field(default=(0.0,), min_length=1)
    """Shares of the old tasks' training examples to train on as well; one job each."""
    old_heads: Literal["trained", "frozen"] = "trained"
    methods: tuple[str, ...] = ()
    """Those of the sweep's methods to extend; all if empty."""
    fusion: str = ""
    """A method of the sweep that trains bottleneck adapters: also mix its adapters on all tasks by AdapterFusion."""

    @field_validator("add", "methods", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return split_list(value) if isinstance(value, str) else value

    @field_validator("base", mode="before")
    @classmethod
    def _ids_are_numbers(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("replay", mode="before")
    @classmethod
    def _one_share_is_a_list(cls, value: Any) -> Any:
        shares = value if isinstance(value, list | tuple) else (value,)
        if len(set(map(str, shares))) != len(shares):
            raise ValueError("a share appears twice; list each once")
        return shares

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.leave_one_out and (self.base or self.add):
            raise ValueError("leave_one_out names the base and the new tasks itself; remove base and add")
        if not self.leave_one_out and not (self.base and self.add):
            raise ValueError("give base and add, such as {base: six, add: [wnut]}, or leave_one_out")
        return self


class Step(Frozen):
    """One extension: a base and what is added to it."""

    base: str
    """A task or mixture by name, or a job."""
    base_text: str
    """The same in full."""
    add: tuple[str, ...]
    replay: Replay
    old_heads: Literal["trained", "frozen"]
    train_sizes: dict[str, Any] = {}
    """New task -> its number of training examples, if it has one of its own."""

    @property
    def title(self) -> str:
        """What tables call it: `six + wnut, replay 0.05`."""
        replay = f", replay {self.replay}" if self.replay else ""
        heads = ", frozen heads" if self.old_heads == "frozen" else ""
        return f"{' + '.join([self.base, *map(short_name, self.add)])}{replay}{heads}"

    @property
    def reference(self) -> PluginReference:
        """The task that it is."""
        parameters = {"base": self.base, "add": list(self.add), "replay": self.replay, "old_heads": self.old_heads}
        return PluginReference(name="extension", parameters=_filled({**parameters, "train_sizes": self.train_sizes}))


def short_name(task: str) -> str:
    """A task by name and parameters; a file by its folder's name."""
    reference = parse_plugin(task)
    return reference.name.rstrip("/").rsplit("/", 1)[-1] if is_task_file(reference.name) else str(reference)


def steps_of(growth: Growth, mixtures: Sequence[NamedMixture]) -> Iterator[Step]:
    """The extensions that an entry stands for.

    Raises:
        SpecError: if `leave_one_out` names no mixture of the sweep, or one of a single task.
    """
    named = {mixture.name: mixture for mixture in mixtures}
    of_mixture = named[growth.leave_one_out].parameters if growth.leave_one_out in named else {}
    for base, text, add in _additions(growth, named):
        sizes = {task: size for task, size in of_mixture.get("train_sizes", {}).items() if task in add}
        common = {"base": base, "base_text": text, "add": add, "old_heads": growth.old_heads, "train_sizes": sizes}
        for replay in growth.replay:
            yield Step(replay=replay, **common)


def _additions(growth: Growth, mixtures: Mapping[str, NamedMixture]) -> list[tuple[str, str, tuple[str, ...]]]:
    if not growth.leave_one_out:
        return [(growth.base, str(mixtures.get(growth.base) or growth.base), growth.add)]
    found = mixtures.get(growth.leave_one_out)
    if found is None:
        raise SpecError(
            f"leave_one_out names '{growth.leave_one_out}', which is not among the sweep's mixtures; "
            f"{suggest(growth.leave_one_out, mixtures)}"
        )
    if len(found.tasks) < 2:
        raise SpecError(f"leave_one_out needs a mixture of two or more tasks; '{found.name}' has one")
    return [(f"{found.name} without {short_name(task)}", found.without(task), (task,)) for task in found.tasks]


def matching_methods(growth: Growth, methods: Sequence[str]) -> list[str]:
    """The methods of a sweep that an entry extends.

    Raises:
        SpecError: if it names another one.
    """
    for method in (*growth.methods, *filter(None, [growth.fusion])):
        if method not in methods:
            raise SpecError(f"extend names the method '{method}', which the sweep lacks; {suggest(method, methods)}")
    return list(growth.methods or methods)
