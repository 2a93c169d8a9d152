"""From what a reader knows of a call to an observed attempt: it happened, only the books remain.

Rule 1: the id of an attempt comes from the call itself, so that reading it again makes the same id.
Rule 2: an import is priced at the time of the call, never at the time of the import.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final, Literal

from bursar.core.ledger import Attempt, Opening, Status
from bursar.core.prices import PriceBook, Reading, charge
from bursar.core.scopes import NOBODY, VALUE_LENGTH_MAX, Scope

__all__ = ["COUNT_MAX", "last_part", "observed", "parse_time", "short"]

# No call has a trillion of anything; past it, an amount would not fit the books' 64 bits.
COUNT_MAX: Final = 10**12

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)


def parse_time(text: str) -> datetime:
    """ISO 8601 with a zone. Raises ValueError that names the text."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 time") from None
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: append Z or an offset such as +01:00")
    return at


def _microseconds(at: datetime) -> int:
    """Microseconds since 1970 UTC, exact."""
    return (at - _EPOCH) // _MICROSECOND


def short(text: str | None) -> str:
    """Text that fits a scope column or a label."""
    return (text or "")[:VALUE_LENGTH_MAX]


def last_part(path: str | None) -> str:
    """The last part of a path of any operating system."""
    return short((path or "").replace("\\", "/").rstrip("/").rpartition("/")[2])


def observed(
    reading: Reading,
    book: PriceBook,
    *,
    attempt_id: str,
    operation: str,
    at: datetime,
    provider: str,
    model: str,
    scope: Scope,
    overrides: Scope,
    kind: Literal["model", "tool"] = "model",
    status: Status = "ok",
    latency_ms: float | None = None,
) -> Attempt:
    """An attempt that already happened, priced at its own time. ``at`` must have a time zone.

    ``overrides`` is what the person importing says of the scope; it wins over what the file says.
    """
    priced = charge(reading, book, provider=provider, model=model, at=at)
    opening = Opening(
        attempt_id=attempt_id,
        call_id=attempt_id,
        kind=kind,
        door="import",
        operation=operation,
        started_us=_microseconds(at),
        provider=provider,
        model_asked=model,
        scope=scope if overrides == NOBODY else overrides.over(scope),
        estimate=priced,
    )
    return Attempt(
        opening=opening,
        status=status,
        charge=priced,
        latency_ms=latency_ms,
        error=reading.error,
        response_id=reading.response_id,
        finish=reading.finish,
        tools=reading.tools,
    )
