"""What happened lately, counted by the minute: for alerts about failures, unpriced and denied calls, fallbacks.

Rule 1: a count belongs to the minute in which it was added; a span is the running minute and those before it.
Rule 2: it is bounded: nothing older than ``SPAN_US_MAX`` is kept, and past ``PROVIDERS_MAX`` names count as ``OTHER``.
Rule 3: it begins empty. ``since_us`` tells from when on it knows anything: before that is unknown, not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from .ledger import Attempt

__all__ = ["MINUTE_US", "OTHER", "PROVIDERS_MAX", "SPAN_US_MAX", "Counts", "Tallies", "TallyKind"]

TallyKind: TypeAlias = Literal["settled", "failed", "unpriced", "denied", "fallback", "opened"]
"""``settled`` counts every attempt that ended, also the ``failed`` and the ``unpriced`` ones; ``opened`` the breakers
that opened."""

Counts: TypeAlias = Mapping[tuple[TallyKind, str], int]
"""How many of each kind, by provider ("" where none is known)."""

MINUTE_US: Final = 60_000_000
SPAN_US_MAX: Final = 24 * 60 * MINUTE_US
PROVIDERS_MAX: Final = 200
OTHER: Final = "other"


class Tallies:
    """The counters of one process. Not shared between threads: ``counts`` makes a copy that may be."""

    def __init__(self, since_us: int) -> None:
        self.since_us = since_us
        self._minutes: dict[int, dict[tuple[TallyKind, str], int]] = {}
        self._newest = since_us // MINUTE_US
        self._providers: set[str] = {""}

    def add(self, kind: TallyKind, provider: str, now_us: int, count: int = 1) -> None:
        minute = max(now_us // MINUTE_US, self._newest)  # a clock that goes back must not count into the past
        if minute != self._newest:
            self._newest = minute
            self._forget(minute - SPAN_US_MAX // MINUTE_US)
        if provider not in self._providers:
            if len(self._providers) >= PROVIDERS_MAX:
                provider = OTHER
            else:
                self._providers.add(provider)
        counts = self._minutes.setdefault(minute, {})
        counts[kind, provider] = counts.get((kind, provider), 0) + count

    def settled(self, attempt: Attempt, now_us: int) -> None:
        """Count an attempt that ended. One that the client gave up, or a budget ended, has not failed."""
        provider = attempt.opening.provider
        self.add("settled", provider, now_us)
        if attempt.status not in ("ok", "cancelled", "ended"):
            self.add("failed", provider, now_us)
        if attempt.charge.amount is None:
            self.add("unpriced", provider, now_us)

    def counts(self, span_us: int, now_us: int) -> Counts:
        """The sums over the last ``span_us``, a whole number of minutes up to ``SPAN_US_MAX``."""
        assert 0 < span_us <= SPAN_US_MAX
        first = max(now_us // MINUTE_US, self._newest) - span_us // MINUTE_US
        found: dict[tuple[TallyKind, str], int] = {}
        for minute, counts in self._minutes.items():
            if minute > first:
                for key, count in counts.items():
                    found[key] = found.get(key, 0) + count
        return found

    def _forget(self, before: int) -> None:
        for minute in [minute for minute in self._minutes if minute <= before]:
            del self._minutes[minute]
