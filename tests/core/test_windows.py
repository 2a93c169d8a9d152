"""The windows of budgets: edges, time zones, daylight saving, leap days, rolling parts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.windows import CALENDAR_KINDS, PARTS, Window, parse_window

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Cairo",
    "America/Havana", "Pacific/Apia", "Asia/Kathmandu", "America/St_Johns",
)  # fmt: skip
HOUR_US = 3_600_000_000


def us(text: str, zone: str = "UTC", fold: int = 0) -> int:
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return round(local.timestamp()) * 1_000_000


def window(text: str, zone: str = "UTC") -> Window:
    return parse_window(text, ZoneInfo(zone))


@given(
    kind=st.sampled_from([kind for kind in CALENDAR_KINDS if kind != "hour"]),
    zone=st.sampled_from(ZONES),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(timezone.utc)),
)
def test_every_instant_lies_in_one_window(kind: str, zone: str, at: datetime) -> None:
    """A window contains its instant, begins where the one before ends, and is the same for its first and last moment."""
    at_us = (at - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
    made = window(kind, zone)
    span = made.span(at_us)
    assert span.end_us is not None
    assert span.start_us <= at_us < span.end_us
    assert made.span(span.start_us) == made.span(span.end_us - 1) == span
    assert made.span(span.start_us - 1).end_us == span.start_us
    assert made.span(span.end_us).start_us == span.end_us


@pytest.mark.parametrize(
    ("kind", "zone", "at", "start", "end"),
    [
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-29T00:00", "2026-03-30T00:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:00", "2026-10-26T00:00"),
        ("week", "Europe/Berlin", "2026-11-25T21:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "Asia/Kolkata", "2028-02-29T23:59", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("month", "America/New_York", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("quarter", "UTC", "2026-11-25T00:00", "2026-10-01T00:00", "2027-01-01T00:00"),
        ("year", "Pacific/Apia", "2028-02-29T10:00", "2028-01-01T00:00", "2029-01-01T00:00"),
    ],
)
def test_edges(kind: str, zone: str, at: str, start: str, end: str) -> None:
    """Calendar windows begin and end at local midnights."""
    span = window(kind, zone).span(us(at, zone))
    assert (span.start_us, span.end_us) == (us(start, zone), us(end, zone))


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_is_as_long_as_its_clock_makes_it(day: str, hours: int) -> None:
    """Where daylight saving changes a day has 23 or 25 hours."""
    span = window("day", "Europe/Berlin").span(us(f"{day}T12:00", "Europe/Berlin"))
    assert span.end_us is not None
    assert span.end_us - span.start_us == hours * HOUR_US


def test_a_day_whose_midnight_does_not_exist_begins_when_the_clock_jumps() -> None:
    """Cairo's clock goes from 23:59 to 01:00 on 2026-04-24: the day has no 00:00."""
    span = window("day", "Africa/Cairo").span(us("2026-04-24T12:00", "Africa/Cairo"))
    assert span.start_us == us("2026-04-24T01:00", "Africa/Cairo")
    assert span.end_us is not None
    assert span.end_us - span.start_us == 23 * HOUR_US


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    """At the end of daylight saving 02:30 is there twice, an hour apart, in windows of their own."""
    hour = window("hour", "Europe/Berlin")
    first, second = (hour.span(us("2026-10-25T02:30", "Europe/Berlin", fold=fold)) for fold in (0, 1))
    assert first.end_us == second.start_us
    assert second.start_us - first.start_us == HOUR_US


def test_hours_follow_the_zones_clock() -> None:
    """In a zone half an hour off, an hour begins at its own full hour."""
    span = window("hour", "Asia/Kolkata").span(us("2026-01-01T10:59", "Asia/Kolkata"))
    assert span.start_us == us("2026-01-01T10:00", "Asia/Kolkata")


@given(minutes=st.integers(1, 10_000), at=st.integers(10**15, 4 * 10**15))
def test_a_rolling_window_covers_its_whole_length(minutes: int, at: int) -> None:
    """The parts follow each other and reach the whole length back and forth, and at most one part more."""
    made = window(f"{minutes}m")
    spans = made.rolling_spans(at)
    assert len(spans) <= 2 * PARTS + 3
    assert all(a.end_us == b.start_us for a, b in pairwise(spans))
    assert spans[0].start_us <= at - made.length_us < (spans[0].end_us or 0)
    assert made.span(at) in spans
    assert spans[-1].start_us <= at + made.length_us < (spans[-1].end_us or 0)
    assert at - made.length_us - spans[0].start_us <= made.part_us


def test_lifetime_has_no_end() -> None:
    assert window("lifetime").span(123).end_us is None


@pytest.mark.parametrize("text", ["", "daily", "0m", "30s", "400d", "1y", "-5m", "9" * 20 + "m"])
def test_what_is_no_window_is_said_so(text: str) -> None:
    """The error names what was written."""
    with pytest.raises(ValueError, match="window"):
        parse_window(text)
