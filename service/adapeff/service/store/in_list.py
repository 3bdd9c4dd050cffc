"""IN lists of any length as one bound value.

A statement may carry 32,766 bound values on SQLite and 65,535 on PostgreSQL, and a sweep may have 100,000 jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session


def is_one_of(session: Session, column: InstrumentedAttribute[Any], values: Iterable[int | str]) -> ColumnElement[bool]:
    """Whether a column's value is among the given ones: `= ANY(array)` on PostgreSQL, `json_each` on SQLite."""
    distinct = list(dict.fromkeys(values))
    if session.get_bind().dialect.name == "postgresql":
        return column == any_(bindparam(None, distinct, type_=ARRAY(column.type)))
    return column.in_(select(func.json_each(json.dumps(distinct)).table_valued("value").c.value))
