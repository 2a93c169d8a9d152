"""The figures of a group of attempts.

Rule 1: what is not known is counted, never added as zero: ``cost`` is the sum of the priced part and
        ``unpriced_calls`` says how many attempts are missing from it.
Rule 2: a group in which nothing is priced has no cost (None); an empty group costs 0.
Rule 3: a token count is None when no attempt of the group states its usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from bursar.core.money import decimal_text

__all__ = ["EMPTY", "Measures", "cost_text", "share", "time_text"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Measures:
    """Counts of a group. ``cost_nanousd`` is the priced part, None when nothing is priced.

    ``calls`` counts first attempts; ``unpriced_calls`` and ``estimated_calls`` count attempts.
    """

    calls: int = 0
    attempts: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cache_read_tokens: int | None = 0
    cache_write_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0
    cost_nanousd: int | None = 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Measures:
        """The measures in a row of a query that has these columns."""
        attempts: int = row["attempts"] or 0
        if not attempts:
            return EMPTY
        unpriced: int = row["unpriced_calls"]
        return cls(
            calls=row["calls"],
            attempts=attempts,
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cache_read_tokens=row["cache_read_tokens"],
            cache_write_tokens=row["cache_write_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
            unpriced_calls=unpriced,
            estimated_calls=row["estimated_calls"],
            # A rollup keeps 0 where nothing was priced: the counts say that it is not known.
            cost_nanousd=None if unpriced >= attempts else row["cost_nanousd"] or 0,
        )

    def __add__(self, other: Measures) -> Measures:
        if not self.attempts:
            return other
        if not other.attempts:
            return self
        return Measures(
            calls=self.calls + other.calls,
            attempts=self.attempts + other.attempts,
            input_tokens=_sum(self.input_tokens, other.input_tokens),
            output_tokens=_sum(self.output_tokens, other.output_tokens),
            cache_read_tokens=_sum(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens=_sum(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens=_sum(self.reasoning_tokens, other.reasoning_tokens),
            unpriced_calls=self.unpriced_calls + other.unpriced_calls,
            estimated_calls=self.estimated_calls + other.estimated_calls,
            cost_nanousd=_sum(self.cost_nanousd, other.cost_nanousd),
        )

    def to_json(self) -> dict[str, Any]:
        """The public form: eight figures, ``cost_usd`` as an exact decimal text."""
        return {
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_tokens": self.cache_read_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "unpriced_calls": self.unpriced_calls,
            "cost_usd": cost_text(self.cost_nanousd),
        }

    def to_full_json(self) -> dict[str, Any]:
        """``to_json`` and how many of the attempts are estimated."""
        return {**self.to_json(), "estimated_calls": self.estimated_calls}


EMPTY: Final = Measures()


def _sum(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def cost_text(nanousd: int | None) -> str | None:
    """The exact amount in USD as text, None when it is not known."""
    return None if nanousd is None else decimal_text(nanousd)


def share(part_nanousd: int | None, whole_nanousd: int | None) -> float | None:
    """The part of the whole as a number between 0 and 1 with four decimals; None when either is not known."""
    if part_nanousd is None or whole_nanousd is None or whole_nanousd <= 0:
        return None
    return round(part_nanousd * 10_000 / whole_nanousd) / 10_000


def time_text(microseconds: int | None) -> str | None:
    """ISO 8601 text in UTC of microseconds since 1970."""
    if microseconds is None:
        return None
    text = (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
    return text.replace("+00:00", "Z")
