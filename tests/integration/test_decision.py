"""The first screen: verdicts on stored runs with known answers, paired costs, and gaps in the evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from adapeff.cli.output import print_view
from adapeff.cli.render.grids import markdown_grids
from adapeff.cli.render.latex import latex_grids, latex_text
from adapeff.service.errors import UnknownNameError
from adapeff.service.reporting.decision import Decision
from adapeff.service.reporting.first_screen import Screen, Screens, first_screens
from adapeff.service.reporting.grids import Grid, grid_documents, grid_rows, ratio
from adapeff.service.reporting.report import Options, build_report
from adapeff.service.reporting.rows import report_rows
from adapeff.service.reporting.views import VIEWS, build_view
from adapeff.service.store.database import Database, upgrade
from tests.integration.stored import store_profile
from tests.integration.test_report import store


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty migrated database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield opened
    opened.close()


def decided(database: Database, options: Options | None = None) -> Decision:
    """The decision of the only table."""
    with database.session(read_only=True) as session:
        (decision,) = build_report(session, options=options).decisions
    return decision


def kinds(decision: Decision) -> dict[str, str]:
    """Method -> kind of its verdict, in the order of the lines."""
    return {line.method: line.verdict.kind for line in decision.lines}


def store_scores(database: Database, scores: dict[str, list[float]]) -> None:
    """Finished runs, a seed per score."""
    for method, of_method in scores.items():
        for seed, score in enumerate(of_method):
            store(database, method, seed, score, 100)


def test_verdicts_follow_the_evidence_and_order_the_lines(database: Database) -> None:
    store_scores(
        database,
        {
            "full": [0.800, 0.801, 0.799],
            "houlsby": [0.820, 0.821, 0.819],  # two points better, known to a tenth
            "pfeiffer": [0.800, 0.799, 0.801],  # equal, known to a tenth
            "lora": [0.77, 0.82, 0.79],  # scattered
            "head": [0.600, 0.601, 0.599],  # 20 points below
        },
    )

    decision = decided(database)

    assert kinds(decision) == {
        "houlsby": "better", "full": "reference", "pfeiffer": "within", "lora": "undecided", "head": "worse",
    }  # fmt: skip
    assert [line.verdict.text for line in decision.lines][-2:] == ["undecided (needs >20 seeds)", "clearly below full"]
    assert decision.sentences == (
        "houlsby is better than full; pfeiffer holds full's quality within 1 point.",
        "head is clearly below; lora is undecided (too few seeds).",
    )


def test_margin_and_reference_are_the_readers(database: Database) -> None:
    store_scores(database, {"full": [0.80, 0.81, 0.80], "lora": [0.785, 0.79, 0.787]})

    assert kinds(decided(database))["lora"] == "worse"
    assert kinds(decided(database, Options(margin=0.03)))["lora"] == "within"
    assert kinds(decided(database, Options(reference="lora"))) == {"full": "better", "lora": "reference"}
    assert kinds(decided(database, Options(reference="houlsby"))) == {"full": "alone", "lora": "alone"}


def test_one_seed_without_example_scores_decides_nothing(database: Database) -> None:
    store_scores(database, {"full": [0.9], "lora": [0.1]})

    (_, lora) = decided(database).lines

    assert lora.difference is not None and lora.difference.value == pytest.approx(-0.8)
    assert (lora.difference.low, lora.verdict.text) == (None, "undecided (1 seed)")


def test_a_difference_that_several_methods_explain_is_undecided_like_any_other(database: Database) -> None:
    """lora: t = 0.04 / (0.01 sqrt(2 / 3)) = 4.9, p = 0.04 with 2 degrees of freedom; among four methods, more."""
    store_scores(database, {"full": [0.80, 0.82, 0.81], "lora": [0.77, 0.76, 0.78]})
    assert kinds(decided(database))["lora"] == "worse"

    store_scores(database, {method: [0.807, 0.808, 0.807] for method in ("head", "ia3", "bitfit")})
    lora = next(line for line in decided(database).lines if line.method == "lora")

    assert lora.difference is not None and lora.difference.high is not None and lora.difference.high < 0
    assert lora.p is not None and lora.p > 0.05
    assert lora.verdict.text == f"undecided (needs ≈{lora.seeds_needed} seeds)"


def test_reader_without_a_method_that_holds_learns_what_leaving_the_reference_may_cost(database: Database) -> None:
    store_scores(database, {"full": [0.80, 0.81, 0.80], "lora": [0.78, 0.77, 0.79], "head": [0.60, 0.61, 0.60]})

    decision = decided(database)

    bounds = {line.method: line.difference.lower_bound() for line in decision.lines if line.difference}
    lost = 100 * -(bounds["lora"] or 0)  # one-sided, of the best method; rounded up
    (accepted,) = re.findall(
        r"unless you accept losing up to ([\d.]+) points \(lora, one-sided bound\)", decision.sentences[0]
    )
    assert lost <= float(accepted) < lost + 0.1


def test_method_that_scores_as_high_on_average_is_no_loss(database: Database) -> None:
    store_scores(database, {"full": [0.30, 0.90, 0.60], "lora": [0.62, 0.63, 0.64], "head": [0.30, 0.31, 0.32]})

    assert decided(database).sentences[0] == (
        "No method is shown to hold full's quality within 1 point: lora scores as high on average, "
        "and more seeds may show it."
    )


def test_better_methods_are_not_said_to_be_fast_when_they_are_not(database: Database) -> None:
    store_scores(database, {"full": [0.80, 0.81, 0.80], "lora": [0.70, 0.71, 0.70], "head": [0.60, 0.61, 0.60]})
    store_profile(database, {"lora": (2.0, 1.9, 2.1), "head": (0.5, 0.4, 0.6)})

    (sentence, *_) = decided(database, Options(reference="head")).sentences

    assert sentence == "full and lora are better than head."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(metric="acuracy"), "unknown metric 'acuracy'; did you mean 'accuracy'"),
        (Options(reference="ful"), "unknown method 'ful'; did you mean 'full'"),
    ],
)
def test_unknown_metric_or_reference_is_refused(database: Database, options: Options, message: str) -> None:
    store_scores(database, {"full": [0.80, 0.81], "lora": [0.78, 0.77]})
    with database.session(read_only=True) as session, pytest.raises(UnknownNameError, match=message):
        build_report(session, options=options)


def test_scores_near_chance_are_marked_and_explained(database: Database) -> None:
    store_scores(database, {"full": [0.80, 0.81, 0.80], "head": [0.51, 0.52, 0.51]})  # of a majority of 0.5

    (screen,) = first_screens([decided(database)]).screens

    shown = {row[0].text: row[1] for row in screen.grid.rows}
    assert (shown["full"].text, shown["head"].text, shown["head"].mark) == ("80.3", "51.3 ~", "chance")
    assert any("~: near chance, within noise of the majority baseline" in note for note in screen.notes)


def test_a_step_is_not_taken_for_the_whole_training(database: Database) -> None:
    store_scores(database, {"full": [0.80, 0.81, 0.80], "lora": [0.70, 0.71, 0.70]})
    job_id = store_profile(database, {"lora": (0.7, 0.68, 0.72)})

    (screen,) = first_screens([decided(database)]).screens

    assert "train\nstep 32x64" in [heading.text for heading in screen.grid.headings]
    (note,) = [note for note in screen.notes if note.startswith("train:")]
    assert "32x64 (batch 32, 64 tokens), not of totals" in note and f"profile job {job_id}" in note


def test_times_have_ratios_only_from_a_profile_of_the_same_model_hardware_and_methods(database: Database) -> None:
    scores = [0.800, 0.801, 0.800]
    store_scores(database, {"full": scores, "lora": scores, "head": scores})
    store_profile(database, {"lora": (0.5, 0.4, 0.6), "head": (0.1, 0.1, 0.1)}, device="Other CPU")

    unpaired = {line.method: line.costs["train"] for line in decided(database).lines}
    assert {method: (cost.basis, cost.ratio) for method, cost in unpaired.items()} == dict.fromkeys(
        ("full", "lora", "head"), ("unpaired", None)
    )

    job_id = store_profile(database, {"lora": (0.7, 0.68, 0.72)}, {"lora": (1.2, 1.1, 1.3)})
    decision = decided(database)
    lines = {line.method: line for line in decision.lines}

    assert decision.pairing is not None and decision.pairing.profile.job_id == job_id
    train, latency = lines["lora"].costs["train"], lines["lora"].costs["latency"]
    assert (train.ratio, train.low, train.high, train.basis, train.shape) == (0.7, 0.68, 0.72, "paired", "32x64")
    assert (latency.ratio, latency.shape) == (1.2, "1x64")
    assert lines["lora"].verdict.text == "within 1 point of full, 0.70x the step time"
    assert (lines["head"].costs["train"].basis, lines["head"].verdict.text) == ("unpaired", "within 1 point of full")
    assert decision.sentences[0].endswith("within 1 point; a training step of lora takes 0.70x full's time.")


def test_another_reference_has_the_quotients_of_the_profiles_ratios(database: Database) -> None:
    scores = [0.800, 0.801, 0.800]
    store_scores(database, {"full": scores, "lora": scores, "head": scores})
    store_profile(database, {"lora": (0.5, 0.5, 0.5), "head": (0.1, 0.08, 0.125)})

    decision = decided(database, Options(reference="lora"))
    ratios = {line.method: line.costs["train"] for line in decision.lines}

    assert (ratios["full"].ratio, ratios["full"].low, ratios["full"].high) == pytest.approx((2.0, 2.0, 2.0))
    assert (ratios["head"].ratio, ratios["head"].low, ratios["head"].high) == pytest.approx((0.2, 0.16, 0.25))
    assert ratios["lora"].ratio is None


def test_nothing_is_said_of_a_time_whose_interval_holds_one(database: Database) -> None:
    store_scores(database, {"full": [0.800, 0.801, 0.800], "lora": [0.800, 0.801, 0.800]})
    store_profile(database, {"lora": (0.95, 0.85, 1.05)})

    decision = decided(database)

    assert decision.lines[1].verdict.text == "within 1 point of full"
    assert decision.sentences == ("lora holds full's quality within 1 point.",)


def test_lower_is_better_where_the_metric_says_so(database: Database) -> None:
    for method, score in (("full", 0.20), ("lora", 0.10), ("head", 0.30)):
        for seed in range(3):
            store(database, method, seed, score + seed / 1000, 100, resolved={"higher_is_better": False})

    assert kinds(decided(database)) == {"lora": "better", "full": "reference", "head": "worse"}


def test_every_rendering_has_the_same_findings(database: Database) -> None:
    store_scores(database, {"full": [0.80, 0.81, 0.80], "lora": [0.70, 0.71, 0.70]})
    store_profile(database, {"lora": (0.7, 0.68, 0.72)})
    with database.session(read_only=True) as session:
        report = build_report(session)
    grids = build_view(report, "summary")
    (document,) = grid_documents(grids)
    (lora,) = [row for row in document["rows"] if row["method"] == "lora"]
    (flat,) = [row for row in grid_rows(grids) if row["method"] == "lora"]
    long = {row["figure"]: row for row in report_rows(report) if row["method"] == "lora"}
    line = next(line for line in report.decisions[0].lines if line.method == "lora")
    assert line.difference is not None

    assert lora["difference"]["value"] == flat["difference"] == long["difference"]["mean"] == line.difference.value
    assert lora["train_time"]["value"] == flat["train_time"] == long["train_ratio_paired"]["mean"] == 0.7
    assert lora["verdict"] == flat["verdict"] == long["verdict"]["reason"] == "clearly below full"
    sentences = [row["reason"] for row in report_rows(report) if row["figure"] == "finding"]
    assert document["notes"][: len(sentences)] == sentences == list(report.decisions[0].sentences)
    for text in (markdown_grids(grids), latex_grids(grids).replace("$-$", "−").replace("$\\pm$", "±")):
        assert "−10.0 ±" in text and "0.70x" in text and "clearly below full" in text and sentences[0] in text
    json.dumps(document)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_rows_of_its_table_and_prints_in_every_form(
    database: Database, view: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store_scores(database, {"full": [0.80, 0.81], "lora": [0.70, 0.71]})
    store_profile(database, {"lora": (0.7, 0.68, 0.72)})
    with database.session(read_only=True) as session:
        report = build_report(session)
    grids = build_view(report, view)

    if not grids:
        print_view(report, view, "table")
        assert VIEWS[view].needs and f"it needs {VIEWS[view].needs}" in capsys.readouterr().err
    assert all(len(row) == len(grid.headings) for grid in grids for row in grid.rows)
    cells = [value.text for grid in grids for row in grid.rows for value in row]
    assert "lora" in cells or view == "energy" or not grids
    assert all(grid.title in markdown_grids([grid]) for grid in grids)
    assert latex_grids(grids).count("\\begin{tabular}") == len(grids)
    json.dumps(grid_documents(grids))


def test_notes_are_said_once_for_the_report(database: Database) -> None:
    for task in ("offline_sentiment", "offline_nli"):
        for method in ("full", "lora"):
            store(database, method, 0, 0.8, 100, tasks=[task])
    with database.session(read_only=True) as session:
        found = first_screens(build_report(session).decisions)

    assert len(found.screens) == 2 and len(found.notes) == len(set(found.notes))
    assert found.numbers_of(found.screens[0]) == found.numbers_of(found.screens[1])


@pytest.mark.parametrize(
    ("notes", "text"),
    [((), ""), (("a",), "note 1"), (("a", "b"), "notes 1-2"), (("a", "c", "d", "e"), "notes 1, 3-5")],
)
def test_titles_name_their_notes(notes: tuple[str, ...], text: str) -> None:
    grid = Grid("t", (), ())

    assert (
        Screens((Screen(grid, (), tuple("abcde")), Screen(grid, (), notes))).notes_text(Screen(grid, (), notes)) == text
    )


@pytest.mark.parametrize(("value", "text"), [(0.004, "<0.005x"), (0.005, "0.01x"), (0.0, "0.00x"), (1.2, "1.20x")])
def test_a_small_ratio_is_not_shown_as_none(value: float, text: str) -> None:
    assert ratio(value).text == text


def test_latex_escapes_what_it_would_act_on() -> None:
    assert latex_text("a_b & 5 % {x} \\input ~") == (
        "a\\_b \\& 5 \\% \\{x\\} \\textbackslash{}input \\textasciitilde{}"
    )
