"""Load everything a training run needs: model, data and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapeff.service.errors import DataError, ModelError, NotHereError
from adapeff.service.paths import expanded
from adapeff.service.plugins import catalog
from adapeff.service.plugins.contracts import Method, Metric, Task
from adapeff.service.plugins.plugin_reference import is_task_file
from adapeff.service.specs.fingerprints import source_fingerprint
from adapeff.service.specs.job import JobSpec
from adapeff.worker.devices.base import Device
from adapeff.worker.families import family_of
from adapeff.worker.families.base import Family
from adapeff.worker.families.encoding import Encoded
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.modeling.models import LoadedModel, TaskModel, build_model, count_parameters, load_model
from adapeff.worker.modeling.tokenizers import load_tokenizer
from adapeff.worker.modeling.weights import WEIGHTS, read_weights
from adapeff.worker.tasks.extension import Extension
from adapeff.worker.training.base import read_base
from adapeff.worker.training.batches import subset
from adapeff.worker.training.evaluate import SplitData


@dataclass(frozen=True)
class Part:
    """A task of a run: the only one, or one of a mixture."""

    name: str
    """The task as measurements name it: '' for the only one."""
    task: Task
    family: Family
    train: SplitData
    validation: SplitData
    tests: dict[str, SplitData]
    is_old: bool = False
    """Whether the model of an extension has learned it before."""

    @property
    def first_language(self) -> str:
        """The source language if it is tested, or the first tested one."""
        source = self.task.source_language
        return source if source in self.tests else next(iter(self.tests))

    @property
    def metric(self) -> Metric:
        """The metric it is selected by."""
        return catalog.get_metric(self.task.metric)


@dataclass
class Prepared:
    """Everything a run needs, loaded and tokenised."""

    task: Task
    parts: tuple[Part, ...]
    method: Method
    loaded: LoadedModel
    model: TaskModel
    rebuild: Callable[[], tuple[LoadedModel, TaskModel]]

    @property
    def is_mixture(self) -> bool:
        """Whether its tasks are those of a mixture, and have names."""
        return bool(self.parts[0].name)

    def start_again(self) -> None:
        """Rebuild the model as it was before training; the old one is dropped first."""
        del self.loaded, self.model
        self.loaded, self.model = self.rebuild()

    def model_of(self, part: Part) -> TaskModel:
        """The model with the head of one task."""
        return self.model.with_head(self.parts.index(part))


def prepare(
    spec: JobSpec,
    device: Device,
    clock: PhaseClock,
    data_root: Path | None,
    sources: Mapping[str, Path],
    tokens: TokenCache,
) -> Prepared:
    """Load the model and the data; adapt the model and tokenise the data.

    Raises:
        NotHereError: if data, model or sources are not on this host, or differ from those submitted.
        AdapeffError: if the job is invalid.
    """
    task = _task(spec)
    names = [str(member.task) for member in spec.members] or [""]
    jobs = [spec.of_member(member) for member in spec.members] or [spec]
    families = [family_of(_task(job), job.training) for job in jobs]
    method = _method(spec, sources)
    old = len(jobs) - len(task.add) if isinstance(task, Extension) else 0
    base = _source(spec.base, spec.base, sources, spec) if spec.base else None
    with clock.phase("load"):
        examples = [_examples(job, family, data_root) for job, family in zip(jobs, families, strict=True)]
        if isinstance(task, Extension):
            new = sum(len(splits.train) for splits in examples[old:])
            for splits, family in zip(examples[:old], families, strict=False):
                splits.train = subset(splits.train, task.replayed(len(splits.train), new), family)
        options = families[0].tokenizer_options
        loaded = load_model(spec.model, options)
        tokenizers = [_tokenizer(spec, family, loaded) for family in families]
        _check_lengths(spec, loaded)

        def build(loaded: LoadedModel) -> TaskModel:
            model = build_model(loaded, method, *families, seed=spec.seed)
            if base is not None and isinstance(task, Extension):
                read_base(spec, base, old).put(model, freeze_heads=task.old_heads == "frozen")
                if task.replay and task.old_heads == "frozen" and not count_parameters(model).trainable_method:
                    raise ModelError(
                        f"method '{spec.method}' trains only heads, so with frozen ones replayed examples "
                        "train nothing; set replay: 0 or old_heads: trained"
                    )
            return model.to(device.torch_device)

        def rebuild() -> tuple[LoadedModel, TaskModel]:
            fresh = load_model(spec.model, options)
            return fresh, build(fresh)

        model = build(loaded)

    def tokenise(family: Family, of_split: Sequence[Any], like: Sequence[Any] = ()) -> SplitData:
        """Tokens of a split; one without examples has the inputs of other examples."""
        encoded = tokens.encode(family, of_split or like[:1], tokenizers[families.index(family)])
        check_ids(encoded, loaded)
        return SplitData(of_split, encoded if of_split else encoded.without_items())

    with clock.phase("tokenise"):
        parts = tuple(
            Part(
                name=name,
                task=_task(job),
                family=family,
                train=tokenise(family, splits.train, like=splits.validation),
                validation=tokenise(family, splits.validation),
                tests={language: tokenise(family, found) for language, found in splits.tests.items()},
                is_old=number < old,
            )
            for number, (name, job, family, splits) in enumerate(zip(names, jobs, families, examples, strict=True))
        )
    return Prepared(task, parts, method, loaded, model, rebuild)


@dataclass
class _Splits:
    """The examples of a task."""

    train: Sequence[Any]
    validation: Sequence[Any]
    tests: dict[str, Sequence[Any]]


def _examples(spec: JobSpec, family: Family, data_root: Path | None) -> _Splits:
    task = _task(spec)
    languages = spec.measuring.test_languages or task.available_languages(data_root)
    _check_data(spec, task, languages, data_root)
    return _Splits(
        subset(task.examples("train", task.source_language, data_root), spec.training.train_size, family),
        task.examples("validation", task.source_language, data_root),
        {language: task.examples("test", language, data_root) for language in languages},
    )


def _tokenizer(spec: JobSpec, family: Family, loaded: LoadedModel) -> Any:
    """The model's tokenizer with the options that a family requires."""
    tokenizer = load_tokenizer(spec.model, family.tokenizer_options)
    tokenizer.model_input_names = list(loaded.tokenizer.model_input_names)
    return tokenizer


def _check_lengths(spec: JobSpec, loaded: LoadedModel) -> None:
    for name, length in (
        ("max_length", spec.training.max_length),
        *(("latency_length", length) for length in spec.measuring.lengths),
    ):
        if length > loaded.max_positions:
            raise ModelError(
                f"{name} is {length}, but model '{spec.model}' takes {loaded.max_positions} tokens; set {name} lower"
            )


def check_ids(encoded: Encoded, loaded: LoadedModel) -> None:
    """Reject token ids without an embedding: on a GPU they would crash the process without a message.

    Raises:
        ModelError: with the token of the largest id.
    """
    ids, table = encoded.inputs["input_ids"], loaded.encoder.get_input_embeddings()  # type: ignore[operator]
    if len(ids) and int(ids.max()) >= table.num_embeddings:
        token = loaded.tokenizer.convert_ids_to_tokens(int(ids.max()))
        raise ModelError(
            f"the tokenizer maps '{token}' to id {int(ids.max())}, but the model has "
            f"{table.num_embeddings} embeddings; resize them, or use the tokenizer that the model was trained with"
        )


def _task(spec: JobSpec) -> Task:
    name = spec.task.name
    if is_task_file(name) and not expanded(name).exists():
        raise NotHereError(f"task file '{name}' is not on this host; give every host the same files")
    return catalog.get_task(name, spec.task.parameters)


def _method(spec: JobSpec, folders: Mapping[str, Path]) -> Method:
    """Build the job's method, with its sources resolved to folders on this host.

    Raises:
        NotHereError: if a source is not on this host or differs from the one submitted.
        ModelError: if a source was trained on another model.
    """
    parameters = dict(spec.method.parameters)
    if "sources" in parameters:
        of_method = spec.sources[: len(parameters["sources"])]
        parameters["sources"] = [
            str(_source(name, fingerprint, folders, spec))
            for name, fingerprint in zip(parameters["sources"], of_method, strict=True)
        ]
    return catalog.get_method(spec.method.name, parameters)


def _source(name: str, fingerprint: str, folders: Mapping[str, Path], spec: JobSpec) -> Path:
    folder = expanded(name) if fingerprint.startswith("folder:") else folders.get(fingerprint)
    if folder is None or not folder.is_dir():
        raise NotHereError(
            f"the weights of source {name[:40]} are not here; give every host the same artifacts folder, "
            "or the runner --source JOB_HASH=FOLDER"
        )
    if fingerprint.startswith("folder:") and source_fingerprint(folder) != fingerprint:
        raise NotHereError(f"source folder '{folder}' contains other files than when the job was submitted")
    if (folder / WEIGHTS).is_file() and (model := read_weights(folder)[0]["model"]) != spec.model.identity:
        raise ModelError(f"the source in '{folder}' was trained on another model ({model[:60]})")
    return folder


def _check_data(spec: JobSpec, task: Task, languages: tuple[str, ...], data_root: Path | None) -> None:
    try:
        identity = task.identity(languages, data_root)
    except DataError as error:
        raise NotHereError(f"{error} (the job was submitted with other data)") from error
    if identity != spec.data:
        raise NotHereError(
            f"the data of '{task.name}' here ({identity.source} {str(identity.fingerprint)[:12]}) differ from those "
            f"the job was submitted with ({spec.data.source} {str(spec.data.fingerprint)[:12]}); "
            "give every host the same data_root"
        )
