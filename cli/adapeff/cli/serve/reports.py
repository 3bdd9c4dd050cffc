"""Pages of reports, built once until a job changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from adapeff.cli.render.page.page import MOST_TABLES_OF_A_PAGE, report_page
from adapeff.service.errors import SpecError
from adapeff.service.reporting.index import build_index
from adapeff.service.reporting.page_data import load_page
from adapeff.service.reporting.report import build_report
from adapeff.service.store import job_queries, sweeps
from adapeff.service.store.database import Database

_KEPT = 8


class Reports:
    """Builds one report at a time, and keeps the latest few."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._pages: OrderedDict[tuple[str | None, str | None], tuple[Hashable, str]] = OrderedDict()

    def page(self, sweep: str | None, view: str | None) -> str:
        """The page of a sweep's report.

        Args:
            sweep: its name, or the id of a submission; None: all jobs.
            view: only this view; None: all.

        Raises:
            JobError: if there is no such sweep.
            SpecError: if it has too many tables for a page.
        """
        with self._lock:
            with self._database.session(read_only=True) as session:
                sweep_ids = None if sweep is None else sweeps.find_sweep_ids(session, sweep)
                version = job_queries.last_change(session), tuple(sweep_ids or ())
                known = self._pages.get((sweep, view))
                if known is not None and known[0] == version:
                    self._pages.move_to_end((sweep, view))
                    return known[1]
                count = len(build_index(session, sweep_ids=sweep_ids).lines)
                if count > MOST_TABLES_OF_A_PAGE:
                    raise SpecError(f"{count:,} tables are too many for a page; choose a sweep, or use adapeff report")
                report = build_report(session, sweep_ids=sweep_ids)
                data = load_page(session, report, views=None if view is None else [view])
            page = report_page(report, data, f"adapeff report: {sweep or 'all jobs'}", home="/")
            self._pages[sweep, view] = version, page
            if len(self._pages) > _KEPT:
                self._pages.popitem(last=False)
            return page
