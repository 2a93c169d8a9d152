"""How long answers of one target take: quantiles of what was seen lately.

Rule 1: a quantile is read off a histogram of buckets that grow by an eighth of an octave (9 %), at the upper edge: never too
        low by rounding.
Rule 2: what was given up counts with the time it had got to; the quantile then stays where it was, or rises.
Rule 3: old evidence fades: past ``_FADE_AT`` all counts are halved.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Final

__all__ = ["EVIDENCE_MIN", "Latencies"]

EVIDENCE_MIN: Final = 20
"""Before so many were seen, nothing is said."""

_STEPS: Final = 8
_BUCKETS: Final = 24 * _STEPS
_ROUNDING: Final = 1e-6
"""An edge that was read off belongs to its own bucket, in whatever unit it was in between."""
_FADE_AT: Final = 1_000
_OLD_MAX: Final = 20
"""Thousandths of what was seen that may be missing in a quantile: it is read before every call."""


class Latencies:
    """Milliseconds, from 1 to some hours."""

    __slots__ = ("_counts", "_read", "_read_at", "total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.total = 0
        self._read: dict[int, float | None] = {}
        self._read_at = 0

    def add(self, milliseconds: float) -> None:
        self._counts[min(_BUCKETS - 1, ceil(log2(max(milliseconds, 1.0)) * _STEPS - _ROUNDING))] += 1
        self.total += 1
        if self.total >= _FADE_AT:
            self._counts = [count // 2 for count in self._counts]
            self.total = sum(self._counts)

    def quantile(self, thousandths: int) -> float | None:
        """Milliseconds that this share did not take longer than; None while too little is known."""
        if self.total < EVIDENCE_MIN:
            return None
        if not 0 <= self.total - self._read_at < self.total * _OLD_MAX // 1_000 + 1:
            self._read, self._read_at = {}, self.total
        if thousandths not in self._read:
            self._read[thousandths] = self._quantile(thousandths)
        return self._read[thousandths]

    def _quantile(self, thousandths: int) -> float | None:
        wanted = -(-self.total * thousandths // 1_000)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return 2.0 ** (bucket / _STEPS)
        return None
