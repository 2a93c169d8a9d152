"""The fields that price lists and overrides share: rates, dates, hours of the day.

Rule 1: a rate is exact: decimal text, never a number that may have lost digits on its way.
Rule 2: an error names the field and the bad value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final, TypeAlias, cast

from .money import Rate, parse_decimal
from .prices import BASIS

__all__ = ["Tiers", "clock_minutes", "day_text", "known_keys", "parse_rate"]

Tiers: TypeAlias = tuple[tuple[int, Rate], ...]

_DAILY: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_rate(unit: str, value: object, where: str) -> Tiers:
    """The tiers of one unit from ``"2.5"`` or ``{"base": "2.5", "tiers": [[200000, "5"]]}``. Raises ValueError."""
    at = f"{where}.{unit}"
    if unit not in BASIS:
        raise ValueError(f"{at}: unknown unit; known are {', '.join(BASIS)}")
    per = BASIS[unit]
    if isinstance(value, str):
        return ((0, _rate(value, per, at)),)
    if not isinstance(value, dict):
        raise ValueError(f'{at}: {value!r} is not a price: write decimal text, such as "2.50"')
    raw = cast("dict[str, Any]", value)
    known_keys(raw, frozenset({"base", "tiers"}), at)
    found: list[tuple[int, Rate]] = [(0, _rate(raw.get("base"), per, f"{at}.base"))]
    steps: Any = raw.get("tiers")
    if not isinstance(steps, list) or not steps:
        raise ValueError(f"{at}.tiers: {steps!r} is not a list of [tokens, price]")
    for step in cast("list[Any]", steps):
        if not isinstance(step, list) or len(cast("list[Any]", step)) != 2:
            raise ValueError(f"{at}.tiers: {step!r} is not [tokens, price]")
        start, price = cast("list[Any]", step)
        if type(start) is not int or start <= found[-1][0]:
            raise ValueError(f"{at}.tiers: {start!r} is not a whole number above {found[-1][0]}")
        found.append((start, _rate(price, per, f"{at}.tiers")))
    return tuple(found)


def _rate(value: object, per: int, where: str) -> Rate:
    if not isinstance(value, str):
        raise ValueError(f'{where}: {value!r} is not a price: write decimal text, such as "2.50"')
    try:
        return Rate.of(parse_decimal(value), per)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def day_text(value: object, where: str) -> str:
    """A UTC date as ``YYYY-MM-DD`` from such text. Raises ValueError."""
    try:
        if not isinstance(value, str) or len(value) != 10:
            raise ValueError
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError(f"{where}: {value!r} is not a date: write YYYY-MM-DD (UTC)") from None


def clock_minutes(value: object, where: str) -> tuple[int, int]:
    """Two minutes of the UTC day from ``"16:30-00:30"``; the second is not included. Raises ValueError."""
    found = _DAILY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{where}: {value!r} is not an interval of the day: write HH:MM-HH:MM (UTC)")
    hour, minute, end_hour, end_minute = (int(text) for text in found.groups())
    begin, end = hour * 60 + minute, end_hour * 60 + end_minute
    if begin == end:
        raise ValueError(f"{where}: {value!r} is empty: for the whole day leave it out")
    return begin, end


def known_keys(raw: Mapping[str, Any], keys: frozenset[str], where: str) -> None:
    """Raises ValueError for a key that is not one of ``keys``."""
    for key in raw:
        if key not in keys:
            raise ValueError(f"{where}: unknown key {key!r}; known are {', '.join(sorted(keys))}")
