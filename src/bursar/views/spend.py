"""What was spent, by whom and on what.

Rule 1: rows are ordered by cost, dearest first; by time when the first column is a time, newest first.
        What has no known cost comes before what is known to cost nothing: it may be the dearest of all.
Rule 2: the total is over everything that matches, also what the limit leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ._sql import statement
from .asking import COLUMNS, TIMES, Filter, check_by, make_filter, time_zone
from .measures import Measures

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = ["DEAREST_FIRST", "ROWS_MAX", "Report", "Row", "first_and_last", "spend", "unpriced_reasons"]

ROWS_MAX: Final = 1_000_000
"""The most rows one answer holds."""

DEAREST_FIRST: Final = (
    "CASE WHEN cost_nanousd > 0 THEN 0 WHEN unpriced_calls > 0 THEN 1 ELSE 2 END",
    "coalesce(cost_nanousd, 0) DESC",
    "calls DESC",
)
"""How groups with measures are ordered, as SQL."""


@dataclass(frozen=True, slots=True)
class Row:
    """One group: the values of the columns it was grouped by, in order, and its figures."""

    keys: tuple[str, ...]
    measures: Measures


@dataclass(frozen=True, slots=True)
class Report:
    """Spend by some columns. ``group_count`` counts all groups, also those past the limit."""

    by: tuple[str, ...]
    rows: tuple[Row, ...]
    total: Measures
    group_count: int

    def to_json(self) -> dict[str, Any]:
        """``{"rows": [...], "total": {...}}``; a row has its group columns and the figures of the total."""
        return {
            "rows": [dict(zip(self.by, row.keys, strict=True)) | row.measures.to_json() for row in self.rows],
            "total": self.total.to_json(),
        }


def spend(
    queries: Queries,
    *,
    by: Sequence[str],
    since: datetime | None = None,
    until: datetime | None = None,
    where: Mapping[str, str] | None = None,
    tz: str = "UTC",
    limit: int = ROWS_MAX,
) -> Report:
    """Spend from ``since`` to before ``until`` where columns have the given values, grouped ``by`` columns.

    Columns: those of ``asking.COLUMNS``, ``hour``, ``day``, ``month`` (in the time zone ``tz``), ``label:NAME``.
    Raises BadQuestion that names the part of the question that cannot be asked.
    """
    check_by(by)
    time_zone(tz)
    matching = make_filter(since, until, where or {})
    parameters: dict[str, Any] = {**matching.parameters, "limit": max(0, min(limit, ROWS_MAX))}
    fine_keys: list[str] = []
    keys: list[str] = []
    for number, name in enumerate(by):
        if name in TIMES:
            parameters["tz"] = tz
            fine_keys.append(f"time_bucket(INTERVAL 15 MINUTE, started_at) AS key_{number},")
            local = f"timezone($tz, timezone('UTC', key_{number}))"
            keys.append(f"strftime(date_trunc('{name}', {local}), '{TIMES[name]}') AS key_{number},")
            continue
        column = COLUMNS.get(name)
        if column is None:
            parameters[f"label_{number}"] = name.partition(":")[2]
            column = f"coalesce(map_extract_value(labels, $label_{number}), '')"
        fine_keys.append(f"{column} AS key_{number},")
        keys.append(f"key_{number},")
    names = [f"key_{number}" for number in range(len(by))]
    ordering = [f"{names[0]} DESC", *DEAREST_FIRST, *names[1:]] if by and by[0] in TIMES else [*DEAREST_FIRST, *names]
    sql = statement(
        "spend",
        "spend",
        fine_keys=" ".join(fine_keys),
        keys=" ".join(keys),
        measures=statement("spend", "measures"),
        condition=matching.condition,
        ordering=", ".join(ordering),
    )
    *groups, total = queries.rows(sql, parameters)
    return Report(
        by=tuple(by),
        rows=tuple(Row(tuple(row[name] for name in names), Measures.of(row)) for row in groups if by),
        total=Measures.of(total),
        group_count=total["group_count"] if by else 0,
    )


def unpriced_reasons(
    queries: Queries,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    where: Mapping[str, str] | None = None,
    limit: int = 5,
) -> tuple[tuple[str, int], ...]:
    """Why matching attempts have no price, and how many each: most frequent first. Rollups keep no reasons."""
    matching: Filter = make_filter(since, until, where or {})
    sql = statement("spend", "unpriced_reasons", condition=matching.condition)
    rows = queries.rows(sql, {**matching.parameters, "limit": limit})
    return tuple((row["reason"], row["calls"]) for row in rows)


def first_and_last(queries: Queries) -> tuple[int, int] | None:
    """When the ledger's first and last attempts started (microseconds since 1970 UTC); None when it is empty."""
    (row,) = queries.rows(statement("spend", "first_and_last"))
    return None if row["first_us"] is None else (row["first_us"], row["last_us"])
