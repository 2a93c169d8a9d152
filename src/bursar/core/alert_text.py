"""Figures and moments as plain text, for people who read an alert on a telephone.

Rule 1: an amount that is not zero never reads as zero.
Rule 2: what strangers named (subjects, providers) is one line without control characters, and bounded.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

from .budgets import Unit
from .money import NANO_PER_USD

__all__ = ["amount_text", "money_text", "moment_text", "one_line", "percent_text", "span_text"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MINUTE_US: Final = 60_000_000
_TEXT_LENGTH_MAX: Final = 1_000


def money_text(nanousd: int) -> str:
    """``$12.34``, ``$0.0042``: two places from a dollar on, below it at least two digits that are not zeros."""
    size = abs(nanousd)
    places = 2 if size == 0 or size >= NANO_PER_USD else min(9, max(4, 11 - len(str(size))))
    step = 10 ** (9 - places)
    rounded = (2 * size + step) // (2 * step)
    whole, fraction = divmod(rounded, 10**places)
    return f"{'-' if nanousd < 0 else ''}${whole:,}.{fraction:0{places}d}"


def amount_text(unit: Unit, amount: int) -> str:
    """An amount in a budget's unit."""
    match unit:
        case "usd":
            return money_text(amount)
        case "tokens":
            return f"{amount:,} tokens"
        case "calls":
            return f"{amount:,} calls"


def percent_text(thousandths: int) -> str:
    """A share in thousandths: ``80 %``, ``12.5 %``."""
    whole, tenth = divmod(thousandths, 10)
    return f"{whole:,}.{tenth} %" if tenth else f"{whole:,} %"


def moment_text(at_us: int) -> str:
    """``2026-11-25 09:30 UTC``."""
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%d %H:%M UTC")


def span_text(length_us: int) -> str:
    """A span of whole minutes: ``10 minutes``, ``1 hour``, ``24 hours``."""
    minutes = length_us // _MINUTE_US
    count, noun = (minutes // 60, "hour") if minutes % 60 == 0 else (minutes, "minute")
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def one_line(text: str, length_max: int = _TEXT_LENGTH_MAX) -> str:
    """Text of strangers on one line, without control characters, cut where it is too long."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= length_max else f"{text[: length_max - 3]}..."
