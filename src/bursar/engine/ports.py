"""What the engine needs from the world, as Protocols. Adapters fulfil them; ``compose`` puts them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bursar.core.call import Held, NeedsHold, NeedsProvider, NeedsSettlement, NotHeld, Reply
from bursar.core.ledger import Attempt

__all__ = ["Books", "Entry", "Ledger", "Queries", "SyncBooks", "Upstream"]


class Books(Protocol):
    """Where money is held and settled, durably, before the answer to either call comes back."""

    async def hold(self, need: NeedsHold) -> Held | NotHeld: ...

    async def settle(self, need: NeedsSettlement) -> None:
        """Never refused and never given up: it waits until the books have it."""


class SyncBooks(Protocol):
    """The books for callers without an event loop: imports, the CLI."""

    def observe(self, attempts: Iterable[Attempt]) -> int:
        """Book attempts that already happened. Returns how many were new; known ids change nothing."""
        ...


class Upstream(Protocol):
    """The provider's side of one attempt. It streams to the client and meters while it does."""

    async def send(self, need: NeedsProvider) -> Reply:
        """Never raises but for cancellation, which is honoured at once; a failure is a ``Reply`` that says so."""
        ...

    def interrupted(self) -> Reply:
        """What is known of the attempt at this moment, when it was cut off from our side."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One ending on its way from the books to the ledger: its sequence and its ledger row as JSON."""

    sequence: int
    row: bytes


class Ledger(Protocol):
    """The analytical store. One writer at a time."""

    def last_sequence(self) -> int: ...

    def append(self, entries: Sequence[Entry]) -> int:
        """Append rows and remember the last sequence, in one transaction. Rows already taken are passed over."""
        ...


class Queries(Protocol):
    """How views ask: one statement of SQL, named columns back."""

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]: ...
