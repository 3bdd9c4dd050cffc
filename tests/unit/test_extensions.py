"""Extensions: how sweeps and databases specify them, and the laws of training, replay and forgetting."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from adapeff.service.errors import AdapeffError, JobError, ModelError
from adapeff.service.plugins import catalog
from adapeff.service.plugins.plugin_reference import parse_plugin
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.extensions import on_base
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import plan_profile
from adapeff.service.specs.sweep_file import SweepSpec, load_sweep, parse_sweep
from adapeff.service.store import sweeps
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Job, JobSource
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.families.token_cache import TokenCache
from adapeff.worker.measure.clocks import PhaseClock
from adapeff.worker.tasks.extension import Extension
from adapeff.worker.training.evaluate import Predictions
from adapeff.worker.training.forgetting import score_change
from adapeff.worker.training.load import Part, Prepared, prepare
from adapeff.worker.training.tuning import batch_stream
from tests.several_tasks import Trained, job, jobs, mixture, train_here

TWO = {"name": "two", "tasks": ["offline_sentiment", "offline_ner"]}
THREE = {"name": "three", "tasks": ["offline_sentiment", "offline_ner", "offline_qa"]}
ADD_NLI = {"base": "two", "add": ["offline_nli"]}


def names(spec: JobSpec) -> list[str]:
    return [str(member.task) for member in spec.members]


def test_entry_of_mixtures_is_the_mixture_written_inline() -> None:
    entry = {
        "name": "ours",
        "tasks": [{"task": "offline_sentiment[train_examples=50,difficulty=0.3]", "train_size": 16}, "offline_ner"],
        "weights": {"offline_sentiment[train_examples=50,difficulty=0.3]": 2, "offline_ner": 1},
    }
    inline = mixture(
        "offline_sentiment[difficulty=0.3,train_examples=50]",
        "offline_ner",
        train_sizes="{offline_sentiment[difficulty=0.3,train_examples=50]: 16}",
        weights="{offline_ner: 1,offline_sentiment[difficulty=0.3,train_examples=50]: 2}",
    )

    (named,) = jobs(mixtures=[entry], settings={"train_size": 40})
    written = job(inline, train_size=40)

    assert (named.train_hash, named.job_hash) == (written.train_hash, written.job_hash)
    assert [named.of_member(member).training.train_size for member in named.members] == [16, 40]
    assert named.columns["task"] == "ours"


def test_mixture_is_excluded_included_and_chosen_by_name(tmp_path: Path) -> None:
    sweep = {"name": "s", "models": ["org/model"], "tasks": ["offline_qa"], "methods": ["full", "lora"]}
    include = [{"model": "org/model", "task": "two", "method": "bitfit"}]
    (tmp_path / "s.yaml").write_text(json.dumps({**sweep, "mixtures": [TWO, THREE], "extend": [ADD_NLI]}))

    cells = [
        (spec.columns["task"], spec.method.name)
        for spec in jobs(**sweep, mixtures=[TWO], exclude=[{"task": "two", "method": "lora"}], include=include)
    ]
    chosen = expand(load_sweep(tmp_path / "s.yaml", ["tasks=two,offline_nli"]), data_root=None)

    assert cells == [("offline_qa", "full"), ("offline_qa", "lora"), ("two", "full"), ("two", "bitfit")]
    assert {spec.columns["task"] for spec in chosen} == {"two", "offline_nli"}


def test_each_share_of_replay_is_a_job_on_a_base_that_keeps_its_weights() -> None:
    found = jobs(mixtures=[TWO], extend=[{**ADD_NLI, "replay": [0, 0.1, "sized"]}], seeds=[0, 1])

    bases, extensions = found[:2], found[2:]
    assert [(spec.seed, spec.measuring.keep_weights, spec.sources) for spec in bases] == [(0, True, ()), (1, True, ())]
    assert [(spec.columns["task"], spec.seed, spec.sources, spec.base) for spec in extensions] == [
        (title, base.seed, (base.job_hash,), base.job_hash)
        for title in ("two + offline_nli", "two + offline_nli, replay 0.1", "two + offline_nli, replay sized")
        for base in bases
    ]
    assert all(names(spec) == ["offline_sentiment", "offline_ner", "offline_nli"] for spec in extensions)
    assert not any(spec.measuring.keep_weights for spec in extensions)


@pytest.mark.parametrize(
    "tasks",
    [
        ["offline_sentiment", "offline_ner", "offline_qa"],
        ["offline_sentiment", "offline_ner"],
        ["offline_sentiment[data_seed=1]", "offline_sentiment[data_seed=2]", "offline_ner"],
    ],
    ids=["three", "two", "variants of a task"],
)
def test_leave_one_out_adds_each_task_to_a_model_of_the_others(tasks: list[str]) -> None:
    found = {
        spec.job_hash: spec for spec in jobs(mixtures=[{"name": "m", "tasks": tasks}], extend=[{"leave_one_out": "m"}])
    }

    extensions = [spec for spec in found.values() if spec.base]
    assert [(names(spec)[-1], set(names(spec))) for spec in extensions] == [(task, set(tasks)) for task in tasks]
    for spec in extensions:
        base = found[spec.base]
        assert (names(base) or [str(base.task)]) == names(spec)[:-1]
        assert base.measuring.keep_weights


def test_extension_is_a_base_and_is_excluded_by_name() -> None:
    further = {"base": "two + offline_nli, replay 0.5", "add": ["offline_qa"]}
    of_file = {"base": "offline_sentiment[difficulty=0.3]", "add": ["offline_choice"]}

    found = jobs(
        tasks=["offline_qa"],
        mixtures=[TWO],
        extend=[{**ADD_NLI, "replay": [0, 0.5]}, further, of_file],
        exclude=[{"task": "two + offline_nli"}, {"task": "offline_qa"}],
    )

    (last,) = [spec for spec in found if names(spec)[-1:] == ["offline_qa"]]
    (middle,) = [spec for spec in found if spec.job_hash == last.base]
    assert names(last) == ["offline_sentiment", "offline_ner", "offline_nli", "offline_qa"]
    assert (middle.columns["task"], middle.measuring.keep_weights) == ("two + offline_nli, replay 0.5", True)
    assert "two + offline_nli" not in {spec.columns["task"] for spec in found}
    assert "offline_sentiment[difficulty=0.3] + offline_choice" in {spec.columns["task"] for spec in found}


def test_fusion_mixes_the_adapters_of_the_old_tasks_and_the_new_one() -> None:
    growth = {**ADD_NLI, "replay": [0, 0.1], "methods": "full", "fusion": "houlsby"}
    found = {spec.job_hash: spec for spec in jobs(mixtures=[TWO], methods=["full", "houlsby"], extend=[growth])}

    assert {spec.method.name for spec in found.values() if spec.base} == {"full"}
    (fusion,) = [spec for spec in found.values() if spec.method.name == "adapterfusion"]
    sources = [found[source] for source in fusion.sources]
    assert str(fusion.task) == "offline_nli"
    assert [str(source.task) for source in sources] == ["offline_sentiment", "offline_ner", "offline_nli"]
    assert all(source.method.name == "houlsby" and source.measuring.keep_weights for source in sources)
    order = list(found)
    assert max(map(order.index, fusion.sources)) < order.index(fusion.job_hash)


def test_tasks_keep_their_own_train_size_when_they_are_left_out_added_and_fused() -> None:
    entry = {"name": "sized", "tasks": [{"task": "offline_sentiment", "train_size": 16}, "offline_ner", "offline_qa"]}
    growth = {"leave_one_out": "sized", "methods": ["full"], "fusion": "houlsby"}
    found = jobs(mixtures=[entry], methods=["full", "houlsby"], extend=[growth], settings={"train_size": 40})

    for spec in found:
        for member in spec.members:
            expected = 16 if str(member.task) == "offline_sentiment" else 40
            assert spec.of_member(member).training.train_size == expected
        if not spec.members:  # the adapters to fuse, and the fusions
            assert spec.training.train_size == (16 if str(spec.task) == "offline_sentiment" else 40)
    assert sum(spec.method.name == "adapterfusion" for spec in found) == 3


def test_languages_may_be_asked_of_tasks_that_are_only_added_or_extended() -> None:
    extended = [{"base": "offline_sentiment", "add": ["offline_nli"]}]

    for asked in ("de", {"offline_nli": ["de"], "offline_sentiment": ["de"]}):
        spec = jobs(extend=extended, settings={"test_languages": asked})[-1]
        assert [member.test_languages for member in spec.members] == [("de",), ("de",)]


def test_names_change_no_identity_and_replay_base_heads_and_tasks_do() -> None:
    def last(mixture_of: dict[str, Any], **growth: Any) -> JobSpec:
        extended = {"base": mixture_of["name"], "add": ["offline_nli"], **growth}
        return jobs(mixtures=[mixture_of], extend=[extended])[-1]

    first = last(TWO)
    assert last({**TWO, "name": "ours"}).job_hash == first.job_hash
    others = [
        last(TWO, replay=0.1),
        last(TWO, replay=0.2),
        last(TWO, replay="sized"),
        last(TWO, old_heads="frozen"),
        last(TWO, add=["offline_nli[data_seed=1]"]),
        last(TWO, add=["offline_choice"]),
        last(THREE),
        last({**TWO, "sampling": "equal"}),
        jobs(mixtures=[THREE], extend=[{"base": "offline_sentiment", "add": ["offline_ner", "offline_nli"]}])[-1],
        job(mixture("offline_sentiment", "offline_ner", "offline_nli")),
    ]
    assert len({spec.train_hash for spec in (first, *others)}) == 11


def test_tasks_of_files_are_known_by_their_content_wherever_they_are(tmp_path: Path) -> None:
    specs = []
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        for split in ("train", "validation", "test"):
            rows = [{"text": f"{split} {number}", "label": number % 2} for number in range(20)]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "task.yaml").write_text(
            "family: sequence_classification\ncolumns: {text: text, label: label}\nlabels: [bad, good]\n"
        )
        entry = {"name": "m", "tasks": [{"task": f"./{place}", "train_size": 10}, "offline_ner"]}
        specs.append(jobs(mixtures=[entry], extend=[{"base": "m", "add": ["offline_nli"]}]))

    for here, there in zip(*specs, strict=True):
        assert here.task != there.task
        assert (here.train_hash, here.job_hash) == (there.train_hash, there.job_hash)
    assert names(specs[0][0])[0] == str(tmp_path / "here"), "a worker finds it from any folder"
    assert specs[0][0].of_member(specs[0][0].members[0]).training.train_size == 10


@pytest.mark.parametrize("replay", [0, 0.25, "sized"])
@pytest.mark.parametrize("old_heads", ["trained", "frozen"])
def test_specifications_survive_json(replay: Any, old_heads: str) -> None:
    entry = {**TWO, "sampling": "temperature", "temperature": 2, "train_sizes": {"offline_ner": {"at_most": 7}}}
    sweep = parse_sweep(
        {
            "name": "s",
            "models": ["org/model"],
            "methods": ["full", "houlsby"],
            "mixtures": [entry],
            "extend": [
                {**ADD_NLI, "replay": replay, "old_heads": old_heads, "methods": ["full"], "fusion": "houlsby"},
                {"leave_one_out": "two"},
            ],
        }
    )

    assert SweepSpec.model_validate_json(sweep.model_dump_json()) == sweep
    assert SweepSpec.model_validate(json.loads(json.dumps(sweep.model_dump(mode="json")))) == sweep
    for spec in expand(sweep, data_root=None):
        again = JobSpec.model_validate_json(spec.model_dump_json())
        assert (again, again.train_hash, again.job_hash) == (spec, spec.train_hash, spec.job_hash)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extend": [{"leave_one_out": "tow"}]}, "'tow', which is not among the sweep's mixtures; did you mean 'two'?"),
        ({"extend": [{**ADD_NLI, "base": "tow"}]}, "unknown task 'tow'"),
        ({"extend": [{**ADD_NLI, "methods": ["lora"]}]}, "method 'lora', which the sweep lacks; known: full"),
        ({"extend": [{**ADD_NLI, "fusion": "houlsby"}]}, "method 'houlsby', which the sweep lacks"),
        ({"mixtures": [{**TWO, "name": "sst2"}]}, "'sst2' is the name of a task; choose another name"),
        ({"mixtures": [{**TWO, "name": "a mixture"}]}, "'a mixture' is not a name for a mixture"),
        ({"mixtures": [{**TWO, "name": "12"}]}, "'12' looks like a job; choose another name"),
        ({"mixtures": [TWO, TWO]}, "two mixtures are called 'two'"),
        ({"mixtures": [{**TWO, "samplng": "equal"}]}, "unknown key 'samplng' of a mixture; did you mean 'sampling'?"),
        ({"mixtures": [{**TWO, "train_sizes": {"offline_nli": 3}}]}, "'offline_nli', which is not among its tasks"),
        ({"mixtures": [{"name": "one", "tasks": "offline_ner"}], "extend": [{"leave_one_out": "one"}]}, "one' has one"),
        ({"extend": [{**ADD_NLI, "add": ["offline_ner"]}]}, "it has learned 'offline_ner' already; add another task"),
        ({"extend": [{**ADD_NLI, "add": ["offline_nli"] * 2}]}, "a task appears twice; list each once"),
        ({"extend": [{**ADD_NLI, "add": ["offline_nli", "offline_nli[noise=0.05]"]}]}, "'offline_nli' appears twice"),
        ({"extend": [{**ADD_NLI, "add": [mixture("offline_qa")]}]}, "is a mixture itself; list its tasks"),
        ({"extend": [{"base": "two"}]}, "give base and add"),
        ({"extend": [{"add": ["offline_nli"]}]}, "give base and add"),
        ({"extend": [{**ADD_NLI, "leave_one_out": "two"}]}, "remove base and add"),
        ({"extend": [{**ADD_NLI, "replay": 1.5}]}, "'extend.0.replay.0' is 1.5"),
        ({"extend": [{**ADD_NLI, "replay": -0.1}]}, "'extend.0.replay.0' is -0.1"),
        ({"extend": [{**ADD_NLI, "replay": True}]}, "'extend.0.replay.0' is True"),
        ({"extend": [{**ADD_NLI, "replay": [0.1, 0.1]}]}, "a share appears twice; list each once"),
        ({"extend": [{**ADD_NLI, "old_heads": "kept"}]}, "'extend.0.old_heads' is 'kept'"),
        ({"extend": [{**ADD_NLI, "replays": 0.1}]}, "'extend.0.replays' is 0.1: unknown key"),
        ({"extend": [{**ADD_NLI, "base": 12, "fusion": "full"}]}, "'12' is a job; name a mixture instead"),
        (
            {"extend": [{**ADD_NLI, "base": 12}, {"base": "12 + offline_nli", "add": ["offline_qa"]}]},
            "it extends job 12, whose tasks are not known yet",
        ),
        ({"tasks": ["extension[add=[offline_nli]]"]}, "an extension needs a base"),
        ({"tasks": ["extension[base=two]"]}, "an extension needs new tasks"),
        ({"tasks": ["extension[base=two,add=[offline_nli],replay=1.5]"]}, "1.5 is no share"),
        ({"tasks": ["extension[base=two,add=[offline_nli],tasks=[offline_qa]]"]}, "its base and of add; remove tasks"),
        (
            {"mixtures": [{"name": "m", "tasks": [{"task": "offline_ner", "train_size": 1300}, "offline_qa"]}]},
            "train_size is 1300, but 'offline_ner' has 1200 training examples; lower it, or set it to all",
        ),
        ({"settings": {"train_size": 1300}}, "train_size is 1300, but 'offline_sentiment' has 1200"),
        (
            {"mixtures": [{"name": "m", "tasks": ["sst2", "offline_ner"]}], "settings": {"test_languages": ["de"]}},
            "task 'sst2' has none of the test languages de",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AdapeffError) as refused:
        jobs(**{"mixtures": [TWO], **changes})

    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database of the test's own."""
    opened = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(opened)
    yield opened
    opened.close()


def submit(database: Database, *, force: bool = False, **sweep: Any) -> list[int]:
    """Submit a sweep; the ids of its jobs."""
    parsed = parse_sweep({"name": "s", "models": ["org/model"], "methods": ["full"], **sweep})
    specs = expand(parsed, data_root=None)
    with database.session() as session:
        return sweeps.submit(session, parsed, specs, max_failures=3, force=force).job_ids


def stored(database: Database, job_id: int) -> tuple[JobSpec, list[int]]:
    """A job's specification and the ids of its sources."""
    with database.session(read_only=True) as session:
        spec = JobSpec.model_validate(session.scalars(select(Job.spec).where(Job.id == job_id)).one())
        return spec, list(session.scalars(select(JobSource.source_id).where(JobSource.job_id == job_id)))


KEPT: dict[str, Any] = {"settings": {"keep_weights": True}}


@pytest.mark.parametrize("base", ["two", "offline_sentiment"])
def test_extension_of_a_stored_job_is_that_of_the_same_cell_of_a_sweep(database: Database, base: str) -> None:
    growth = {"base": base, "add": ["offline_nli"], "replay": 0.1}
    wanted = jobs(mixtures=[TWO], tasks=["offline_sentiment"], extend=[growth])[-1]
    ids = submit(database, mixtures=[TWO], tasks=["offline_sentiment"], **KEPT)
    base_id = next(number for number in ids if stored(database, number)[0].columns["task"] == base)

    (extension_id,) = submit(database, extend=[{**growth, "base": base_id}])

    found, sources = stored(database, extension_id)
    assert found.job_hash == wanted.job_hash and found.members == wanted.members
    assert (found.base, found.sources) == (wanted.base, (wanted.base,))
    assert sources == [base_id]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["lora"]}, "the extension's method is lora; name a job of lora, or use full"),
        ({"methods": ["full"], "models": ["org/other"]}, "trained another model, org/model; name a job of org/other"),
        ({"extend": [{"base": 1, "add": ["offline_ner"]}]}, "it has learned 'offline_ner' already; add another task"),
        ({"extend": [{"base": 2, "add": ["offline_nli"]}]}, "2 keeps no weights; submit it with keep_weights: true"),
        ({"extend": [{"base": 3, "add": ["offline_nli"]}]}, "job 3 is failed; retry it first (adapeff retry 3)"),
        ({"extend": [{"base": 4, "add": ["offline_nli"]}]}, "job 4 is a profile, which keeps no weights"),
        ({"extend": [{"base": 99, "add": ["offline_nli"]}]}, "job 99 does not exist; submit it first"),
    ],
)
def test_base_that_cannot_be_extended_is_refused_at_submit(
    database: Database, changes: dict[str, Any], said: str
) -> None:
    assert submit(database, mixtures=[TWO], **KEPT) == [1]
    assert submit(database, tasks=["offline_ner"]) == [2]
    assert submit(database, tasks=["offline_qa"], **KEPT) == [3]
    with database.session() as session:
        session.execute(update(Job).where(Job.id == 3).values(state="failed"))
        profile = plan_profile("org/model", ["lora"])
        assert sweeps.submit(session, profile, [profile.spec], max_failures=3).job_ids == [4]

    with pytest.raises(JobError) as refused:
        submit(database, **{"extend": [{"base": 1, "add": ["offline_nli"]}], **changes})

    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_forced_sweep_extends_the_new_bases(database: Database) -> None:
    sweep: dict[str, Any] = {"mixtures": [TWO], "extend": [ADD_NLI, {**ADD_NLI, "replay": 0.1}]}
    base, *extensions = submit(database, **sweep)

    new_base, *new_extensions = submit(database, force=True, **sweep)

    assert not {base, *extensions} & {new_base, *new_extensions}
    assert [stored(database, number)[1] for number in (*extensions, *new_extensions)] == [[base]] * 2 + [[new_base]] * 2
    assert stored(database, new_base)[0].repeat == 1
    new_hash = stored(database, new_base)[0].job_hash
    assert all(stored(database, number)[0].base == new_hash for number in new_extensions)


SMALL = "[test_examples=40,train_examples={}]"
SENTIMENT, NER, NLI = (f"offline_{task}{SMALL.format(32)}" for task in ("sentiment", "ner", "nli"))
TOPICS, SHORT = (f"offline_{task}{SMALL.format(24)}" for task in ("topics", "nli"))
SETTINGS: dict[str, Any] = {
    "steps": 8,
    "batch_size": 8,
    "max_length": 32,
    "evaluate_every_steps": 4,
    "learning_rate": 1e-2,
    "latency_batches": [],
    "test_languages": ["en", "de"],
    "device": "cpu",
    "keep_weights": True,
}


def extension(base: Trained, *add: str, settings: dict[str, Any] | None = None, **parameters: Any) -> JobSpec:
    """The job that extends a finished run."""
    given = "".join(f",{key}={value}" for key, value in parameters.items())
    text = f"extension[base={base.spec.job_hash},add=[{','.join(add)}]{given}]"
    model, method = base.spec.model.name, str(base.spec.method)
    return on_base(job(text, model, method, **{**SETTINGS, **(settings or {})}), base.spec)


def prepared(spec: JobSpec, *sources: Trained) -> Prepared:
    folders = {source.spec.job_hash: source.folder for source in sources}
    return prepare(spec, Cpu(), PhaseClock(), None, folders, TokenCache(None))


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of two tasks."""
    folder = tmp_path_factory.mktemp("base") / "run"
    return train_here(job(mixture(SENTIMENT, NER), str(tiny_model), **SETTINGS), folder)


def heads(weights: dict[str, torch.Tensor], *numbers: int) -> dict[str, torch.Tensor]:
    prefixes = tuple(f"head.{number}." for number in numbers)
    found = {name: tensor for name, tensor in weights.items() if name.startswith(prefixes)}
    assert found
    return found


def are_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_whole_replay_draws_the_batches_of_the_mixture_of_all_tasks(base: Trained) -> None:
    extended = extension(base, NLI, replay=1)
    union = job(mixture(SENTIMENT, NER, NLI), base.spec.model.name, **SETTINGS)

    (ours, steps), (theirs, steps_of_union) = (
        batch_stream(ready, spec) for ready, spec in ((prepared(extended, base), extended), (prepared(union), union))
    )

    assert steps == steps_of_union == 3 * 32 // 8
    for batch, other in itertools.islice(zip(ours, theirs, strict=True), 3 * steps):
        assert (batch.member, batch.row_counts) == (other.member, other.row_counts)
        assert are_equal(batch.inputs, other.inputs) and are_equal(batch.targets, other.targets)


@pytest.mark.parametrize("method", ["full", "lora", "houlsby"])
def test_scores_before_are_those_of_the_base(tiny_model: Path, tmp_path: Path, method: str) -> None:
    """Also of a task with a threshold chosen by validation data, and when one task's model is extended twice."""
    alone = train_here(job(TOPICS, str(tiny_model), method, **SETTINGS), tmp_path / "alone")
    once = train_here(extension(alone, NER), tmp_path / "once", alone)
    twice = train_here(extension(once, NLI), tmp_path / "twice", once)

    assert alone.measured("label_threshold") != [0.5], "the default threshold would do"
    for trained, source, task, name in (
        (once, alone, TOPICS, ""),
        (twice, once, TOPICS, TOPICS),
        (twice, once, NER, NER),
    ):
        metric = catalog.get_task(*_parts(task)).metric
        wanted = {(at, language): score for (at, language), score in source.scores(name).items() if at == metric}
        assert trained.scores(task, "base_") == wanted
        assert {language for _, language in wanted} == {"en", "de"}
    assert twice.scores(NLI, "base_"), "the new task's score with an untrained head is there too"
    assert once.weights.keys() - alone.weights.keys() == {
        *(name.replace("head.", "head.0.") for name in alone.weights if name.startswith("head.")),
        *heads(once.weights, 1),
    }
    assert {number for number in range(4) for name in twice.weights if name.startswith(f"head.{number}.")} == {0, 1, 2}


def _parts(task: str) -> tuple[str, dict[str, Any]]:
    reference = parse_plugin(task)
    return reference.name, reference.parameters


@pytest.mark.parametrize("settings", [{}, {"batch_tokens": 128}], ids=["batch size", "token budget"])
def test_without_replay_old_heads_stay_bit_for_bit_and_no_old_batch_is_drawn(
    base: Trained, tmp_path: Path, settings: dict[str, Any]
) -> None:
    extended = train_here(extension(base, NLI, settings=settings), tmp_path / "extended", base)

    assert are_equal(heads(extended.weights, 0, 1), heads(base.weights, 0, 1))
    for old in (SENTIMENT, NER):
        for figure in ("train_steps", "train_samples", "train_tokens"):
            assert set(extended.measured(figure, task=old)) == {0}
        assert extended.measured("data_examples", task=old, split="train") == [0]
    assert extended.measured("train_steps", task=NLI) == extended.measured("train_steps", task="") == [8]
    assert len(extended.scores(SENTIMENT)) and len(extended.measured("forgetting", task=NER, statistic="")) == 2


@pytest.mark.parametrize("old_heads", ["frozen", "trained"])
def test_frozen_old_heads_stay_bit_for_bit_under_replay(base: Trained, tmp_path: Path, old_heads: str) -> None:
    whole = {"evaluate_every_steps": 8}  # the state after all steps
    spec = extension(base, NLI, settings=whole, replay=0.5, old_heads=old_heads)
    extended = train_here(spec, tmp_path / "extended", base)

    assert min(extended.measured("train_steps", task=task)[0] for task in (SENTIMENT, NER)) > 0
    for number in (0, 1):
        stays = are_equal(heads(extended.weights, number), heads(base.weights, number))
        assert stays == (old_heads == "frozen")
    encoder = [name for name in base.weights if name.startswith("encoder.") and "layer.1" in name]
    assert not any(torch.equal(extended.weights[name], base.weights[name]) for name in encoder if "weight" in name)


def test_replay_that_could_train_nothing_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    alone = train_here(job(NER, str(tiny_model), "head", **SETTINGS), tmp_path / "alone")

    with pytest.raises(ModelError, match=r"'head' trains only heads, .* set replay: 0 or old_heads: trained"):
        prepared(extension(alone, NLI, replay=0.5, old_heads="frozen"), alone)
    assert train_here(extension(alone, NLI, old_heads="frozen"), tmp_path / "extended", alone).scores(NLI)


def write_task(folder: Path, positive: str, *, train: int, test: int) -> str:
    """A task of one's own: whether a text has a word, except that one label in five is wrong."""
    draw = random.Random(positive)
    folder.mkdir()
    for split, size in (("train", train), ("validation", 20), ("test", test)):
        lines = []
        for _ in range(size):
            text = " ".join(draw.choice(["good", "bad", "film", "was", "the", "not"]) for _ in range(5))
            label = (positive in text.split()) != (draw.random() < 0.2)
            lines.append(json.dumps({"text": text, "label": int(label)}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    (folder / "task.yaml").write_text(
        "family: sequence_classification\ncolumns: {text: text, label: label}\nlabels: [absent, present]\n"
    )
    return str(folder)


def correctness(trained: Trained, task: str) -> numpy.ndarray:
    """Whether each stored answer to a task's test examples is correct."""
    with gzip.open(trained.folder / "predictions.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return numpy.array([row["gold"] == row["predicted"] for row in rows if row["task"] == task])


@pytest.mark.slow
def test_forgetting_is_after_minus_before_with_a_paired_bootstrap_interval(tiny_model: Path, tmp_path: Path) -> None:
    examples, resamples = 300, 20_000
    *old, new = (write_task(tmp_path / word, word, train=200, test=examples) for word in ("good", "not", "film"))
    settings = {**SETTINGS, "steps": 60, "evaluate_every_steps": 60, "learning_rate": 3e-3, "test_languages": None}
    before = train_here(job(mixture(*old), str(tiny_model), **settings), tmp_path / "before")
    after = train_here(extension(before, new, settings=settings), tmp_path / "after", before)
    draw = numpy.random.default_rng(12345)
    changes, of_tasks = [], []

    for task in old:
        is_correct, was_correct = correctness(after, task), correctness(before, task)
        rows = draw.integers(examples, size=(resamples, examples))
        samples = is_correct[rows].mean(axis=1) - was_correct[rows].mean(axis=1)
        where = {"task": task, "split": "test"}
        (change,) = after.measured("forgetting", statistic="", **where)
        interval = [after.measured("forgetting", statistic=end, **where)[0] for end in ("low", "high")]

        assert change == pytest.approx(is_correct.mean() - was_correct.mean(), abs=1e-12)
        assert [change] == [after.measured("accuracy", **where)[0] - before.measured("accuracy", **where)[0]]
        assert after.measured("base_accuracy", **where) == before.measured("accuracy", **where)
        assert interval == pytest.approx(numpy.quantile(samples, [0.025, 0.975]), abs=_error(samples, examples))
        changes.append(change)
        of_tasks.append(samples)

    mean_samples = numpy.mean(of_tasks, axis=0)
    interval = [after.measured("forgetting", task="", statistic=end)[0] for end in ("mean_low", "mean_high")]
    assert interval == pytest.approx(numpy.quantile(mean_samples, [0.025, 0.975]), abs=_error(mean_samples, examples))
    assert after.measured("forgetting", task="", statistic="mean") == [pytest.approx(numpy.mean(changes))]
    assert after.measured("forgetting", task="", statistic="worst") == [min(changes)]
    assert min(changes) < -0.05, "nothing was forgotten, so this shows nothing"
    assert not after.measured("forgetting", task=new)


def _error(samples: numpy.ndarray, examples: int) -> float:
    """Four standard errors of the 2.5 % quantile of 1,000 samples of a normal distribution, and the score's step."""
    return float(4 * samples.std() * (0.025 * 0.975 / 1000) ** 0.5 / 0.0584 + 1 / examples)


def test_samples_of_tasks_whose_names_end_alike_are_independent(base: Trained) -> None:
    ready = prepared(extension(base, NLI), base)
    gold = [number % 2 for number in range(40)]
    before, after = (Predictions([], gold, [number % each for number in range(40)], []) for each in (2, 3))
    accuracy = ready.parts[0]

    def samples(name: str) -> numpy.ndarray:
        part = Part(name, accuracy.task, accuracy.family, accuracy.train, accuracy.validation, accuracy.tests)
        return score_change(part, before, after)[1]

    assert numpy.array_equal(samples("a[test_examples=40]"), samples("a[test_examples=40]"))
    correlation = numpy.corrcoef(samples("a[test_examples=40]"), samples("b[test_examples=40]"))[0, 1]
    assert abs(correlation) < 0.15  # 1,000 samples: a standard error of 0.03


@pytest.mark.parametrize(
    ("added", "replay", "expected"),
    [
        (SHORT, "sized", {SENTIMENT: 24, NER: 24, SHORT: 24}),
        ("offline_nli[test_examples=40,train_examples=50]", "sized", {SENTIMENT: 32, NER: 32}),
        (NLI, 0.5, {SENTIMENT: 16, NER: 16, NLI: 32}),
        (NLI, 0.001, {SENTIMENT: 1, NER: 1, NLI: 32}),
        (NLI, 0, {SENTIMENT: 0, NER: 0, NLI: 32}),
    ],
)
def test_replay_takes_its_share_of_each_old_task(
    base: Trained, added: str, replay: Any, expected: dict[str, int]
) -> None:
    ready = prepared(extension(base, added, replay=replay), base)

    found = {part.name: len(part.train.examples) for part in ready.parts}
    assert expected.items() <= found.items()
    whole = {part.name: part.train.examples for part in prepared(extension(base, added, replay=1), base).parts}
    for part in ready.parts:
        assert {example.id for example in part.train.examples} <= {example.id for example in whole[part.name]}


@given(st.floats(0, 1), st.integers(1, 10_000), st.integers(1, 10_000))
def test_replayed_examples_are_the_nearest_number_but_never_none(replay: float, examples: int, new: int) -> None:
    found = Extension(add=("offline_nli",), replay=replay).replayed(examples, new)

    if replay == 0:
        assert found == 0
    else:
        assert 1 <= found <= examples
        assert abs(found - replay * examples) <= 0.5 or found == 1
    assert Extension(add=("offline_nli",), replay="sized").replayed(examples, new) == min(examples, new)


def test_members_that_were_drawn_keep_their_shares_under_replay(base: Trained) -> None:
    spec = extension(base, NLI, replay=0.25)
    stream, steps = batch_stream(prepared(spec, base), spec)

    drawn = Counter(batch.member for batch in itertools.islice(stream, 5 * steps))

    assert steps == 1 + 1 + 4  # 8 examples of each old task and 32 of the new one, in batches of 8
    assert drawn == {0: 5, 1: 5, 2: 20}
