"""IN lists of any length as a single bound parameter.

A statement may have 32,766 bound parameters on SQLite and 65,535 on PostgreSQL, but a sweep may have 100,000 jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session


def is_one_of(session: Session, column: InstrumentedAttribute[Any], values: Iterable[int | str]) -> ColumnElement[bool]:
    """The condition that a column's value is one of `values`: `= ANY(array)` on PostgreSQL, `json_each` on SQLite."""
    distinct = list(dict.fromkeys(values))
    if session.get_bind().dialect.name == "postgresql":
        return column == any_(bindparam(None, distinct, type_=ARRAY(column.type)))
    return column.in_(select(func.json_each(json.dumps(distinct)).table_valued("value").c.value))
