"""A trace in memory: what is known of it, what of it waits, and when it is due.

Rule 1: it can be forgotten at any moment: the store and the books know everything in it but what waits, which is in the
        store's arrivals.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bursar.core.observations import Observation
from bursar.core.scopes import NOBODY, Scope
from bursar.core.traces import Nearer, Trace

from .trace_rows import KeptSpan
from .trace_store import NearerRow

__all__ = [
    "LATEST_S", "QUIET_S", "UNDECIDED", "OpenTrace", "State", "charged_attempt", "meet", "place_of", "version_of",
]  # fmt: skip

_ENDED_S: Final = 0.5
QUIET_S: Final = 2.0
LATEST_S: Final = 10.0
_SPANS_PER_SECOND: Final = 10_000
"""A trace of this many spans waits a second longer at most: to decide it is that much work."""


class State(msgspec.Struct, frozen=True, gc=False):
    """How an observation was decided last. ``payload`` is what the books have of it where nothing else is known of it."""

    version: int
    attempt_id: str
    seen: Observation | None = None
    scope: Scope = NOBODY
    stands_for: str = ""
    payload: bytes = b""


UNDECIDED: Final = State(0, "")


class OpenTrace:
    """A trace in memory, and what of it waits."""

    __slots__ = (
        "is_metrics",
        "arrivals",
        "first_s",
        "fresh",
        "imports",
        "key",
        "last_s",
        "loaded",
        "resting",
        "root_ended",
        "states",
        "touched",
        "trace",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        self.fresh: list[Observation] = []
        self.touched: set[str] = set()
        self.arrivals: set[int] = set()
        self.first_s = self.last_s = 0.0
        self.root_ended = False
        self.resting = False
        self.is_metrics = key.startswith("metric.")
        self.forget()

    def forget(self) -> None:
        """Back to what is in the store, and what waits."""
        self.trace = Trace(self.key)
        self.states: dict[str, State] = {}
        self.imports: dict[str, str] = {}
        self.loaded = False

    def is_due(self, now_s: float) -> bool:
        quiet = now_s - self.last_s
        if quiet >= (_ENDED_S if self.root_ended or self.trace.ended else QUIET_S):
            return True
        return now_s - self.first_s >= LATEST_S + len(self.trace) / _SPANS_PER_SECOND


def charged_attempt(kept: KeptSpan) -> str:
    """The attempt that a kept observation became, "" for none: it may also stand for somebody else's."""
    return kept.row.attempt_id if kept.rest.charged else ""


def meet(open_: OpenTrace, row: NearerRow) -> None:
    if row.source == "import":
        # An import of traces gives its attempts the names they would have had here: that is our own charge then.
        if place_of(row.attempt_id) is None:
            open_.imports[row.span_id] = row.attempt_id
        elif not open_.states.get(row.span_id, UNDECIDED).version:
            open_.states[row.span_id] = State(version_of(row.attempt_id), row.attempt_id)
        open_.trace.touch(row.span_id)
    elif row.kind in ("model", "tool"):
        open_.trace.take_nearer(
            Nearer(row.attempt_id, "tool" if row.kind == "tool" else "model", row.trace, row.span_id)
        )


def place_of(attempt_id: str) -> tuple[str, str] | None:
    """The trace and the key of an attempt that was made here."""
    parts = attempt_id.partition("#")[0].split(":")
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "otlp" else None


def version_of(attempt_id: str) -> int:
    return int(attempt_id.partition("#")[2] or 1)
