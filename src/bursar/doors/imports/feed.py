"""From readers to the books, in batches, with a summary of what happened.

Rule 1: the books decide what is new; an attempt they know changes nothing.
Rule 2: memory holds one batch of attempts, and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from bursar.core.ledger import Attempt
from bursar.engine.ports import SyncBooks

__all__ = ["Summary", "feed"]

_BATCH: Final = 1_000
_REASONS_MAX: Final = 100


@dataclass(slots=True)
class Summary:
    """``read`` calls were found, ``new`` of them booked. ``cost_nanousd`` is of all that were read."""

    read: int = 0
    new: int = 0
    cost_nanousd: int = 0
    unpriced: Counter[str] = field(default_factory=Counter[str])

    @property
    def known(self) -> int:
        return self.read - self.new


def feed(attempts: Iterable[Attempt], books: SyncBooks | None, summary: Summary) -> None:
    """Book attempts that already happened. Without books nothing is booked: a dry run, in which all count as new.

    What ``attempts`` raises is passed on, after what it handed on before is booked.
    """
    batch: list[Attempt] = []
    try:
        for attempt in attempts:
            batch.append(attempt)
            if len(batch) == _BATCH:
                full, batch = batch, []
                _book(full, books, summary)
    finally:
        if batch:
            _book(batch, books, summary)


def _book(batch: list[Attempt], books: SyncBooks | None, summary: Summary) -> None:
    new = len(batch) if books is None else books.observe(batch)
    summary.read += len(batch)
    summary.new += new
    for attempt in batch:
        amount = attempt.charge.amount
        if amount is not None:
            summary.cost_nanousd += amount
        else:
            reason = attempt.charge.reason or "unknown"
            many = reason not in summary.unpriced and len(summary.unpriced) >= _REASONS_MAX
            summary.unpriced["other reasons" if many else reason] += 1
