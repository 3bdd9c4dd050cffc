"""The report on stored runs: averages, comparisons and output."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from adapeff.cli.render.markdown import report_markdown, target_grids
from adapeff.service.reporting.columns import Price
from adapeff.service.reporting.export import open_export
from adapeff.service.reporting.notes import table_notes
from adapeff.service.reporting.profiles import build_profiles
from adapeff.service.reporting.report import Options, Report, build_report
from adapeff.service.reporting.rows import report_rows
from adapeff.service.specs.expansion import expand
from adapeff.service.specs.sweep_file import parse_sweep
from adapeff.service.store import job_creation, job_queries, results, sweeps
from adapeff.service.store.database import Database, upgrade
from adapeff.service.store.jobs import RunOutcome
from adapeff.service.store.results import RunResults
from adapeff.service.store.tables import Run
from tests.factories import claimer, spec
from tests.integration.stored import store_profile

GOLDEN = Path(__file__).parent / "report.md"


@pytest.fixture
def database() -> Iterator[Database]:
    """An empty migrated database in memory."""
    opened = Database("sqlite://")
    upgrade(opened)
    yield opened
    opened.close()


def store(database: Database, method: str, seed: int, accuracy: float, seconds: float, **changes: object) -> None:
    """A finished run."""
    device = str(changes.pop("device_name", "Test CPU"))
    revision = changes.pop("revision", "abc")
    repeat = changes.pop("repeat", 0)
    disturbed: Any = changes.pop("disturbed", {})
    environment: Any = changes.pop("environment", {})
    curves: Any = changes.pop("curves", {})
    events: Any = changes.pop("events", ())
    figures: Any = changes.pop("figures", {})
    resolved: Any = {"model_revision": revision, **changes.pop("resolved", {})}  # type: ignore[dict-item]
    german, noise = float(str(changes.pop("german", 0.51))), changes.pop("noise", None)
    wanted = spec(seed, methods=[method], **{"settings": {"test_languages": ["en", "de"]}, **changes})
    wanted = wanted.model_copy(update={"repeat": repeat})
    with database.session() as session:
        (job_id,), _ = job_creation.create_jobs(session, [wanted], priority=5, max_failures=3)
    claim = claimer(database)(job_id)
    assert claim is not None
    found = RunResults(environment={"device_name": device, "precision": "fp32", "torch": "2.13.0", "torch_threads": 1})
    found.environment |= environment
    for event in events:
        found.take(event)
    for name, points in curves.items():
        found.take({"event": "curve", "name": name, "points": points})
    if curves:
        best = {"event": "measurement", "name": "accuracy", "value": accuracy, "unit": "1", "split": "validation"}
        found.take({**best, "language": "en"})
    for language, score in (("en", accuracy), ("de", german)):
        where: dict[str, Any] = {"language": language, "split": "test"}
        for name, value in (("accuracy", score), ("majority_accuracy", 0.5), ("examples", 400)):
            found.take({"event": "measurement", "name": name, "value": value, "unit": "1", **where})
        if noise is not None:
            found.take({"event": "measurement", "name": "noise_accuracy", "value": noise, "unit": "1", **where})
    single = {
        "train_compute_s": (seconds, "s"),
        "wall_s": (2 * seconds, "s"),
        "stored_bytes": (2**20 if method == "full" else 2**15, "B"),
        "trainable_parameters_method": (1000 if method == "full" else 10, "1"),
        "trainable_parameters_head": (5, "1"),
        "peak_memory_process_bytes": (2**30 * seconds / 100, "B"),
        **figures,
    }
    for name, (value, unit) in single.items():
        found.take({"event": "measurement", "name": name, "value": value, "unit": unit})
    reason = {"value": None, "unit": "B", "reason": "torch keeps no allocator statistics on a CPU"}
    found.take({"event": "measurement", "name": "peak_memory_allocated_bytes", **reason})
    for batch, latency in ((1, 0.02), (32, 0.5)):
        where = {"batch": batch, "length": 64, "statistic": "p50"}
        found.take({"event": "measurement", "name": "latency_s", "value": latency, "unit": "s", **where})
    for phase, reason in disturbed.items():
        event = {"event": "measurement", "name": "disturbance", "value": 1, "unit": "1", "phase": phase}
        found.take({**event, "reason": reason})
    with database.session() as session:
        results.finish(session, claim, RunOutcome("succeeded", resolved=resolved), found)


def report(database: Database) -> Report:
    with database.session(read_only=True) as session:
        return build_report(session)


def test_figures_are_means_over_seeds_beside_the_reference(database: Database) -> None:
    for seed, (score, seconds) in enumerate([(0.80, 100), (0.84, 110), (0.82, 90)]):
        store(database, "full", seed, score, seconds)
        store(database, "lora", seed, score - 0.02, seconds / 2)

    (table,) = report(database).tables
    full, lora = table.rows

    assert full.cells["quality"].summary is not None and lora.cells["train_compute_s"].summary is not None
    assert full.cells["quality"].summary.mean == pytest.approx(0.82)
    assert full.cells["quality"].summary.low == pytest.approx(0.82 - 4.3027 * 0.02 / 3**0.5, abs=1e-5)
    assert lora.cells["train_compute_s"].ratio is None
    assert lora.cells["stored_bytes"].ratio == pytest.approx(1 / 32)
    assert table.languages["de"]["lora"].at_chance
    assert not table.languages["en"]["lora"].at_chance


@pytest.mark.parametrize(
    "other",
    [{"device_name": "Other CPU"}, {"revision": "def"}, {"models": ["org/other"]}, {"tasks": ["offline_nli"]}],
    ids=str,
)
def test_unlike_runs_are_never_averaged(database: Database, other: dict[str, object]) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "full", 1, 0.9, 10, **other)

    tables = report(database).tables

    assert len(tables) == 2
    for table in tables:
        summary = table.rows[0].cells["quality"].summary
        assert summary is not None and summary.n == 1


def test_unlike_runs_say_in_what_they_differ_and_are_put_together_when_asked(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.7, 50, device_name="Other CPU")

    apart = report(database).tables
    with database.session(read_only=True) as session:
        (mixed,) = build_report(session, options=Options(allow_mixed=True)).tables

    assert len(apart) == 2
    assert all(table.differs == ("device_name: Test CPU / Other CPU",) for table in (*apart, mixed))
    assert [row.method for row in mixed.rows] == ["full", "lora"]
    assert mixed.rows[1].cells["peak_memory_process_bytes"].ratio == 0.5
    assert any("differ in device_name: Test CPU / Other CPU" in note for note in table_notes(mixed))


def test_a_new_release_alone_splits_no_table_but_a_changed_figure_does(database: Database) -> None:
    store(database, "full", 0, 0.8, 100, environment={"adapeff": "0.1.0", "git_revision": "a" * 40})
    store(database, "lora", 0, 0.7, 50, environment={"adapeff": "0.2.0", "git_revision": "b" * 40, "git_dirty": True})
    (table,) = report(database).tables

    assert [row.method for row in table.rows] == ["full", "lora"]
    assert table.revisions == ("0.1.0 at aaaaaaa", "0.2.0 at bbbbbbb with changes")
    assert not table.differs

    versions = {"majority_<metric>": 2, "peak_memory_allocated_bytes": 2, "train_compute_s": 2}
    store(database, "head", 0, 0.7, 50, resolved={"measurement_versions": versions})
    store(database, "bitfit", 0, 0.7, 50, resolved={"measurement_versions": {**versions, "train_compute_s": 3}})

    apart = report(database).tables
    assert [[row.method for row in table.rows] for table in apart] == [["full", "lora"], ["head"], ["bitfit"]]
    assert "version of train_compute_s: None / 2 / 3" in apart[0].differs


def test_tuned_runs_are_rows_of_their_own_held_against_the_untuned_reference(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.7, 50)
    tuning = {"learning_rate": [1e-4, 1e-3], "trials": 2}
    store(database, "lora", 0, 0.75, 50, settings={"test_languages": ["en", "de"], "tuning": tuning})

    (table,) = report(database).tables

    assert [row.method for row in table.rows] == ["full", "lora", "lora (tuned, 2 trials)"]
    assert table.has_reference
    assert table.rows[2].learning_rate_source == "tuned"
    assert table.rows[2].cells["tuning_compute_s"].reason == "not measured"
    assert table.rows[2].cells["peak_memory_process_bytes"].ratio == 0.5


def test_tuned_methods_stand_beside_the_reference_tuned_alike_and_unlike_searches_apart(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    for method, seconds in (("full", 200), ("lora", 50)):
        for rates in ([1e-4, 1e-3], [1e-4, 1e-3, 1e-2]) if method == "lora" else ([1e-4, 1e-3],):
            tuning = {"learning_rate": rates, "trials": len(rates)}
            store(database, method, 0, 0.75, seconds, settings={"test_languages": ["en", "de"], "tuning": tuning})

    (table,) = report(database).tables
    ratios = {row.method: row.cells["peak_memory_process_bytes"].ratio for row in table.rows}

    assert ratios == {
        "full": 1,
        "full (tuned, 2 trials of 0.0001, 0.001)": 1,
        "lora (tuned, 2 trials of 0.0001, 0.001)": 0.25,
        "lora (tuned, 3 trials of 0.0001, 0.001, 0.01)": 0.5,
    }
    assert any("different searches" in note for note in table_notes(table))


def test_price_is_that_of_the_slots_time_in_its_unit(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.7, 50)
    with database.session(read_only=True) as session:
        (table,) = build_report(session, options=Options(price=Price(3.6, "EUR"))).tables

    assert [row.cells["price"].summary.mean for row in table.rows if row.cells["price"].summary] == pytest.approx(
        [0.2, 0.1]
    )
    assert table.rows[1].cells["price"].ratio is None
    assert next(column.heading for column in table.columns if column.key == "price") == "price of a run, EUR"
    assert "price" not in {column.key for column in report(database).tables[0].columns}


@pytest.mark.parametrize("which", ["full", "lora"])
def test_disturbed_time_has_no_ratio_whichever_side_it_is_on(database: Database, which: str) -> None:
    for method, seconds in (("full", 100), ("lora", 50)):
        told = {"inference": "other processes used 80% of the cores"} if method == which else {}
        store(database, method, 0, 0.8, seconds, disturbed=told)

    (table,) = report(database).tables
    lora = table.rows[1]

    assert lora.cells["latency_b1"].ratio is None
    assert lora.cells["latency_b1"].doubt == ("" if which == "full" else "other processes used 80% of the cores")
    assert lora.cells["stored_bytes"].ratio == pytest.approx(1 / 32)
    text = report_markdown(report(database))
    assert "20.0 ms !" in text
    rows = {row["method"]: row for row in report_rows(report(database)) if row["figure"] == "latency_b1"}
    assert "80% of the cores" in rows[which]["doubt"]
    assert rows["lora"]["ratio_to_reference"] is None


def test_time_measured_beside_another_run_has_no_ratio(database: Database) -> None:
    for method, seconds in (("full", 100), ("lora", 50)):
        store(database, method, 0, 0.8, seconds)
    with database.session() as session:
        runs = session.query(Run).order_by(Run.id).all()
        runs[1].started_at = runs[0].started_at  # both at once, on one host

    (table,) = report(database).tables

    assert table.rows[1].cells["train_compute_s"].ratio is None
    assert "next to another run" in table.rows[1].cells["train_compute_s"].doubt
    grids = [rows for title, _, rows in target_grids(table) if title.startswith("why")]
    assert all(row[1] == row[4] == "!" for rows in grids for row in rows)


SETTINGS = {"train_size": [64, 128], "batch_size": [8, 16]}


def test_rows_of_a_grid_can_be_told_apart(database: Database) -> None:
    for size, batch in product(*SETTINGS.values()):
        settings = {"test_languages": ["en", "de"], "train_size": size, "batch_size": batch}
        store(database, "lora[rank=4]", 0, 0.8, 10, settings=settings)

    rows = [row for row in report_rows(report(database)) if row["figure"] == "train_compute_s"]
    with database.session(read_only=True) as session:
        exported = [row for row in open_export(session).records() if row["name"] == "train_compute_s"]

    for found in (rows, exported):
        assert {(row["train_size"], row["batch_size"]) for row in found} == set(product(*SETTINGS.values()))
        assert {(row["method_name"], row["method_parameters"]) for row in found} == {("lora", '{"rank":4}')}
    assert {row["repeat"] for row in exported} == {0}
    titles = [table.title for table in report(database).tables]
    assert len(set(titles)) == 4
    assert any(title.endswith("64 training examples, batch_size 8") for title in titles)


def test_mixed_table_has_a_row_for_each_setting(database: Database) -> None:
    for size in (64, 128):
        store(database, "full", 0, 0.8, 10, settings={"test_languages": ["en", "de"], "train_size": size})
    with database.session(read_only=True) as session:
        (table,) = build_report(session, options=Options(allow_mixed=True)).tables

    assert {row.method for row in table.rows} == {"full (train_size 64)", "full (train_size 128)"}


def test_sweeps_name_stands_for_all_its_submissions(database: Database) -> None:
    for seeds in ([0], [0, 1]):
        raw = {"name": "mine", "models": ["org/model"], "tasks": ["offline_sentiment"], "methods": ["full"]}
        sweep = parse_sweep({**raw, "seeds": seeds})
        with database.session() as session:
            sweeps.submit(session, sweep, expand(sweep, data_root=None), max_failures=3)

    with database.session(read_only=True) as session:
        ids = sweeps.find_sweep_ids(session, "mine")
        assert ids == [1, 2] == sweeps.find_sweep_ids(session, None)
        assert sweeps.find_sweep_ids(session, "1") == [1]
        assert len(job_queries.list_jobs(session, sweep_ids=ids)) == 2
        (record,) = sweeps.list_sweeps(session)
        assert (record.name, record.submissions, record.states) == ("mine", [1, 2], {"queued": 2})
        assert sweeps.names_of(session, [1, 2]) == {1: ["mine"], 2: ["mine"]}


def test_storage_says_when_adapters_outweigh_a_whole_model(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "lora", 0, 0.7, 50)

    (table,) = report(database).tables

    assert any(note.endswith("(one multi-task model): lora 32.") for note in table_notes(table))


def test_other_settings_make_another_table(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "full", 0, 0.8, 100, settings={"test_languages": ["en", "de"], "epochs": 1})

    assert len(report(database).tables) == 2


def test_repeats_of_a_profile_are_held_against_each_other_while_the_meaning_of_its_figures_stays(
    database: Database,
) -> None:
    store_profile(database, {"lora": (0.7, 0.6, 0.8)}, versions={"step_ratio": 2})
    store_profile(database, {"lora": (0.5, 0.4, 0.6)})
    store_profile(database, {"lora": (0.6, 0.5, 0.7)})

    with database.session(read_only=True) as session:
        (profile,) = build_profiles(session)

    assert profile.reruns["lora"]["step ratio"].values == (0.5, 0.6)


def test_newest_repeat_of_a_seed_counts(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    store(database, "full", 0, 0.9, 100, repeat=1)

    (table,) = report(database).tables

    assert table.rows[0].cells["quality"].summary is not None
    assert table.rows[0].cells["quality"].summary.values == (0.9,)


def test_reruns_show_how_far_costs_lie_apart_and_whether_scores_are_equal(database: Database) -> None:
    for repeat, seconds in enumerate((100, 104, 98)):
        store(database, "full", 0, 0.8, seconds, repeat=repeat)
    store(database, "lora", 0, 0.7, 50)
    store(database, "lora", 0, 0.7 + 1e-16, 50, repeat=1)
    store(database, "houlsby", 0, 0.7, 50)
    store(database, "full", 0, 0.8, 500, repeat=3, device_name="Another CPU")

    table, elsewhere = report(database).tables
    full, lora = table.reruns

    assert (full.method, full.runs, full.unequal_scores) == ("full", 3, 0)
    assert full.spreads["train_compute_s"].values == (100, 104, 98)
    assert full.spreads["train_compute_s"].relative == pytest.approx(0.06)
    assert full.spreads["stored_bytes"].relative == 0
    assert (lora.runs, lora.unequal_scores) == (2, 1)
    assert elsewhere.reruns == ()
    (found,) = (
        row
        for row in report_rows(report(database))
        if row["figure"] == "rerun_spread_train_compute_s" and row["n"] == 3
    )
    assert found["values"] == [100, 104, 98]
    assert "| full | 0 | 3 | all 6 equal | 0.0 % |" in report_markdown(report(database))


def test_several_learning_rates_are_rows_of_their_own_and_no_reference(database: Database) -> None:
    for rate in (1e-4, 3e-4):
        settings = {"test_languages": ["en", "de"], "learning_rate": rate}
        store(database, "full", 0, 0.8, 100, settings=settings)

    (table,) = report(database).tables

    assert [row.method for row in table.rows] == ["full lr 0.0001", "full lr 0.0003"]
    assert not table.has_reference
    assert all(cell.ratio is None for row in table.rows for cell in row.cells.values())


def test_missing_figure_says_why(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)

    rows = report_rows(report(database))

    (process,) = [row for row in rows if row["figure"] == "peak_memory_process_bytes"]
    assert process["mean"] == 2**30
    assert not [row for row in rows if row["figure"] == "peak_memory_allocated_bytes"]


def test_unfinished_jobs_are_counted(database: Database) -> None:
    store(database, "full", 0, 0.8, 100)
    with database.session() as session:
        job_creation.create_jobs(session, [spec(5), spec(6)], priority=5, max_failures=3)

    assert report(database).unfinished == {"queued": 2}


def test_markdown_is_as_reviewed(database: Database) -> None:
    """The whole text in a file a reviewer can read; rewrite it with ADAPEFF_TEST_REWRITE=1."""
    import os

    for seed in (0, 1):
        store(database, "full", seed, 0.80 + seed / 100, 100 + seed)
        store(database, "lora", seed, 0.78, 50)

    text = report_markdown(report(database))

    if os.environ.get("ADAPEFF_TEST_REWRITE"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_variant_of_a_method_is_named_in_full_on_the_terminal(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich must not take [rank=4] for markup."""
    from adapeff.cli.render.report_tables import print_report_tables

    store(database, "full", 0, 0.8, 100)
    store(database, "lora[rank=4]", 0, 0.8, 100)

    print_report_tables(report(database))

    assert "lora[rank=4]" in capsys.readouterr().out


def test_runs_that_shared_the_host_are_counted(database: Database) -> None:
    from sqlalchemy import text

    for seed in range(3):
        store(database, "full", seed, 0.8, 100)
    with database.session() as session:
        for run, (start, end) in enumerate([("10:00", "10:20"), ("10:10", "10:30"), ("10:30", "10:40")], start=1):
            moment = {"s": f"2026-01-01 {start}:00.000000", "e": f"2026-01-01 {end}:00.000000", "r": run}
            session.execute(text("UPDATE runs SET started_at = :s, finished_at = :e WHERE id = :r"), moment)

    (table,) = report(database).tables

    assert (table.side_by_side, table.runs) == (2, 3)


SENTIMENT, NLI = {"tasks": ["offline_sentiment"]}, {"tasks": ["offline_nli"]}


def test_tasks_run_alike_are_averaged_over_languages_and_tasks(database: Database) -> None:
    """Here German is 0.1 behind English. Seeds are summarised last, so that there is an interval."""
    for seed in range(3):
        store(database, "full", seed, 0.8 + seed / 100, 10, german=0.7 + seed / 100, **SENTIMENT)
        store(database, "full", seed, 0.6 + seed / 100, 10, german=0.5 + seed / 100, **NLI)
        store(database, "lora", seed, 0.7, 10, **SENTIMENT)

    found = report(database)

    (overview,) = found.overviews
    assert overview.tasks == ("offline_sentiment", "offline_nli")
    assert list(overview.methods) == ["full"]  # lora has no result for one of the tasks
    averages = overview.methods["full"]
    german = {"offline_sentiment": 0.71, "offline_nli": 0.51}
    assert {task: summary.mean for task, summary in averages.by_task.items()} == pytest.approx(german)
    assert {lang: summary.mean for lang, summary in averages.by_language.items()} == pytest.approx(
        {"en": 0.71, "de": 0.61}
    )
    assert averages.overall.mean == pytest.approx(0.61)
    assert averages.overall.values == pytest.approx((0.60, 0.61, 0.62))
    assert "Averages over the target languages of each task" in report_markdown(found)
    rows = [row for row in report_rows(found) if row["figure"] == "average"]
    assert {(row["task"], row["language"]) for row in rows} == {
        *(("offline_sentiment", ""), ("offline_nli", ""), ("", "en"), ("", "de"), ("", "")),
    }


def test_unlike_tasks_are_not_averaged(database: Database) -> None:
    store(database, "full", 0, 0.8, 10, **SENTIMENT)
    store(database, "full", 0, 0.6, 10, **NLI, settings={"test_languages": ["en", "de"], "epochs": 1})

    assert report(database).overviews == ()


def test_score_within_the_measured_noise_is_marked(database: Database) -> None:
    """The noise that a run measured counts, not the one a share of correct answers would have."""
    store(database, "full", 0, 0.58, 10, german=0.62, noise=0.1)

    (table,) = report(database).tables
    assert table.languages["en"]["full"].at_chance
    assert not table.languages["de"]["full"].at_chance
