"""adapeff's results for notebooks: the report as plain records, or as pandas frames where pandas is installed.

    from adapeff.service import api
    report = api.load_report("demo", where=["task=offline_nli"])
    api.frame(report, "quality")

The database is that of the settings, as for the command line: the project's folder, the environment, or what you pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapeff.service.errors import ConfigError, SpecError, suggest
from adapeff.service.reporting.grids import grid_rows
from adapeff.service.reporting.report import Options, Report, build_report
from adapeff.service.reporting.rows import report_rows
from adapeff.service.reporting.selection import Selection
from adapeff.service.reporting.views import VIEWS, build_view
from adapeff.service.settings import load_settings
from adapeff.service.store import sweeps
from adapeff.service.store.database import open_database

if TYPE_CHECKING:
    import pandas

__all__ = ["figures", "frame", "load_report", "records"]


def load_report(
    *names: str,
    where: Sequence[str] = (),
    reference: str = "full",
    metric: str = "",
    margin: float | None = None,
    allow_mixed: bool = False,
    **settings: Any,
) -> Report:
    """Build the report of some sweeps, or of all finished jobs if none is named.

    Args:
        names: sweeps by name, or submissions by id.
        where: conditions as for `adapeff report --where`.
        reference: the method that the others are compared with.
        metric: compare by this metric; '' for each task's headline metric.
        margin: of non-inferiority, in the stored unit of the metric (0.01 is one point).
        allow_mixed: put runs under different conditions into one table.
        settings: adapeff's settings by name, such as `state_dir` or `database_url`.

    Raises:
        AdapeffError: for an unknown sweep, a malformed condition, or a database that cannot be read.
    """
    options = Options(allow_mixed, None, reference, metric, margin, Selection.parse(where))
    database = open_database(load_settings(settings).values)
    try:
        with database.session(read_only=True) as session:
            sweep_ids = sweeps.find_sweeps(session, names) if names else None
            return build_report(session, sweep_ids=sweep_ids, options=options)
    finally:
        database.close()


def records(report: Report, view: str = "summary") -> list[dict[str, Any]]:
    """The rows of a view: numbers in stored units (shares, seconds, bytes), intervals as `..._low` and `..._high`.

    Raises:
        SpecError: if there is no view of that name.
    """
    if view not in VIEWS:
        raise SpecError(f"there is no view '{view}'; {suggest(view, VIEWS)}")
    return grid_rows(build_view(report, view))


def figures(report: Report) -> list[dict[str, Any]]:
    """Every figure of the report in long form, as `adapeff report --json` prints it."""
    return report_rows(report)


def frame(report: Report, view: str = "summary") -> pandas.DataFrame:
    """The rows of a view as a pandas frame.

    Raises:
        ConfigError: if pandas is not installed.
        SpecError: if there is no view of that name.
    """
    try:
        import pandas  # an optional dependency
    except ModuleNotFoundError as error:
        raise ConfigError("frames need pandas; run pip install pandas, or use records()") from error
    return pandas.DataFrame(records(report, view))
