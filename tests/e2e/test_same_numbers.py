"""One set of results, seven outputs, one truth: what pandas and scipy compute from an exported Parquet file.

Nothing of adapeff computes the expected numbers. The scores have many digits, and other models, languages and splits
have other scores, so an output that rounds, or selects other runs, differs.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from adapeff.service import api
from adapeff.service.store.database import Database, upgrade
from tests.e2e.conftest import Adapeff
from tests.integration.test_report import store

pandas = pytest.importorskip("pandas", reason="pandas is not installed")
stats = pytest.importorskip("scipy.stats")

MODELS = {"org/wide": 0.03, "org/narrow": 0.0005}
"""Model -> how much full fine-tuning and houlsby vary over seeds; lora always varies by 0.01."""
MEANS = {"full": 0.8, "lora": 0.78, "houlsby": 0.7}
EXACTLY: Callable[[float], Any] = lambda value: pytest.approx(value, rel=1e-9, abs=1e-12)  # noqa: E731


class Expected(NamedTuple):
    """What every output has to say of a method."""

    quality: tuple[float, float | None, float | None]
    """Mean over the seeds with Student's 95 % interval, which takes three of them."""
    difference: tuple[float, float, float] | None
    """Mean over the seeds that both have, with its 95 % interval; None for the reference."""
    p: float | None
    """Two-sided, Holm-adjusted over the methods of the table."""
    train: tuple[float, float | None, float | None]
    """Compute seconds."""
    text: str
    """The quality in words, in percent."""


Truth = Mapping[tuple[str, str], Expected]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two models, three methods, three seeds, of which one is missing; the database that commands use."""
    url, draw = f"sqlite:///{tmp_path / 'own.db'}", Random(7)
    monkeypatch.setenv("ADAPEFF_DATABASE_URL", url)
    monkeypatch.setenv("ADAPEFF_STATE_DIR", str(tmp_path / "state"))
    database = Database(url)
    upgrade(database)
    for model, spread in MODELS.items():
        for method, mean in MEANS.items():
            for seed in range(2 if (model, method) == ("org/narrow", "houlsby") else 3):
                score = mean + draw.gauss(0, 0.01 if method == "lora" else spread)
                more: Any = {"models": [model], "german": draw.random(), "curves": {"validation_accuracy": [[1, 0.9]]}}
                store(database, method, seed, score, 100 + 10 * draw.random(), **more)
    database.close()
    return url


@pytest.fixture
def truth(adapeff: Adapeff, url: str, tmp_path: Path) -> Truth:
    """The expected numbers, from a file that the command exported."""
    assert adapeff("export", "--all", "--format", "parquet", "-o", tmp_path / "all.parquet").returncode == 0
    rows = pandas.read_parquet(tmp_path / "all.parquet")
    scores = rows[(rows["name"] == "accuracy") & (rows["split"] == "test") & (rows["language"] == "en")]
    seconds = rows[rows["name"] == "train_compute_s"]
    return {
        (model, method): found
        for model in MODELS
        for method, found in _of_model(_by_seed(scores, model), _by_seed(seconds, model))
    }


def _by_seed(rows: Any, model: str) -> Any:
    """Seeds x methods."""
    return rows[rows["model"] == model].pivot(index="seed", columns="method", values="value")


def _of_model(scores: Any, seconds: Any) -> Iterator[tuple[str, Expected]]:
    differences = {method: _difference(scores, method) for method in scores if method != "full"}
    order = sorted(differences, key=lambda method: differences[method][1])
    raw = [differences[method][1] * (len(order) - rank) for rank, method in enumerate(order)]
    adjusted = dict(zip(order, pandas.Series(raw).clip(upper=1).cummax(), strict=True))
    for method in scores:
        quality = _mean(scores[method].dropna())
        difference = differences[method][0] if method in differences else None
        train = _mean(seconds[method].dropna())
        yield method, Expected(quality, difference, adjusted.get(method), train, _percent(quality, scores[method]))


def _mean(values: Any) -> tuple[float, float | None, float | None]:
    if len(values) < 3:
        return values.mean(), None, None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5
    return values.mean(), values.mean() - half, values.mean() + half


def _percent(found: tuple[float, float | None, float | None], values: Any) -> str:
    mean, low, high = found
    if low is None or high is None:
        return " / ".join(f"{100 * value:.1f}" for value in values.dropna())
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _difference(scores: Any, method: str) -> tuple[tuple[float, float, float], float]:
    """The difference to full with its interval, and its p: the larger of two variances of a seed's difference.

    One is that of the two methods, one twice that of the typical method: the median of the variances, each over the
    median of chi-squared, with the degrees of freedom of one method times the root of their number. The typical one
    counts in intervals too, because these runs have no scores by example (docs/reports.md, "Where the intervals come
    from").
    """
    pairs = scores[[method, "full"]].dropna()
    own = (pairs[method].var() + pairs["full"].var(), len(pairs) - 1)
    freedom = scores.count() - 1
    scaled = scores.var() * freedom / stats.chi2.median(freedom)
    variance, degrees = max(own, (2 * scaled.median(), freedom.sum() / len(freedom) ** 0.5))
    value, error = (pairs[method] - pairs["full"]).mean(), (variance / len(pairs)) ** 0.5
    half = stats.t.ppf(0.975, degrees) * error
    return (value, value - half, value + half), 2 * stats.t.sf(abs(value) / error, degrees)


def _words(difference: tuple[float, float, float]) -> str:
    value, low, high = difference
    return f"{'−' if value < 0 else '+'}{abs(100 * value):.1f} ± {100 * (high - low) / 2:.1f}"


def test_both_variances_of_a_difference_occur(truth: Truth, url: str) -> None:
    """Else the data would not tell an output with the wrong one."""
    assert len(truth) == 6 and truth["org/narrow", "houlsby"].quality[1] is None
    widths = {key: found.difference[2] - found.difference[1] for key, found in truth.items() if found.difference}
    assert widths["org/wide", "lora"] > 2 * widths["org/narrow", "lora"]


def check(truth: Truth, model: str, method: str, row: Mapping[str, Any]) -> None:
    """Compare numbers named as in CSV with the truth, digit by digit."""
    found = truth[model, method]

    def number(name: str) -> float | None:
        value = row.get(name)
        return None if value in (None, "") else float(value)

    for name, expected in (("quality", found.quality), ("difference", found.difference or (None, None, None))):
        for suffix, one in zip(("", "_low", "_high"), expected, strict=True):
            assert number(f"{name}{suffix}") == (one if one is None else EXACTLY(one)), f"{model} {method} {name}"
    assert number("p") == (found.p if found.p is None else EXACTLY(found.p))


def view(adapeff: Adapeff, form: str, name: str = "quality") -> str:
    """A view as the command prints it."""
    done = adapeff("report", "--all", "--view", name, "--format", form)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_csv_json_and_notebooks_hold_every_digit(adapeff: Adapeff, truth: Truth, url: str) -> None:
    csv_rows = list(csv.DictReader(io.StringIO(view(adapeff, "csv"))))
    notebook = api.records(api.load_report(database_url=url), "quality")
    frame = api.frame(api.load_report(database_url=url), "quality")
    documents = json.loads(view(adapeff, "json"))

    for rows in (csv_rows, notebook, frame.astype(object).where(frame.notna(), None).to_dict("records")):
        assert {(row["model"], row["method"]) for row in rows} == set(truth)
        for row in rows:
            check(truth, row["model"], row["method"], row)
    for document in documents:
        for row in document["rows"]:
            cells = {name: cell for name, cell in row.items() if isinstance(cell, dict)}
            flat = {f"{name}{end}": cell.get(key) for name, cell in cells.items() for end, key in _PARTS.items()}
            check(truth, document["model"], row["method"], flat)


_PARTS = {"": "value", "_low": "low", "_high": "high"}


def test_every_figure_holds_every_digit(adapeff: Adapeff, truth: Truth, url: str) -> None:
    printed = json.loads(adapeff("report", "--all", "--json").stdout)
    of_csv = list(csv.DictReader(io.StringIO(adapeff("report", "--all", "--format", "csv").stdout)))

    for rows in (printed, of_csv):
        in_english = [row for row in rows if row["language"] in ("", "en")]
        for name, field in (("quality", "quality"), ("difference", "difference"), ("train_compute_s", "train")):
            expected = {key: parts for key, found in truth.items() if (parts := getattr(found, field)) is not None}
            shown = {(row["model"], row["method"]): row for row in in_english if row["figure"] == name}
            assert set(shown) == set(expected)
            for key, row in shown.items():
                for part, one in zip(("mean", "low", "high"), expected[key], strict=True):
                    assert row[part] in (None, "") if one is None else float(row[part]) == EXACTLY(one)


class Rows(HTMLParser):
    """Numbers and words of each row, under the model that its table's title names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.model, self.found = "", list[tuple[str, list[float], str]]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.found.append((self.model, [], ""))
        number = dict(attrs).get("data-number")
        if number and self.found:
            self.found[-1][1].append(float(number))

    def handle_data(self, data: str) -> None:
        if match := re.match(r"quality · .* · (org/\w+) · ", data.strip()):
            self.model = match[1]
        elif self.found:
            model, numbers, words = self.found[-1]
            self.found[-1] = (model, numbers, f"{words}\n{data.strip()}")


def test_the_page_holds_every_digit_and_the_words_of_the_table(adapeff: Adapeff, truth: Truth, url: str) -> None:
    rows = [row for row in Rows(view(adapeff, "html")).found if row[1]]

    for (model, method), found in truth.items():
        (numbers, words) = next(
            (numbers, words.split("\n")) for of, numbers, words in rows if of == model and method in words.split("\n")
        )
        expected = [found.quality[0], *([found.difference[0], found.p] if found.difference else [])]
        for one in expected:
            assert one in [EXACTLY(number) for number in numbers], f"{model} {method}"
        assert found.text in words
        assert found.difference is None or _words(found.difference) in words


@pytest.mark.parametrize("form", ["table", "latex", "markdown"])
def test_tables_for_people_round_these_numbers_and_no_others(
    adapeff: Adapeff, truth: Truth, url: str, form: str
) -> None:
    text = view(adapeff, form).replace("$-$", "−").replace("$\\pm$", "±").replace("$\\cdot$", "·")
    tables = dict(re.findall(r"quality · [^\n]* · (org/\w+) · (.*?)(?=quality · |\Z)", text, re.DOTALL))

    for (model, method), found in truth.items():
        (line,) = [line for line in tables[model].splitlines() if re.match(rf"[| ]*{method}\b", line)]
        cells = [cell.strip() for cell in re.split(r" {2,}|&|\|", line)]
        assert found.text in cells, f"{found.text} in {cells}"
        assert found.difference is None or _words(found.difference) in cells
        assert found.p is None or f"{found.p:.3g}" in cells


def test_the_first_screen_rounds_the_same_numbers(adapeff: Adapeff, truth: Truth, url: str) -> None:
    tables = re.split(r"· (org/\w+) · ", adapeff("report", "--all").stdout)[1:]
    by_model = dict(zip(tables[::2], tables[1::2], strict=True))

    for (model, method), found in truth.items():
        (line,) = [line for line in by_model[model].splitlines() if re.match(rf"{method}  ", line)]
        cells = re.split(r" {2,}", line.strip())
        assert f"{100 * found.quality[0]:.1f}" in cells
        assert found.difference is None or _words(found.difference) in cells
