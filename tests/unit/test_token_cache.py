"""Tokenised data on disk: once per content, whole or not at all, whoever else is at it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from adapeff.service.plugins.catalog import get_task
from adapeff.service.plugins.references import resolve_model
from adapeff.service.specs.job import Training
from adapeff.worker.families import family_of
from adapeff.worker.families.base import Encoded
from adapeff.worker.families.token_cache import TokenCache, content_key, tokenizer_content
from adapeff.worker.modeling.tokenizers import load_tokenizer

FAMILIES = ("offline_nli", "offline_ner", "offline_qa", "offline_choice")


def parts(data: Encoded) -> dict[str, Any]:
    """All arrays of tokenised data."""
    groups = {"inputs": data.inputs, "tokens": data.token_targets, "items": data.item_targets}
    found = {f"{group}.{name}": tensor for group, some in groups.items() for name, tensor in some.items()}
    return {**found, "row_starts": data.row_starts, "item_starts": data.item_starts}


def same(one: Encoded, other: Encoded) -> bool:
    ours, theirs = parts(one), parts(other)
    return dict(one.padding) == dict(other.padding) and ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours
    )  # fmt: skip


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(resolve_model(str(tiny_model)))


@pytest.mark.parametrize("name", FAMILIES)
def test_second_asking_tokenises_nothing_and_gives_the_same(name: str, tokenizer: Any, tmp_path: Path) -> None:
    task = get_task(name, {"train_examples": 50})
    family = family_of(task, Training(learning_rate=1, max_length=48))
    examples = task.examples("train", "en", None)
    first, second = TokenCache(tmp_path / "cache"), TokenCache(tmp_path / "cache")

    made, found = first.encode(family, examples, tokenizer), second.encode(family, examples, tokenizer)

    assert (first.tokenised_examples, second.tokenised_examples) == (50, 0)
    assert same(made, found)
    assert same(made, family.encode(examples, tokenizer))


def test_key_follows_what_decides_the_tokens(tokenizer: Any, tiny_model: Path) -> None:
    task = get_task("offline_nli")
    family, longer = (family_of(task, Training(learning_rate=1, max_length=n)) for n in (48, 64))
    examples = task.examples("test", "en", None)
    content = tokenizer_content(tokenizer)
    key = content_key(family, examples, content)
    relabelled = [examples[0]._replace(label=(examples[0].label + 1) % 3), *examples[1:]]
    others = [load_tokenizer(resolve_model(str(tiny_model))) for _ in range(3)]
    others[0].add_tokens(["wonderful"])
    others[1].model_input_names = ["input_ids", "attention_mask"]
    others[2].truncation_side = "left"

    tokenizer(["a call leaves its truncation behind"], truncation=True, max_length=9)

    assert tokenizer_content(tokenizer) == content
    assert content_key(family, list(examples), content) == key
    assert content_key(longer, examples, content) != key
    assert content_key(family, examples[1:], content) != key
    assert content_key(family, relabelled, content) != key
    assert all(content_key(family, examples, tokenizer_content(other)) != key for other in others)


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "nonsense"])
def test_damaged_file_is_made_again(
    damage: str, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = get_task("offline_nli", {"train_examples": 50})
    family = family_of(task, Training(learning_rate=1, max_length=48))
    examples = task.examples("train", "en", None)
    whole = TokenCache(tmp_path).encode(family, examples, tokenizer)
    expected = family.encode(examples, tokenizer)
    (file,) = tmp_path.glob("*.safetensors")
    content = file.read_bytes()
    del whole
    file.unlink()
    file.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "flipped": content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
            "emptied": b"",
            "nonsense": b"{" * 1000,
        }[damage]
    )

    again = TokenCache(tmp_path)
    found = again.encode(family, examples, tokenizer)

    assert again.tokenised_examples == 50
    assert same(found, expected)
    assert "is made again" in caplog.text


def test_file_is_memory_mapped(tokenizer: Any, tmp_path: Path) -> None:
    task = get_task("offline_nli", {"train_examples": 50})
    family = family_of(task, Training(learning_rate=1, max_length=48))

    found = TokenCache(tmp_path).encode(family, task.examples("train", "en", None), tokenizer)

    (file,) = tmp_path.glob("*.safetensors")
    assert str(file) in Path("/proc/self/maps").read_text()
    assert len(found) == 50


def test_folder_that_cannot_be_written_costs_only_time(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    task = get_task("offline_nli", {"train_examples": 50})
    family = family_of(task, Training(learning_rate=1, max_length=48))

    found = TokenCache(Path("/proc/nowhere")).encode(family, task.examples("train", "en", None), tokenizer)

    assert len(found) == 50
    assert "tokenising without it" in caplog.text


def _use(folder: Path, model: Path, start: Any, answers: Any) -> None:
    task = get_task("offline_nli", {"train_examples": 400})
    family = family_of(task, Training(learning_rate=1, max_length=48))
    tokenizer = load_tokenizer(resolve_model(str(model)))
    cache = TokenCache(folder)
    start.wait()
    found = cache.encode(family, task.examples("train", "en", None), tokenizer)
    answers.put((cache.tokenised_examples, found.tokens))


def test_concurrent_runners_tokenise_once(tiny_model: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_use, args=(tmp_path, tiny_model, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()

    assert sorted(count for count, _ in found) == [0, 0, 0, 400]
    assert len({tokens for _, tokens in found}) == 1
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
