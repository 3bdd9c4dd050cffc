"""The job of an extension: a trained model that learns further tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapeff.service.errors import SpecError
from adapeff.service.plugins.plugin_reference import PluginReference, parse_plugin
from adapeff.service.specs.fingerprints import joint_identity
from adapeff.service.specs.job import AtMost, JobSpec, Member


def mixed(task: PluginReference, jobs: Sequence[JobSpec], *, train_size: int | AtMost | None) -> JobSpec:
    """The job of a mixture, from those of its tasks alone: all settings but the data, lengths and sizes are equal.

    The mixture names its tasks as their jobs do.

    Args:
        train_size: of the tasks that have none of their own.

    Raises:
        SpecError: if two of the tasks are the same.
    """
    names = [str(job.task) for job in jobs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise SpecError(f"the task '{repeated[0]}' appears twice in a mixture; list each once")
    training = jobs[0].training.model_copy(update={"train_size": train_size})
    job = jobs[0].model_copy(update={"task": _naming(task, names), "training": training})
    return _with_members(job, tuple(member_of(each, job) for each in jobs))


def _naming(task: PluginReference, names: Sequence[str]) -> PluginReference:
    """The mixture or extension with other names for its tasks, or its new ones."""
    key = "tasks" if "tasks" in task.parameters else "add"
    renamed = dict(zip((str(parse_plugin(each)) for each in task.parameters[key]), names, strict=True))
    parameters = {
        name: {renamed[each]: given for each, given in value.items()} if isinstance(value, Mapping) else value
        for name, value in task.parameters.items()
    }
    return task.model_copy(update={"parameters": {**parameters, key: list(names)}})


def member_of(job: JobSpec, of: JobSpec) -> Member:
    """The task of a job as a member of another job."""
    own, common = job.training.train_size, of.training.train_size
    return Member(
        task=job.task,
        data=job.data,
        max_length=job.training.max_length,
        test_languages=job.measuring.test_languages or (),
        train_size=None if own == common else own or "all",
    )


def on_base(spec: JobSpec, base: JobSpec) -> JobSpec:
    """Complete the job of an extension, whose members are the new tasks, by those of its base, which come first.

    Raises:
        ValueError: if the base was trained on another model or by another method, or has one of the new tasks.
    """
    if base.model.identity != spec.model.identity:
        raise ValueError(f"it trained another model, {base.model}; name a job of {spec.model}")
    if (base.method.name, base.method.parameters) != (spec.method.name, spec.method.parameters):
        raise ValueError(f"the extension's method is {spec.method}; name a job of {spec.method}, or use {base.method}")
    jobs = [base.of_member(member) for member in base.members] or [base]
    old = tuple(member_of(job, spec) for job in jobs)
    names = [str(member.task) for member in old]
    if known := [str(new.task) for new in spec.members if str(new.task) in names]:
        raise ValueError(f"it has learned '{known[0]}' already; add another task")
    members = (*old, *spec.members)
    parameters = {**spec.task.parameters, "tasks": [str(member.task) for member in members]}
    named = spec.model_copy(update={"task": spec.task.model_copy(update={"parameters": parameters})})
    return _with_members(named, members)


def _with_members(spec: JobSpec, members: tuple[Member, ...]) -> JobSpec:
    longest = max(member.max_length for member in members)
    languages = tuple(dict.fromkeys(language for member in members for language in member.test_languages))
    return spec.model_copy(
        update={
            "data": joint_identity([member.data for member in members]),
            "training": spec.training.model_copy(update={"max_length": longest}),
            "measuring": spec.measuring.model_copy(update={"test_languages": languages}),
            "members": members,
        }
    )
