"""The time spans over which a budget counts.

Rule 1: a call belongs to the window in which its money was held (an observed call: in which it started). Its settlement
        is posted there however late it comes, so that a window never changes hands while a call runs.
Rule 2: every instant lies in exactly one window of a kind: windows follow each other without gap or overlap.
Rule 3: calendar windows are those of a time zone's clock. A day is as long as that clock makes it (23 to 25 hours where
        daylight saving changes); a week begins on Monday; the hour that a clock shows twice is two windows.
Rule 4: a rolling window is ``PARTS`` parts and the one that is filling: money comes back a part at a time, up to
        1/``PARTS`` of the window late, never early.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Final, Literal, TypeAlias

from .values import valueclass

__all__ = ["CALENDAR_KINDS", "PARTS", "Span", "Window", "WindowKind", "parse_window"]

WindowKind: TypeAlias = Literal["hour", "day", "week", "month", "quarter", "year", "rolling", "lifetime"]

CALENDAR_KINDS: Final = ("hour", "day", "week", "month", "quarter", "year")
PARTS: Final = 60

_US: Final = 1_000_000
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_ROLLING: Final = re.compile(r"(\d{1,7})([smhdw])")
_ROLLING_MIN_S: Final = 60
_ROLLING_MAX_S: Final = 366 * 86_400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@valueclass
class Span:
    """From ``start_us`` until just before ``end_us``, microseconds since 1970 UTC; None: without end."""

    start_us: int
    end_us: int | None


@valueclass
class Window:
    """A kind of window. ``text`` is how a person writes it; ``length_us`` is that of a rolling one, else 0."""

    kind: WindowKind
    text: str
    zone: tzinfo = timezone.utc
    length_us: int = 0

    def span(self, at_us: int) -> Span:
        """The window that an instant lies in; of a rolling one, the part that is posted to."""
        if self.kind == "lifetime":
            return Span(0, None)
        if self.kind == "rolling":
            part = self.part_us
            start = at_us - at_us % part
            return Span(start, start + part)
        local = _utc(at_us).astimezone(self.zone)
        if self.kind == "hour":
            past = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
            start = at_us - past // timedelta(microseconds=1)
            return Span(start, start + 3_600 * _US)
        first = _first_day(self.kind, local)
        return Span(self._midnight(first), self._midnight(_next_first_day(self.kind, first)))

    @property
    def part_us(self) -> int:
        """How long one part of a rolling window is, in whole seconds."""
        return -(-self.length_us // (PARTS * _US)) * _US

    def first_part(self, at_us: int) -> Span:
        """The oldest part that a rolling window ending at ``at_us`` touches."""
        start = (at_us - self.length_us) // self.part_us * self.part_us
        return Span(start, start + self.part_us)

    def rolling_spans(self, at_us: int) -> tuple[Span, ...]:
        """The parts that share a rolling window with ``at_us``, oldest first: those before it, and those after it, in which
        something is entered where a clock went back or a stream has been running since."""
        part = self.part_us
        starts = range(self.first_part(at_us).start_us, at_us + self.length_us + 1, part)
        return tuple(Span(start, start + part) for start in starts)

    def _midnight(self, day: datetime) -> int:
        # Where a day begins with an hour that does not exist, this is the moment at which the clock jumps.
        return _us(datetime(day.year, day.month, day.day, tzinfo=self.zone))


def parse_window(text: str, zone: tzinfo = timezone.utc) -> Window:
    """``day``, ``month``, ``90m``, ``24h``, ``lifetime``, ... Raises ValueError that says what is possible."""
    name = text.strip().lower()
    if name == "lifetime":
        return Window("lifetime", "lifetime")
    for kind in CALENDAR_KINDS:
        if name == kind:
            return Window(kind, kind, zone)
    found = _ROLLING.fullmatch(name)
    if found is None:
        raise ValueError(
            f"{text!r} is no window: use {', '.join(CALENDAR_KINDS)}, lifetime, or a rolling one such as 90m, 24h, 7d"
        )
    seconds = int(found[1]) * _UNIT_S[found[2]]
    if not _ROLLING_MIN_S <= seconds <= _ROLLING_MAX_S:
        raise ValueError(f"a rolling window of {text!r} is not possible: it must be from 1m to 366d")
    return Window("rolling", name, timezone.utc, seconds * _US)


def _first_day(kind: str, local: datetime) -> datetime:
    day = datetime(local.year, local.month, local.day)  # noqa: DTZ001 - a calendar date; _midnight gives it its zone
    match kind:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(month=day.month - (day.month - 1) % 3, day=1)
        case _:
            return day.replace(month=1, day=1)


def _next_first_day(kind: str, first: datetime) -> datetime:
    match kind:
        case "day":
            return first + timedelta(days=1)
        case "week":
            return first + timedelta(days=7)
        case _:
            months = {"month": 1, "quarter": 3}.get(kind, 12)
            year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
            return first.replace(year=year, month=month + 1)


def _utc(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)


def _us(moment: datetime) -> int:
    return (moment.astimezone(timezone.utc) - _EPOCH) // timedelta(microseconds=1)
