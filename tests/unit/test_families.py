"""The families: what is tokenised is what was said, and what the logits say is what is answered."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapeff.service.errors import ModelError, SpecError
from adapeff.service.plugins.catalog import get_method, get_task
from adapeff.service.specs.job import Training
from adapeff.service.specs.model_reference import resolve_model
from adapeff.worker.devices.cpu import Cpu
from adapeff.worker.families import FAMILIES, family_of
from adapeff.worker.families.choices import ChoiceExample
from adapeff.worker.families.encoding import IGNORED, Batch, collate
from adapeff.worker.families.sequences import Example
from adapeff.worker.families.span_rows import Answer, QuestionExample
from adapeff.worker.families.spans import QuestionAnswering
from adapeff.worker.families.tokens import TaggedExample, TokenClassification
from adapeff.worker.metrics import METRICS
from adapeff.worker.modeling.models import build_model, load_model
from adapeff.worker.modeling.tokenizers import load_tokenizer
from adapeff.worker.tasks import TASKS
from adapeff.worker.tasks.offline import OfflineTask
from adapeff.worker.training.batches import training_batches
from adapeff.worker.training.evaluate import SplitData, baseline, evaluate

CPU = Cpu()
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ROOT = Path(__file__).parents[2]
OFFLINE = sorted(name for name, task in TASKS.items() if isinstance(task, OfflineTask) and name != "offline_nli")


def training(**values: Any) -> Training:
    """Settings; the rate is not used."""
    return Training(**{"learning_rate": 1e-3, "max_length": 48, **values})


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    """The tiny model's: words it knows are one token, others are spelt."""
    return load_tokenizer(resolve_model(str(tiny_model)))


def as_asked(family: Any, data: Any) -> torch.Tensor:
    """Logits of a reader who knows: 10 where the target says so."""
    batch = collate(data, list(range(len(data))))
    rows, length = batch.inputs["input_ids"].shape
    if family.name == "token_classification":
        return torch.nn.functional.one_hot(batch.targets["tag"].clamp(min=0), len(family.labels)).float() * 10
    logits = torch.zeros(rows, length, 2)
    for row, (start, end) in enumerate(batch.targets["span"].tolist()):
        logits[row, start, 0] = logits[row, end, 1] = 10
    return logits


def test_every_family_has_a_generated_task() -> None:
    assert {get_task(name).family for name in OFFLINE} == set(FAMILIES)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_family_is_known_to_its_own_file_alone(name: str) -> None:
    """Besides tests and docs its name is in its own file, in metrics that score its answers, and in declared data."""
    found = {
        path.relative_to(ROOT).as_posix()
        for part in ("service", "worker", "cli")
        for path in (ROOT / part).rglob("*.py")
        if re.search(rf"[\"'`]{name}[\"'`]", path.read_text(encoding="utf-8"))
    }
    own = Path(inspect.getfile(FAMILIES[name])).relative_to(ROOT).as_posix()

    assert {path for path in found if "/metrics/" not in path} == {own}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_family_is_a_kind_of_task_of_the_hub(name: str) -> None:
    """Names of text tasks in huggingface.js, packages/tasks/src/pipelines.ts, which the hub filters by."""
    known = {"text-classification", "token-classification", "question-answering", "multiple-choice"}

    assert FAMILIES[name].pipeline_tag in known


def test_families_metrics_and_tasks_are_loaded_without_torch_and_numpy() -> None:
    """`adapeff submit` loads them on machines that train nothing."""
    code = (
        "import sys; from adapeff.service.plugins import catalog; "
        "catalog.tasks(), catalog.families(), catalog.metrics(); print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_unknown_family_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("family: token_clasification\n")

    with pytest.raises(SpecError, match="'token_clasification': unknown family; did you mean 'token_classification'"):
        get_task(str(tmp_path))


@pytest.mark.parametrize("name", OFFLINE)
def test_batches_hold_what_the_tokenizer_gave(name: str, tokenizer: Any) -> None:
    """Whatever the batches, each row's real tokens are those of its example, and the padding is masked."""
    family = family_of(get_task(name), training())
    examples = get_task(name).examples("test", "en", None)[:40]
    data = family.encode(examples, tokenizer)
    whole = collate(data, list(range(len(data))))

    for indices in ([3], [5, 1], list(range(len(data)))[::-1]):
        batch = collate(data, indices)
        firsts = [0, *itertools.accumulate(data.row_counts)]
        rows = [row for index in indices for row in range(firsts[index], firsts[index + 1])]
        masks = batch.inputs["attention_mask"].bool()
        assert sum(batch.row_lengths) == int(masks.sum())
        for at, row in enumerate(rows):
            mine, theirs = (b.inputs["input_ids"][r][b.inputs["attention_mask"][r].bool()] for b, r in
                            ((batch, at), (whole, row)))  # fmt: skip
            assert mine.tolist() == theirs.tolist()


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.slow
def test_every_family_learns_its_task(name: str, tiny_model: Path) -> None:
    """A tiny random model fits 32 training examples: loss, targets and answers belong together."""
    task = get_task(name, {"noise": 0, "difficulty": 0})
    family = family_of(task, training(head_dropout=0.0, max_length=64))
    loaded = load_model(resolve_model(str(tiny_model)), family.tokenizer_options)
    examples = task.examples("train", "en", None)[:32]
    split = SplitData(examples, family.encode(examples, loaded.tokenizer))
    model = build_model(loaded, get_method("full", {}), family, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    losses = []
    for batch in itertools.islice(training_batches(split.encoded, batch_size=16, seed=0), 400):
        loss = family.loss(model(batch.inputs).float(), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    from adapeff.service.plugins.catalog import get_metric

    found = evaluate(model, family, split, device=CPU, precision="fp32")
    metric = get_metric(task.metric)
    assert losses[-1] < losses[0] / 2
    assert metric.compute(found.gold, found.predicted) > baseline(metric, family, examples, found).score + 0.2


@pytest.mark.parametrize("name", OFFLINE)
def test_answers_do_not_depend_on_the_batches(name: str, tiny_model: Path) -> None:
    task = get_task(name)
    family = family_of(task, training())
    loaded = load_model(resolve_model(str(tiny_model)), family.tokenizer_options)
    model = build_model(loaded, get_method("full", {}), family, seed=0)
    examples = task.examples("test", "en", None)[:90]
    whole = evaluate(
        model, family, SplitData(examples, family.encode(examples, loaded.tokenizer)), device=CPU, precision="fp32"
    )

    for index in (0, 17, 89):
        alone = SplitData(examples[index : index + 1], family.encode(examples[index : index + 1], loaded.tokenizer))
        one = evaluate(model, family, alone, device=CPU, precision="fp32")
        assert (one.ids, one.gold) == (whole.ids[index : index + 1], whole.gold[index : index + 1])
        assert family.agree(one.predicted[0], whole.predicted[index])
        assert one.scores == pytest.approx([whole.scores[index]], abs=1e-4)


def test_first_sub_token_carries_the_tag_and_the_rest_is_ignored(tokenizer: Any) -> None:
    family = TokenClassification(TAGS, training())
    example = TaggedExample("1", ("film", "ab", "was"), (1, 2, 0))

    data = family.encode([example], tokenizer)

    assert data.token_targets["tag"].tolist() == [IGNORED, 1, 2, IGNORED, 0, IGNORED]  # [CLS] film a ##b was [SEP]
    assert data.token_targets["word"].tolist() == [IGNORED, 0, 1, IGNORED, 2, IGNORED]


tagged = st.lists(
    st.tuples(st.text(alphabet="abfilmé文\u200b ", min_size=1, max_size=6), st.integers(0, 4)), min_size=1, max_size=12
).map(lambda pairs: TaggedExample("x", tuple(word for word, _ in pairs), tuple(tag for _, tag in pairs)))


@given(st.lists(tagged, min_size=1, max_size=5))
@settings(max_examples=60)
def test_every_word_gets_a_tag(tokenizer: Any, examples: list[TaggedExample]) -> None:
    """As many as there are words, right where the model was asked, O for words it never saw (cut off, or no token)."""
    family = TokenClassification(TAGS, training(max_length=12))
    data = family.encode(examples, tokenizer)

    batch = collate(data, list(range(len(data))))
    answers = [answer for answer, _ in family.answers(examples, data, family.read(as_asked(family, data), batch))]

    asked = data.token_targets["word"].split(data.row_starts.diff().tolist())
    for example, answer, words in zip(examples, answers, asked, strict=True):
        seen = {word for word in words.tolist() if word != IGNORED}
        gold = family.gold(example)
        assert answer == tuple(gold[at] if at in seen else "O" for at in range(len(example.tokens)))


CONTEXT = "the film was good . it was not bad . the film was not long , nor was it short ."


@given(st.integers(0, len(CONTEXT) - 1), st.integers(1, 20), st.integers(14, 40), st.integers(1, 6))
def test_windows_lose_no_answer(tokenizer: Any, start: int, length: int, max_length: int, stride: int) -> None:
    """Whatever the window and stride, a reader who knows each window's target answers with the text around it."""
    text = CONTEXT[start : start + length]
    if not text.strip():
        return
    family = QuestionAnswering((), training(max_length=max_length, doc_stride=stride, max_answer_tokens=40))
    example = QuestionExample("1", "was it good ?", CONTEXT, (Answer(text, start),))
    data = family.encode([example], tokenizer)
    spans = data.item_targets["span"]
    holding = (spans[:, 0] > 0).sum()

    batch = collate(data, list(range(len(data))))
    ((answer, _),) = family.answers([example], data, family.read(as_asked(family, data), batch))

    chars = data.token_targets["start_char"]
    covered = {int(c) for c in chars if c != IGNORED}
    assert covered == {0, *(at + 1 for at, character in enumerate(CONTEXT) if character == " ")} | covered
    assert len(data) == len(data.item_targets["example"])
    if holding:  # an answer longer than any window's overlap may be held by none
        assert text.strip() in answer
        assert len(answer) <= len(text) + 2 * len("short")


@pytest.mark.parametrize("max_answer_tokens", [1, 3, 30])
@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_best_span_is_that_of_an_exhaustive_search(tokenizer: Any, max_answer_tokens: int, seed: int) -> None:
    family = QuestionAnswering((), training(max_length=24, max_answer_tokens=max_answer_tokens))
    example = QuestionExample("1", "was it good ?", CONTEXT, (Answer("film", 4),))
    data = family.encode([example], tokenizer)
    batch = collate(data, list(range(len(data))))
    logits = torch.randn(*batch.inputs["input_ids"].shape, 2, generator=torch.Generator().manual_seed(seed))

    ((answer, sure),) = family.answers([example], data, family.read(logits, batch))

    best = (-float("inf"), "")
    for row in range(len(data)):
        inside = (batch.targets["start_char"][row] != IGNORED).nonzero().flatten().tolist()
        for first, last in itertools.product(inside, inside):
            if first <= last < first + max_answer_tokens:
                score = float(logits[row, first, 0] + logits[row, last, 1])
                starts, ends = batch.targets["start_char"][row], batch.targets["end_char"][row]
                best = max(best, (score, CONTEXT[int(starts[first]) : int(ends[last])]))
    assert answer == best[1].strip()
    assert 0 < sure <= 1


def test_answer_that_no_window_holds_points_at_the_first_token(tokenizer: Any) -> None:
    family = QuestionAnswering((), training(max_length=16, doc_stride=2))
    data = family.encode([QuestionExample("1", "was it good ?", CONTEXT, (Answer(CONTEXT, 0),))], tokenizer)

    assert len(data) > 2
    assert data.item_targets["span"].tolist() == [[0, 0]] * len(data)


def test_long_question_is_cut_and_the_context_is_not(tokenizer: Any) -> None:
    family = QuestionAnswering((), training(max_length=30))
    example = QuestionExample("1", "was " * 100 + "it ?", CONTEXT, (Answer("film", 4),))

    data = family.encode([example], tokenizer)

    assert max(data.lengths) <= 30
    ends = [int(end) for end in data.token_targets["end_char"] if end != IGNORED]
    assert max(ends) == len(CONTEXT)


def test_stride_that_leaves_no_room_is_refused(tokenizer: Any) -> None:
    family = QuestionAnswering((), training(max_length=30, doc_stride=25))
    with pytest.raises(SpecError, match="doc_stride is 25, but windows of max_length 30 leave 17 tokens"):
        family.encode([QuestionExample("1", "was it ?", CONTEXT, (Answer("film", 4),))], tokenizer)


def test_tokenizer_that_does_not_know_places_is_refused() -> None:
    with pytest.raises(ModelError, match="question answering needs a tokenizer that knows the positions of its tokens"):
        QuestionAnswering((), training()).encode([QuestionExample("1", "q", "c", (Answer("c", 0),))], object())


def test_choices_of_different_numbers_compete_alone(tokenizer: Any) -> None:
    """A softmax per example over its own choices, equal to one computed by hand."""
    family = family_of(get_task("offline_choice"), training())
    examples = [
        ChoiceExample("1", "the film", ("was good", "was bad"), 1),
        ChoiceExample("2", "the film", ("was good", "was bad", "was not", "was it"), 2),
        ChoiceExample("3", "the film", ("was good", "was bad", "was not"), 0),
    ]
    data = family.encode(examples, tokenizer)
    batch = collate(data, [0, 1, 2])
    scores = [[0.5, 1.5], [2.0, 0.0, -1.0, 3.0], [-1.0, -2.0, -3.0]]
    logits = torch.tensor([[score] for some in scores for score in some])

    readings = family.read(logits, batch)
    loss = family.loss(logits, batch)

    by_hand = [torch.tensor(some).softmax(0) for some in scores]
    assert [choice for choice, _ in readings] == [1, 3, 0]
    assert [sure for _, sure in readings] == pytest.approx([float(p.max()) for p in by_hand])
    expected = -sum(float(p[e.label].log()) for p, e in zip(by_hand, examples, strict=True)) / 3
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert batch.row_counts == [2, 4, 3]


def test_padding_does_not_reach_the_loss_of_spans() -> None:
    family = QuestionAnswering((), training())
    logits = torch.zeros(1, 4, 2)
    logits[0, 3] = 100.0  # where nothing stands
    mask = torch.tensor([[1, 1, 1, 0]])
    batch = Batch({"attention_mask": mask}, {"span": torch.tensor([[1, 2]])}, [1], [3])

    assert float(family.loss(logits, batch)) == pytest.approx(float(torch.tensor(3.0).log()))


def test_best_trivial_answer_is_the_baseline() -> None:
    """Of every sentence a place, or every word one: what tags them all as the commonest type scores above nothing."""
    family = TokenClassification(TAGS, training())
    from adapeff.service.plugins.catalog import get_metric
    from adapeff.worker.training.evaluate import Predictions

    examples = [
        TaggedExample("1", ("a", "b"), (3, 4)),
        TaggedExample("2", ("c",), (3,)),
        TaggedExample("3", ("d",), (0,)),
    ]
    nothing = [("O",) * len(example.tokens) for example in examples]
    found = Predictions(["1", "2", "3"], [family.gold(e) for e in examples], nothing, [1.0] * 3)

    against = baseline(get_metric("entity_f1"), family, examples, found)

    assert against.score == pytest.approx(2 * 2 / (2 + 3))  # two of three sentences are one place from end to end
    assert against.noise > 0


def test_subwords_of_a_byte_level_tokenizer_are_told_apart(tmp_path: Path) -> None:
    """A RoBERTa-like tokenizer joins a word to the space before it, and asks for words that come split."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, RobertaTokenizerFast

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(
        ["the film was good"] * 20, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    made.save_model(str(tmp_path))
    RobertaTokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path)
    family = TokenClassification(TAGS, training())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, **family.tokenizer_options)
    example = TaggedExample("1", ("film", "goodfilm", "the"), (1, 3, 0))

    data = family.encode([example], tokenizer)

    assert [tag for tag in data.token_targets["tag"].tolist() if tag != IGNORED] == [1, 3, 0]
    assert len(data.inputs["input_ids"]) > 5  # the unknown word is several tokens


@pytest.mark.parametrize("name", OFFLINE)
def test_large_splits_are_tokenised_in_parts(name: str, tokenizer: Any) -> None:
    """In parts of any size they come to the same."""
    family = family_of(get_task(name), training())
    examples = get_task(name).examples("test", "en", None)[:50]
    whole = family.encode(examples, tokenizer)

    parts = family.encode(examples, tokenizer, part=7)

    for group in ("inputs", "token_targets", "item_targets"):
        ours, theirs = getattr(parts, group), getattr(whole, group)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(parts.row_starts, whole.row_starts)
    assert torch.equal(parts.item_starts, whole.item_starts)


def test_words_that_come_split_are_read_as_in_running_text(tmp_path: Path) -> None:
    """A byte-level tokenizer that cannot be told to put a space before words (ModernBERT's) still gets one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    text = ["the film was good and the film was bad"] * 20
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=300, special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]")
    family = TokenClassification(TAGS, training())

    data = family.encode([TaggedExample("1", ("film", "was", "good"), (1, 0, 0))], tokenizer)

    assert data.inputs["input_ids"].tolist() == tokenizer(" film was good")["input_ids"]
    assert [tag for tag in data.token_targets["tag"].tolist() if tag != IGNORED] == [1, 0, 0]


def test_batch_without_a_known_word_has_no_loss() -> None:
    family = TokenClassification(TAGS, training())
    batch = Batch({}, {"tag": torch.full((2, 3), IGNORED)}, [1, 1], [3, 3])

    assert float(family.loss(torch.randn(2, 3, 5), batch)) == 0


def test_baseline_knows_types_without_a_beginning() -> None:
    """IO tags: every word inside a place, nothing begun."""
    family = TokenClassification(("O", "I-LOC"), training())
    examples = [TaggedExample("1", ("a", "b"), (1, 1))]

    from adapeff.service.plugins.catalog import get_metric

    scores = [
        get_metric("entity_f1").compute([family.gold(examples[0])], answers)
        for answers in family.trivial_answers(examples)
    ]
    assert max(scores) == 1


def test_segment_ids_are_kept(tokenizer: Any) -> None:
    """The study dropped them for pairs (they are part of what a BERT was trained on)."""
    family = family_of(get_task("offline_nli"), training())
    data = family.encode([Example("1", "the film", "was good", 0)], tokenizer)

    assert data.inputs["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1]


SPAN_SCORE = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 2.5])


@given(
    st.lists(
        st.tuples(SPAN_SCORE, SPAN_SCORE, SPAN_SCORE, st.sampled_from(["", "the cat", "dog", "cat and dog"])),
        min_size=1,
        max_size=12,
    )
)
def test_null_threshold_is_the_best_of_all(questions: list[tuple[float, float, float, str]]) -> None:
    """Of two windows a question; every threshold between, below and above the margins is tried."""
    context = "the cat and dog"
    examples = [
        QuestionExample(str(at), "q", context, (Answer(text, context.find(text)),) if text else ())
        for at, (_, _, _, text) in enumerate(questions)
    ]
    data: Any = SimpleNamespace(item_targets={"example": torch.arange(len(questions)).repeat_interleave(2)})
    readings = [
        window
        for cat, none, other_none, _ in questions
        for window in ([(cat, 4, 7), (none, -1, -1)], [(cat - 1, 12, 15), (other_none, -1, -1)])
    ]
    family = QuestionAnswering((), training(), may_have_no_answer=True)

    def f1_at(threshold: float) -> float:
        family.null_threshold = threshold
        given = [text for text, _ in family.answers(examples, data, readings)]
        return METRICS["squad_f1"].compute([family.gold(example) for example in examples], given)

    chosen = family.choose(examples, data, readings)["null_threshold"]
    margins = sorted({min(none, other) - cat for cat, none, other, _ in questions})
    between = [(low + high) / 2 for low, high in itertools.pairwise(margins)]
    every = [margins[0] - 1, *margins, *between, margins[-1] + 1]

    assert f1_at(chosen) == pytest.approx(max(map(f1_at, every)), abs=1e-12)


STRANGER = """
import tomllib
from pathlib import Path

from adapeff.worker.families.regression import Regression
from adapeff.worker.tasks.declared import DeclaredTask
from adapeff.worker.tasks.data_sets import DataSet


class Temperature(Regression):
    name = "temperature"

    @classmethod
    def needed_columns(cls, columns):
        return {"text": columns.text, "label": columns.label, "station": getattr(columns, "station", None)}


def load(path):
    declared = tomllib.loads(Path(path).read_text())
    data = DataSet(name="t", root=Path(path).parent, languages={"und": "."}, licence="ours", **declared)
    return DeclaredTask(
        name="t", title="t", family=data.family, metric="mse", source_language="und", languages=("und",),
        licence="ours", train=data, tests={"und": data},
    )


FAMILIES = {"temperature": Temperature}
TASK_FILES = {".toml": load}
"""


def test_families_and_task_files_of_another_package_are_found(tmp_path: Path) -> None:
    """A family with a column of its own, and a loader for TOML, by entry points alone."""
    (tmp_path / "stranger.py").write_text(STRANGER)
    installed = tmp_path / "stranger-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    groups = {"families": "FAMILIES", "task_files": "TASK_FILES"}
    points = [f"[adapeff.{group}]\nstranger = stranger:{name}\n" for group, name in groups.items()]
    (installed / "entry_points.txt").write_text("".join(points))
    columns = '{ text = "text", label = "degrees", station = "where" }'
    (tmp_path / "task.toml").write_text(f'family = "temperature"\ncolumns = {columns}\n')
    row = '{"text": "mild", "degrees": 12.5, "where": "Kew"}\n'
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(row)
    code = (
        "from adapeff.service.plugins.catalog import get_task; task = get_task('./task.toml'); "
        "print(task.family, task.identity(['und'], None).source, task.examples('train', 'und', None)[0].value)"
    )

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert done.stdout == "temperature folder 12.5\n", done.stderr
