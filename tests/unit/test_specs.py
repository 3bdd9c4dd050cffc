"""Sweeps, jobs and their identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adapeff.service.errors import SpecError
from adapeff.service.lanes import all_lanes, device_kinds, device_of, lane_of
from adapeff.service.plugins.catalog import get_suite
from adapeff.service.plugins.plugin_reference import PluginReference, parse_plugin, split_list
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec, canonical_json
from adapeff.service.specs.model_reference import resolve_model
from adapeff.service.specs.profile import plan_profile, read_spec
from adapeff.service.specs.sweep_file import find_sweep, load_sweep, parse_sweep, ready_made_sweeps

HUB_MODEL = "org/model@v1"


def sweep(**changes: Any) -> dict[str, Any]:
    """A small sweep that needs no file."""
    base = {"name": "s", "models": [HUB_MODEL], "tasks": ["offline_sentiment"], "methods": ["full"], "seeds": [0]}
    return {**base, **changes}


def jobs(**changes: Any) -> list[JobSpec]:
    """The jobs of a small sweep."""
    return expand(parse_sweep(sweep(**changes)), data_root=None)


def test_grid_is_the_product_of_its_axes() -> None:
    found = jobs(
        tasks=["offline_sentiment", "offline_nli"],
        methods=["full", "lora[rank=4]"],
        seeds=[0, 1, 2],
        settings={"batch_size": [8, 16]},
    )

    assert len({job.job_hash for job in found}) == len(found) == 2 * 2 * 3 * 2


def test_suite_stands_for_its_tasks() -> None:
    found = jobs(tasks=[], suites=["offline"])

    assert [job.task.name for job in found] == list(get_suite("offline").tasks)
    assert len(found) == 6


def test_exclude_removes_and_include_adds_cells() -> None:
    found = jobs(
        methods=["full", "head", "lora[rank=4]"],
        exclude=[{"method": "lora"}, {"method": "head", "seed": 0}],
        include=[{"model": HUB_MODEL, "task": "offline_nli", "method": "houlsby", "batch_size": 4}],
        seeds=[0, 1],
    )

    assert [(job.method.name, job.task.name, job.seed) for job in found] == [
        ("full", "offline_sentiment", 0),
        ("full", "offline_sentiment", 1),
        ("head", "offline_sentiment", 1),
        ("houlsby", "offline_nli", 0),
        ("houlsby", "offline_nli", 1),
    ]
    assert found[-1].training.batch_size == 4


def test_same_cell_twice_is_one_job() -> None:
    assert len(jobs(methods=["lora", "lora[rank=8]", "lora[alpha=16,rank=8]"])) == 1


def test_parameters_at_their_default_and_other_spellings_are_one_job() -> None:
    tasks = ["offline_nli[difficulty=1]", "offline_nli[difficulty=1.0,noise=0.05]"]

    assert len(jobs(tasks=tasks, methods=["lora[alpha=16]", "lora[alpha=16.0]"])) == 1


def test_identity_does_not_change_between_releases() -> None:
    """These hashes name stored jobs: a change here makes every user's finished job be run again."""
    (plain,) = jobs()
    (special,) = jobs(methods=["lora[rank=4]"], seeds=[3], settings={"epochs": 1, "latency_length": 32})

    assert (plain.train_hash[:16], plain.job_hash[:16]) == ("cfe4426bac734592", "a5a88bf2ef594dba")
    assert (special.train_hash[:16], special.job_hash[:16]) == ("55ed5aaaa0133f14", "a2622afe6f1dcfa9")


def test_measuring_settings_change_the_job_but_not_the_training() -> None:
    (one,), (other,) = jobs(), jobs(settings={"latency_batches": [4]})

    assert one.train_hash == other.train_hash
    assert one.job_hash != other.job_hash


def test_repeat_changes_the_job_but_not_the_training() -> None:
    (one,) = jobs()
    other = one.model_copy(update={"repeat": 1})

    assert one.train_hash == other.train_hash
    assert one.job_hash != other.job_hash


def test_test_languages_do_not_shape_training() -> None:
    (one,), (other,) = jobs(), jobs(settings={"test_languages": ["en"]})

    assert one.train_hash == other.train_hash
    assert one.job_hash != other.job_hash


@pytest.mark.parametrize(
    "change",
    [
        {"models": ["org/model@v2"]},
        {"tasks": ["offline_sentiment[noise=0.1]"]},
        {"methods": ["head"]},
        {"seeds": [1]},
        {"settings": {"learning_rate": 1e-4}},
        {"settings": {"weight_decay": 0}},
        {"settings": {"cpu_threads": 2}},
    ],
    ids=str,
)
def test_whatever_shapes_training_changes_the_train_hash(change: dict[str, Any]) -> None:
    (one,), (other,) = jobs(), jobs(**change)

    assert one.train_hash != other.train_hash


def test_local_model_is_known_by_content_not_by_place(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())

    (one,), (other,) = jobs(models=[str(tiny_model)]), jobs(models=[str(copy)])

    assert one.job_hash == other.job_hash
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    from adapeff.service.specs import model_reference

    model_reference._folder_fingerprint.cache_clear()
    assert resolve_model(str(copy)).fingerprint != one.model.fingerprint


_NUMBERS = st.integers(-1000, 1000) | st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))
_NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True)
_WORDS = st.from_regex(r"[a-z][a-z_.]{1,8}x", fullmatch=True)
_PARAMETERS = st.dictionaries(_NAMES, _NUMBERS | st.booleans() | _WORDS | st.lists(_WORDS, max_size=3), max_size=4)


@given(_NAMES, _PARAMETERS)
def test_plugin_reference_survives_being_written_and_read(name: str, parameters: dict[str, Any]) -> None:
    reference = PluginReference(name=name, parameters=parameters)

    assert parse_plugin(str(reference)) == reference


@given(st.lists(st.sampled_from(["full", "lora[rank=8,alpha=16]", "lora[target_modules=[query,value]]"]), min_size=1))
def test_lists_split_at_the_commas_outside_brackets(names: list[str]) -> None:
    assert split_list(",".join(names)) == tuple(names)


@given(
    st.integers(0, 2**31 - 1),
    st.floats(1e-6, 1.0),
    st.integers(1, 512),
    st.lists(st.sampled_from(["en", "de", "es", "fr"]), min_size=1, unique=True),
)
def test_job_survives_json(seed: int, rate: float, batch: int, languages: list[str]) -> None:
    settings = {"learning_rate": rate, "batch_size": batch, "test_languages": languages}
    (job,) = jobs(seeds=[seed], settings=settings)

    again = JobSpec.model_validate_json(job.model_dump_json())

    assert again == job
    assert (again.train_hash, again.job_hash) == (job.train_hash, job.job_hash)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none()))
def test_canonical_json_does_not_depend_on_order(value: dict[str, Any]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


def test_default_learning_rate_is_the_methods_and_names_its_source() -> None:
    (job,) = jobs(methods=["lora"])

    assert job.training.learning_rate == 5e-4
    assert "Hu et al. 2021" in job.learning_rate_source


def test_overrides_replace_keys_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(sweep(suites=["offline"])))

    spec = load_sweep(
        file, ["methods=head,lora[rank=2]", "seeds=4,5", "epochs=1", "tasks=offline_nli", "batch_size=[1,2]"]
    )

    assert spec.methods == ("head", "lora[rank=2]")
    assert spec.seeds == (4, 5)
    assert spec.settings == {"epochs": 1, "batch_size": [1, 2]}
    assert (spec.tasks, spec.suites) == (("offline_nli",), ())


def test_numbers_such_as_1e_4_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("models: [a/b]\ntasks: [offline_nli]\nmethods: [full]\nsettings: {learning_rate: [1e-4, 3e-4]}\n")

    found = expand(load_sweep(file), data_root=None)

    assert [job.training.learning_rate for job in found] == [1e-4, 3e-4]


def test_unknown_device_is_refused_and_a_stored_one_stays_readable() -> None:
    with pytest.raises(SpecError, match=r"'device' is 'cudaa': unknown device; did you mean 'cuda'\?  known: any, cpu"):
        jobs(settings={"device": "cudaa"})
    with pytest.raises(SpecError, match="unknown device"):
        plan_profile(HUB_MODEL, ["lora"], settings={"device": "cudaa"})

    (job,) = jobs()
    stored = job.model_dump(mode="json")
    stored["training"]["device"] = "npu"

    assert read_spec(stored).device == "npu"


def test_lanes_tell_the_kinds_of_device_apart() -> None:
    assert [device_of(lane) for lane in all_lanes()] == ["any", *device_kinds()]
    assert lane_of("cpu") == "adapeff-cpu"  # jobs in databases and messages in brokers name it


@pytest.mark.parametrize("name", ready_made_sweeps())
def test_ready_made_sweep_expands(name: str) -> None:
    assert expand(load_sweep(find_sweep(name)), data_root=None)


def test_empty_grid_is_refused() -> None:
    with pytest.raises(SpecError, match="no jobs left"):
        jobs(exclude=[{"seed": 0}])


def make_task(folder: Path, rows: int = 20) -> Path:
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text("family: sequence_classification\ncolumns: {text: text, label: label}\n")
    lines = "".join(f'{{"text": "film {at}", "label": "{"good" if at % 2 else "bad"}"}}\n' for at in range(rows))
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(lines)
    return folder


def test_pattern_of_folders_stands_for_every_task_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows, name in enumerate(("anna", "bert & co", "çelik (2)"), start=20):
        make_task(tmp_path / "customers" / name, rows)
    (tmp_path / "customers" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)

    found = jobs(tasks=["./customers/*"])

    assert [Path(job.task.name).name for job in found] == ["anna", "bert & co", "çelik (2)"]
    with pytest.raises(SpecError, match=r"no folder with a task.yaml matches './nothing/\*'"):
        jobs(tasks=["./nothing/*"])


def test_languages_are_those_that_each_task_is_asked_for() -> None:
    found = jobs(tasks=["sst2", "xnli"], settings={"test_languages": {"xnli": ["en", "de"]}})

    assert {job.task.name: job.measuring.test_languages for job in found} == {"sst2": ("en",), "xnli": ("en", "de")}
    with pytest.raises(SpecError, match="test_languages names the task 'xnil'; did you mean 'xnli'"):
        jobs(tasks=["xnli"], settings={"test_languages": {"xnil": ["en"]}})
    with pytest.raises(SpecError, match="task 'xnli' has no test language 'xx'"):
        jobs(tasks=["xnli"], settings={"test_languages": {"xnli": ["xx"]}})


def test_at_most_takes_all_of_a_task_that_has_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_task(tmp_path / "small", 20)
    make_task(tmp_path / "large", 200)
    monkeypatch.chdir(tmp_path)

    found = jobs(tasks=["./small", "./large"], settings={"train_size": {"at_most": 100}})

    assert len({job.job_hash for job in found}) == 2
    with pytest.raises(SpecError, match=r"at_most: 100"):
        jobs(tasks=["./small"], settings={"train_size": 100})


@pytest.mark.parametrize("name", ["model", "my model", "modèle (2)", "a@1"])
def test_models_and_tasks_of_a_sweep_file_lie_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tiny_model: Path
) -> None:
    home = tmp_path / "lab"
    make_task(home / "task")
    (home / name).symlink_to(tiny_model)
    (home / "s.yaml").write_text(
        yaml.safe_dump(sweep(models=[f"./{name}"], tasks=["./task"]), allow_unicode=True), encoding="utf-8"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    (job,) = expand(load_sweep(home / "s.yaml"), data_root=None)

    assert Path(job.model.name).is_absolute() and Path(job.model.name).resolve() == tiny_model.resolve()
    assert Path(job.task.name) == home / "task"
