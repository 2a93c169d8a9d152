"""Carries endings from the books to the ledger, in order, each exactly once.

Rule 1: the ledger says where it is; the books are read from there. Nobody else remembers.
Rule 2: any process may do it: the ledger's file admits one writer at a time.
Rule 3: the shape of traces goes the same way, from a store of its own. No money is in it: a store that was replaced by a
        new one is read from its beginning.
"""

from __future__ import annotations

from typing import Final

from bursar.core.errors import LedgerError

from .ports import Ledger, Outbox, TraceLedger, TraceOutbox

__all__ = ["BATCH", "ship", "ship_traces"]

BATCH: Final = 10_000
_TRACE_BATCH: Final = 10_000


def ship(outbox: Outbox, ledger: Ledger, *, batch: int = BATCH, batches_max: int | None = None) -> int:
    """Ship until the ledger has everything (or ``batches_max`` are done). Returns the rows shipped.

    Raises LedgerError when the ledger is ahead of the books: then they do not belong together.
    """
    shipped = 0
    position = ledger.last_sequence()
    last = outbox.last_sequence()
    if position > last:
        raise LedgerError(
            f"the ledger is at sequence {position}, the books end at {last}: they do not belong together. "
            "Move the ledger file away: the next command makes it again from the books"
        )
    while position < last and batches_max != 0:
        entries = outbox.endings_after(position, batch)
        if not entries:
            break
        shipped += ledger.append(entries)
        position = entries[-1].sequence
        batches_max = None if batches_max is None else batches_max - 1
    return shipped


def ship_traces(outbox: TraceOutbox, ledger: TraceLedger, *, batch: int = _TRACE_BATCH) -> None:
    """Ship until the ledger has all that has been decided of traces. Raises LedgerError."""
    position = ledger.trace_position()
    last = outbox.last_sequence()
    if position > last:
        ledger.restart_traces()
        position = 0
    while position < last:
        rows = outbox.rows_after(position, batch)
        if not rows:
            return
        ledger.append_traces(rows)
        position = rows[-1].sequence
