"""From observations of traces to observed attempts: the leaves, each once.

Rule 1: what is charged is decided by ``core.traces`` when everything has been read: a sum counts only where nothing below
        it has figures. So all observations of one import are in memory, up to ``OBSERVATIONS_MAX``.
Rule 2: the id of an attempt is that of the span, the same as if it had come through the OTLP door: importing twice, or
        what was received before, changes nothing.
Rule 3: what is not charged because it is a sum, or was charged elsewhere, is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from bursar.core.ledger import Attempt
from bursar.core.observations import Observation
from bursar.core.prices import PriceBook
from bursar.core.scopes import NOBODY, Scope
from bursar.core.tool_prices import ToolPrices
from bursar.core.traces import attempt_base, attempt_of, charges, price, trace_key
from bursar.wire.providers import provider as find_provider

from .tally import Tally

__all__ = ["OBSERVATIONS_MAX", "charged", "gathered", "in_traces"]

# About a kilobyte each.
OBSERVATIONS_MAX: Final = 1_000_000
_BATCH: Final = 5_000

_WHY: Final = {
    "contained": "a sum of what lies below it, or a call that an inner span counts",
    "linked": "a call that another span or record has charged",
}


def gathered(observations: Iterable[Observation], overrides: Scope = NOBODY) -> list[Observation]:
    """All observations of an import, under the scope that the person importing says. Raises OSError for too many."""
    found: list[Observation] = []
    for each in observations:
        if len(found) == OBSERVATIONS_MAX:
            raise OSError(f"more than {OBSERVATIONS_MAX:,} spans in one import: import fewer files at once")
        found.append(each if overrides == NOBODY else replace(each, scope=overrides.over(each.scope)))
    return found


def in_traces(observations: Iterable[Observation]) -> Iterator[list[Observation]]:
    """Whole traces, some at a time, for whoever keeps them: a tree that is torn apart loses whom its calls are for."""
    traces: dict[str, list[Observation]] = {}
    for each in observations:
        traces.setdefault(trace_key(each), []).append(each)
    batch: list[Observation] = []
    for trace in traces.values():
        batch += trace
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def charged(observations: Iterable[Observation], book: PriceBook, tools: ToolPrices, tally: Tally) -> Iterator[Attempt]:
    """The attempts that some observations come to."""
    for verdict in charges(observations, tools=tools):
        seen = verdict.observation
        if verdict.fate != "charged":
            if (why := _WHY.get(verdict.fate)) is not None:
                tally.skip(why, seen.span_id and f"{seen.trace_id}/{seen.span_id}")
            continue
        found = find_provider(seen.provider)
        # A name that the price book has and the table has not is still a provider: prices of the user's own.
        price_id = found.price_id("") if found is not None else seen.provider
        priced = price(seen, book, tools, price_id=price_id)
        attempt_id = attempt_base(trace_key(seen), verdict.key)
        yield attempt_of(verdict, priced, attempt_id=attempt_id, door="import")
