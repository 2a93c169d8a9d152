"""What is known of traces, in one SQLite file (WAL) beside the books.

Rule 1: what was taken is on disk before anybody is told so, and stays until it is decided; then it is kept in the same
        transaction in which it leaves the line of arrivals.
Rule 2: any number of processes may write. What comes through the receiver waits for its decision; what other doors say of
        the calls they have charged themselves is decided already.
Rule 3: the store is an outbox: its segments go to the ledger in order, by whoever opens the ledger.
Rule 4: there is no money in it: a store that is lost costs the shape of the tasks, and nothing is charged twice for it.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from bursar.core.errors import BooksFailedError
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.tool_prices import ToolPrices
from bursar.core.traces import Trace, trace_key
from bursar.engine.ports import TraceRows

from .books_batch import select_in
from .books_errors import books_error
from .books_file import statements, use_wal
from .trace_rows import KeptSpan, decode_arrival, decode_spans, encode_arrival, encode_outcomes, encode_spans, kept_of

__all__ = ["NearerRow", "Record", "Segment", "TraceStore"]

_SCHEMA_VERSION: Final = 1
_BUSY_WAIT_MS: Final = 5_000
_PAGE_BYTES: Final = 16_384
_LOG_PAGES_MAX: Final = 4_096
_PRUNE_BATCH: Final = 2_000
_TURN_BYTES_MAX: Final = 48 << 20
_NO_TOOLS: Final = ToolPrices()


@dataclass(frozen=True, slots=True)
class Segment:
    """Spans of one trace that were decided together."""

    trace: str
    spans: Sequence[KeptSpan]


@dataclass(frozen=True, slots=True)
class NearerRow:
    """A charge of another door. ``source`` is one of ``core.observations.PRECEDENCE``."""

    attempt_id: str
    trace: str
    span_id: str
    kind: str
    source: str


@dataclass(slots=True)
class Record:
    """What one evaluation leaves behind, written whole or not at all."""

    segments: list[Segment] = field(default_factory=list)
    decided: list[int] = field(default_factory=list)
    """Arrivals of which nothing waits any more."""
    nearer: list[NearerRow] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Key, attempt and door of calls whose provider named the request."""
    followers: list[tuple[str, str, str]] = field(default_factory=list)
    """Holder, trace and key of observations that stand back."""
    figured: set[str] = field(default_factory=set)
    followed: int | None = None


class TraceStore:
    """``engine.ports.Traces`` and ``TraceOutbox`` on one connection. Not shared between threads.

    With ``any_thread`` the caller sees to it that one thread uses it at a time.
    """

    def __init__(
        self, path: Path, *, clock_us: Callable[[], int], durability: str = "process", any_thread: bool = False
    ) -> None:
        self._clock_us = clock_us
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=not any_thread)
            path.chmod(0o600)
            self._db.execute(f"PRAGMA busy_timeout = {_BUSY_WAIT_MS}")
            # Of a new file. An arrival is some hundred kilobytes: with pages of the usual size it is a chain of as many.
            self._db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            use_wal(self._db)
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
            self._create(path)
        except (sqlite3.Error, OSError) as error:
            raise BooksFailedError(
                f"{path} cannot be opened as the store of traces: {error}. Move it away: a new one is made, and no money "
                "is in it"
            ) from error

    def _create(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise BooksFailedError(
                f"{path} was written by a newer Bursar (schema {version}, this one knows {_SCHEMA_VERSION}): upgrade Bursar"
            )
        if version < _SCHEMA_VERSION:
            with self._transaction():
                for statement in statements("traces.sql"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Generator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise books_error(error) from error

    def checkpoint_by_hand(self) -> None:
        """From now on nothing but ``checkpoint`` moves the log into the file."""
        self._db.execute("PRAGMA wal_autocheckpoint = 0")

    def checkpoint(self) -> None:
        """Move the log into the file, and let it begin again where it has grown large."""
        _, pages, _ = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages > _LOG_PAGES_MAX:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def data_version(self) -> int:
        """A number that changes when another connection has written."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return version

    # --- what comes in ----------------------------------------------------------------------------------------

    def take(self, observations: Sequence[Observation], outcomes: Sequence[TaskOutcome] = ()) -> None:
        """Durable before it returns. Raises BooksError, and then nothing was taken."""
        waiting = [each for each in observations if each.door == "otlp"]
        segments = _decided_segments([each for each in observations if each.door != "otlp"])
        with self._transaction():
            if waiting:
                self._arrive(waiting)
            self._insert_segments(segments, decided=0)
            if outcomes:
                self._db.execute(
                    "INSERT INTO segment (trace, at_us, decided, revised, lines, rest) VALUES ('', ?, 0, 1, ?, x'')",
                    (self._clock_us(), encode_outcomes(outcomes)),
                )

    def arrive(self, observations: Sequence[Observation], series: Mapping[str, int] | None = None) -> int:
        """Put what came through the receiver in line, with where its counters stand. Returns the arrival."""
        with self._transaction():
            if series:
                now = self._clock_us()
                self._db.executemany(
                    "INSERT OR REPLACE INTO series VALUES (?, ?, ?)",
                    [(name, value, now) for name, value in series.items()],
                )
            return self._arrive(observations) if observations else 0

    def _arrive(self, observations: Sequence[Observation]) -> int:
        done = self._db.execute("INSERT INTO arrival (observations) VALUES (?)", (encode_arrival(observations),))
        assert done.lastrowid is not None
        return done.lastrowid

    def series(self, names: Sequence[str]) -> dict[str, int]:
        """Where counters stood."""
        return dict(select_in(self._db, "SELECT name, value FROM series WHERE name IN", names))

    def arrivals_after(self, arrival: int, limit: int = 100) -> list[tuple[int, list[Observation]]]:
        """What waits to be decided, the oldest first. What cannot be read any more is left out."""
        found: list[tuple[int, list[Observation]]] = []
        rows = self._db.execute(
            "SELECT id, observations FROM arrival WHERE id > ? ORDER BY id LIMIT ?", (arrival, limit)
        )
        for number, data in rows:
            try:
                found.append((number, decode_arrival(data)))
            except msgspec.MsgspecError:
                found.append((number, []))
        return found

    # --- what was decided -------------------------------------------------------------------------------------

    def record(self, record: Record) -> None:
        """Keep what an evaluation has decided. Raises BooksError, and then nothing has changed."""
        now = self._clock_us()
        with self._transaction():
            self._insert_segments(record.segments, decided=1)
            self._db.executemany("DELETE FROM arrival WHERE id = ?", [(each,) for each in record.decided])
            self._db.executemany(
                "INSERT OR IGNORE INTO nearer VALUES (?, ?, ?, ?, ?, ?)",
                [(n.attempt_id, n.trace, n.span_id, n.kind, n.source, now) for n in record.nearer],
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO request VALUES (?, ?, ?, ?)", [(*each, now) for each in record.requests]
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO follower VALUES (?, ?, ?, ?)", [(*each, now) for each in record.followers]
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO figured VALUES (?, ?)", [(name, now) for name in record.figured]
            )
            if record.followed is not None:
                self._db.execute("UPDATE followed SET sequence = ?", (record.followed,))

    def _insert_segments(self, segments: Iterable[Segment], *, decided: int) -> None:
        now = self._clock_us()
        self._db.executemany(
            "INSERT INTO segment (trace, at_us, decided, revised, lines, rest) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (each.trace, now, decided, any(span.row.revised for span in each.spans), *encode_spans(each.spans))
                for each in segments
            ],
        )

    def traces(self, keys: Sequence[str]) -> dict[str, list[KeptSpan]]:
        """What was kept of traces, in order: of several with one key the last counts."""
        found: defaultdict[str, list[KeptSpan]] = defaultdict(list)
        rows = select_in(
            self._db, "SELECT trace, sequence, lines, rest FROM segment WHERE trace <> '' AND trace IN", keys
        )
        for trace, _, lines, rest in sorted(rows):
            found[trace].extend(decode_spans(lines, rest))
        return found

    def nearer(self, traces: Sequence[str]) -> list[NearerRow]:
        """The charges of other doors in these traces."""
        rows = select_in(self._db, "SELECT attempt_id, trace, span_id, kind, source FROM nearer WHERE trace IN", traces)
        return [NearerRow(*row) for row in rows]

    def requests(self, keys: Sequence[str]) -> list[tuple[str, str, str]]:
        """Key, attempt and door of the calls whose providers named their requests so."""
        found = select_in(self._db, "SELECT key, attempt_id, door FROM request WHERE key IN", keys)
        return [(key, attempt_id, door) for key, attempt_id, door in found]

    def known(self, traces: Sequence[str]) -> set[str]:
        """Which of these traces the receiver has decided something of."""
        rows = select_in(self._db, "SELECT trace FROM segment WHERE decided = 1 AND trace <> '' AND trace IN", traces)
        return {row[0] for row in rows}

    def followers(self, holders: Sequence[str]) -> list[tuple[str, str]]:
        """Trace and key of those that stood back for these."""
        return [(t, k) for t, k in select_in(self._db, "SELECT trace, key FROM follower WHERE holder IN", holders)]

    def figured(self, names: Sequence[str]) -> set[str]:
        """Which groups have sent spans or records with figures."""
        return {row[0] for row in select_in(self._db, "SELECT name FROM figured WHERE name IN", names)}

    def others_after(self, sequence: int) -> tuple[int, list[str]]:
        """Traces that other doors have added to since a sequence, and the sequence that brings this to."""
        last = self.last_sequence()
        rows = self._db.execute(
            "SELECT DISTINCT trace FROM segment WHERE sequence > ? AND sequence <= ? AND decided = 0 AND trace <> ''",
            (sequence, last),
        )
        return last, [row[0] for row in rows]

    def followed(self) -> int:
        """How far the books have been followed, -1 when nobody has begun."""
        (sequence,) = self._db.execute("SELECT sequence FROM followed").fetchone()
        return sequence

    # --- the outbox -------------------------------------------------------------------------------------------

    def last_sequence(self) -> int:
        found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segment'").fetchone()
        return found[0] if found else 0

    def rows_after(self, sequence: int, limit: int) -> list[TraceRows]:
        """Segments for the ledger after a sequence, as many as are worth one turn of it. Metrics have no place in a task: they
        stay."""
        found: list[TraceRows] = []
        size = 0
        rows = self._db.execute(
            "SELECT sequence, lines, revised, trace FROM segment WHERE sequence > ? AND trace NOT GLOB 'metric.*'"
            " ORDER BY sequence LIMIT ?",
            (sequence, limit),
        )
        for number, lines, revised, trace in rows:
            found.append(TraceRows(number, lines, bool(revised), not trace))
            size += len(lines)
            if size >= _TURN_BYTES_MAX:
                break
        return found

    def prune(self, before_us: int, *, shipped: int) -> int:
        """Forget what is older, as far as the ledger has it. Returns how many segments went."""
        deleted = 0
        while True:
            with self._transaction():
                done = self._db.execute(
                    "DELETE FROM segment WHERE sequence IN (SELECT sequence FROM segment WHERE at_us < ? AND sequence <= ?"
                    " ORDER BY sequence LIMIT ?)",
                    (before_us, shipped, _PRUNE_BATCH),
                ).rowcount
            deleted += done
            if done < _PRUNE_BATCH:
                break
        with self._transaction():
            for table in ("nearer", "request", "follower", "figured", "series"):
                self._db.execute(f"DELETE FROM {table} WHERE at_us < ?", (before_us,))  # noqa: S608 - our own names
        return deleted


def _decided_segments(observations: Sequence[Observation]) -> list[Segment]:
    """What other doors say of calls they have charged themselves, with the scopes that the tree gives them."""
    traces: dict[str, Trace] = {}
    for observation in observations:
        key = trace_key(observation)
        traces.setdefault(key, Trace(key)).take(observation)
    return [
        Segment(
            key,
            [
                kept_of(
                    key, verdict, attempt_id="", version=0, charged=False, revised=verdict.observation.door == "import"
                )
                for verdict in trace.decide(at_rest=True, tools=_NO_TOOLS)
            ],
        )
        for key, trace in traces.items()
    ]
