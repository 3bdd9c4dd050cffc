"""Extensions: how sweeps and databases specify them, and the laws of training, replay and forgetting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from adapeff.service.errors import AdapeffError, JobError
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.job import JobSpec
from adapeff.service.specs.profile import plan_profile
from adapeff.service.specs.sweep_file import SweepSpec, load_sweep, parse_sweep
from adapeff.service.store import sweeps
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.tables import Job, JobSource
from tests.several_tasks import job, jobs, mixture

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
        ({"mixtures": [TWO, TWO]}, "two mixtures are called 'two'"),
        ({"mixtures": [{**TWO, "samplng": "equal"}]}, "unknown key 'samplng' of a mixture; did you mean 'sampling'?"),
        ({"mixtures": [{**TWO, "train_sizes": {"offline_nli": 3}}]}, "'offline_nli', which is not among its tasks"),
        (
            {"mixtures": [{"name": "one", "tasks": "offline_ner"}], "extend": [{"leave_one_out": "one"}]},
            "'one' has one",
        ),
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
        (
            {"extend": [{"base": 2, "add": ["offline_nli"]}]},
            "job 2 keeps no weights; submit it with keep_weights: true",
        ),
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
