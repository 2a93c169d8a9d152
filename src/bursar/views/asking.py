"""What people may ask: columns to group and filter by, and points in time.

Rule 1: columns come from a closed set; anything else is refused with the list of what is allowed.
Rule 2: ``since`` is inclusive, ``until`` exclusive. A date means its first moment in the asker's time zone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Final, TypedDict

__all__ = ["COLUMNS", "TIMES", "BadQuestion", "Filter", "Span", "check_by", "make_filter", "moment", "time_zone"]

COLUMNS: Final[dict[str, str]] = {
    "model": "model",
    "agent": "agent",
    "task": "task",
    "session": "session",
    "user": '"user"',
    "team": "team",
    "org": "org",
    "project": "project",
    "provider": "provider",
    "key": "key",
    "door": "door",
    "kind": "kind",
    "status": "status",
    "parent_task": "parent_task",
    "rung": "rung",
    "cache": "cache",
}
"""What spend can be grouped and filtered by, as SQL."""

TIMES: Final[dict[str, str]] = {"hour": "%Y-%m-%dT%H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}
"""The lengths of time spend can be grouped by, with how each is written."""

_BY_MAX: Final = 6
_RELATIVE: Final = re.compile(r"(\d{1,5})([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class BadQuestion(ValueError):  # noqa: N818 -- a question that cannot be asked; "Error" would say it failed
    """A question that cannot be asked: ``field`` names the part of it, the text says the way out."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Span(TypedDict):
    """Which attempts a question is about, as the keyword arguments that the views of spend and tasks share."""

    since: datetime | None
    until: datetime | None
    where: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition in SQL and its parameters."""

    condition: str
    parameters: Mapping[str, str]


def check_by(by: Sequence[str]) -> None:
    """Raise BadQuestion unless every name can be grouped by, each once."""
    for name in by:
        if name not in COLUMNS and name not in TIMES and not _label(name):
            raise BadQuestion("by", f"cannot group by {name!r}; choose from {_allowed(*COLUMNS, *TIMES)}")
        if by.count(name) > 1:
            raise BadQuestion("by", f"{name!r} is given twice; give each column once")
    if len(by) > _BY_MAX:
        raise BadQuestion("by", f"{len(by)} columns to group by; at most {_BY_MAX} at once")


def make_filter(since: datetime | None, until: datetime | None, where: Mapping[str, str]) -> Filter:
    """The condition for attempts that started in the time span and have the given column values."""
    conditions: list[str] = []
    parameters: dict[str, str] = {}
    for name, operator, at in (("since", ">=", since), ("until", "<", until)):
        if at is not None:
            conditions.append(f"started_at {operator} CAST(${name} AS TIMESTAMP)")
            parameters[name] = at.astimezone(timezone.utc).replace(tzinfo=None).isoformat()
    if since is not None and until is not None and since >= until:
        raise BadQuestion("until", f"until {until.isoformat()} is not after since {since.isoformat()}")
    for number, (name, value) in enumerate(where.items()):
        column = COLUMNS.get(name)
        if column is None and (label := _label(name)):
            parameters[f"where_label_{number}"] = label
            column = f"coalesce(map_extract_value(labels, $where_label_{number}), '')"
        if column is None:
            raise BadQuestion("where", f"cannot filter by {name!r}; choose from {_allowed(*COLUMNS)}")
        conditions.append(f"{column} = $where_{number}")
        parameters[f"where_{number}"] = value
    return Filter(" AND ".join(conditions) or "TRUE", parameters)


def time_zone(name: str) -> tzinfo:
    """The time zone of an IANA name. Raises BadQuestion when it is not known here."""
    if name == "UTC":
        return timezone.utc
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadQuestion("tz", f"time zone {name!r} is not known; use an IANA name such as Europe/Berlin") from None


def moment(field: str, text: str, *, now: datetime, zone: tzinfo) -> datetime:
    """The point in time that ``today``, ``yesterday``, ``month``, ``7d``, ``24h`` or an ISO date or time means.

    ``7d`` and ``4w`` are days before now to the moment, ``month`` is the first of the current month. Text without an
    offset is in ``zone``. Raises BadQuestion.
    """
    today = now.astimezone(zone).date()
    match text:
        case "now":
            return now
        case "today":
            return _midnight(today, zone)
        case "yesterday":
            return _midnight(today - timedelta(days=1), zone)
        case "month":
            return _midnight(today.replace(day=1), zone)
        case _:
            pass
    try:
        if match := _RELATIVE.fullmatch(text):
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise BadQuestion(
            field,
            f"{field} {text!r} is not a time; use 2026-01-31, 2026-01-31T12:00, today, yesterday, month, 7d or 24h",
        ) from None


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(timezone.utc)


def _label(name: str) -> str:
    kind, _, label = name.partition(":")
    return label if kind == "label" else ""


def _allowed(*names: str) -> str:
    return ", ".join((*names, "label:NAME"))
