"""The first look: what was spent today, in the last 7 and the last 30 days, and on what.

Rule 1: a day is a calendar day in the asker's time zone; "7 days" is today and the six days before it.
Rule 2: the days add up to the figures: both come from one answer. Where nothing happened in the last 30 days, as after
        an import, the days are the 30 up to the last call instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any, Final

from .asking import BadQuestion, moment, time_zone
from .measures import EMPTY, Measures, time_text
from .spend import Report, first_and_last, spend, unpriced_reasons
from .tasks import TopTasks, top_tasks

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = ["PERIODS", "Overview", "overview"]

PERIODS: Final = {"today": 1, "7d": 7, "30d": 30, "all": None}
"""The spans of days the tables can show."""

_DAYS: Final = 30
_TABLE_ROWS: Final = 10
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Overview:
    """``days`` holds 30 days, oldest first; ``tables`` and ``tasks`` the dearest rows of ``period``."""

    period: str
    tz: str
    days: tuple[tuple[str, Measures], ...]
    figures: Mapping[str, Measures]
    tables: Mapping[str, Report]
    tasks: TopTasks
    reasons: Sequence[tuple[str, int]]
    first_and_last: tuple[int, int] | None

    def to_json(self) -> dict[str, Any]:
        first_us, last_us = self.first_and_last or (None, None)
        return {
            "period": self.period,
            "tz": self.tz,
            "first_at": time_text(first_us),
            "last_at": time_text(last_us),
            "figures": {name: measures.to_full_json() for name, measures in self.figures.items()},
            "days": [{"day": day} | measures.to_full_json() for day, measures in self.days],
            "tables": {
                name: {
                    "rows": [{name: row.keys[0]} | row.measures.to_full_json() for row in report.rows],
                    "total": report.total.to_full_json(),
                    "more_rows": report.group_count - len(report.rows),
                }
                for name, report in self.tables.items()
            }
            | {
                "task": {
                    "rows": [
                        {"task": row.task, "sub_tasks": row.sub_tasks} | row.measures.to_full_json()
                        for row in self.tasks.rows
                    ],
                    "total": self.tables["model"].total.to_full_json(),
                    "more_rows": self.tasks.task_count - len(self.tasks.rows),
                }
            },
            "unpriced_reasons": [{"reason": reason, "calls": calls} for reason, calls in self.reasons],
        }


def overview(queries: Queries, *, now: datetime, tz: str = "UTC", period: str = "30d") -> Overview:
    """Spend of 30 days, day by day, and the tables by model, agent and top task of ``period``."""
    if period not in PERIODS:
        raise BadQuestion("period", f"period {period!r} is not known; choose from {', '.join(PERIODS)}")
    zone = time_zone(tz)
    today = now.astimezone(zone).date()
    days = _days(queries, today, now, zone, tz)
    figures = {name: sum((m for _, m in days[-count:]), EMPTY) for name, count in PERIODS.items() if count}
    known = first_and_last(queries)
    if known is not None and not figures["30d"].attempts:
        last_day = (_EPOCH + timedelta(microseconds=known[1])).astimezone(zone).date()
        days = _days(queries, last_day, now, zone, tz)
    length = PERIODS[period]
    since = None if length is None else moment("since", _day(today, length - 1), now=now, zone=zone)
    tables = {name: spend(queries, by=[name], since=since, limit=_TABLE_ROWS) for name in ("model", "agent")}
    return Overview(
        period=period,
        tz=tz,
        days=days,
        figures=figures,
        tables=tables,
        tasks=top_tasks(queries, since=since, limit=_TABLE_ROWS),
        reasons=unpriced_reasons(queries, since=since) if tables["model"].total.unpriced_calls else (),
        first_and_last=known,
    )


def _days(queries: Queries, last: date, now: datetime, zone: tzinfo, tz: str) -> tuple[tuple[str, Measures], ...]:
    """The figures of each of the 30 days up to the last one, oldest first."""
    names = [_day(last, back) for back in reversed(range(_DAYS))]
    since, until = (moment("since", name, now=now, zone=zone) for name in (names[0], _day(last, -1)))
    by_day = {row.keys[0]: row.measures for row in spend(queries, by=["day"], since=since, until=until, tz=tz).rows}
    return tuple((name, by_day.get(name, EMPTY)) for name in names)


def _day(day: date, back: int) -> str:
    return (day - timedelta(days=back)).isoformat()
