"""Alerts and their deliveries in the books' file.

Rule 1: an alert fires in one transaction with its deliveries: both are there or neither, whenever the process dies.
Rule 2: what is recorded was evaluated on what is stored (``generation``): of two evaluators the later one looks again, so
        that none fires what the other has just resolved.
Rule 3: a delivery is taken for a while, not for good: if whoever took it dies, it is sent again. At least once, with the
        same id; the notices of one alert to one channel in their order.
Rule 4: what ended is kept for ``KEPT_US``, and at most ``ENDED_MAX`` alerts of it. What fires or waits is never deleted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final, Literal, TypeVar

from bursar.core.alerts import Condition, PriceChange, Transitions
from bursar.core.deliveries import DeliveryState, NotSent, Outcome, next_try, notice_id
from bursar.core.values import valueclass
from bursar.engine.ports import Notice

from .books_errors import books_error
from .books_file import BooksFile

__all__ = ["ENDED_MAX", "KEPT_US", "AlertStore", "Delivery", "Recorded", "StoredAlert", "StoredDelivery"]

KEPT_US: Final = 30 * 86_400_000_000
ENDED_MAX: Final = 20_000
FIRED_MAX: Final = 1_000
"""At most so many alerts begin to fire in one transaction; the next evaluation has the others."""

_LEASE_US: Final = 300_000_000
_PRUNED_MAX: Final = 500
_ERROR_LENGTH_MAX: Final = 300
_TABLES: Final = ("alert", "alert_delivery", "alert_memory")

T = TypeVar("T")


@valueclass
class Delivery:
    """A notice to send now. ``attempts`` counts the one that begins."""

    id: int
    channel: str
    attempts: int
    notice: Notice


@valueclass
class Recorded:
    """What a call of ``record`` began and ended."""

    fired: tuple[Condition, ...]
    resolved: tuple[str, ...]


@valueclass
class StoredAlert:
    """An alert as it can be listed."""

    id: int
    condition: Condition
    fired_us: int
    resolved_us: int | None


@valueclass
class StoredDelivery:
    """A delivery as it can be listed. ``error`` holds no secret."""

    id: int
    alert: int
    channel: str
    event: Literal["firing", "resolved"]
    state: DeliveryState
    attempts: int
    next_us: int
    error: str
    summary: str


class AlertStore:
    """Not shared between threads, like the books it stands in. All methods raise BooksError."""

    def __init__(self, books: BooksFile) -> None:
        self._books = books
        self._db = books.connection
        (known,) = self._rows(f"SELECT count(*) FROM sqlite_master WHERE name IN {_TABLES!r}", ())[0]  # noqa: S608 - constants
        if known < len(_TABLES):
            sql = resources.files("bursar.adapters").joinpath("sql/alerts.sql").read_text(encoding="utf-8")
            books.transaction(lambda: [self._db.execute(statement) for statement in _statements(sql)])

    # --- firing and resolving ---------------------------------------------------------------------------------

    def generation(self) -> int:
        """Grows whenever an alert fires or resolves."""
        return int(self._memory("generation") or "0")

    def firing(self) -> dict[str, Condition]:
        rows = self._rows("SELECT key, labels, annotations, level FROM alert WHERE resolved_us IS NULL ORDER BY id", ())
        return {row[0]: _condition(*row) for row in rows}

    def record(
        self,
        change: Transitions,
        *,
        generation: int,
        now_us: int,
        routes: Callable[[Condition], Iterable[tuple[str, int]]],
        resolved_routes: Callable[[Condition, str], int | None],
    ) -> Recorded | None:
        """Record what begins and ends to fire, with the notices of it; None when somebody else did since ``generation``.

        ``routes`` gives the channels of a condition and when each may have the notice. ``resolved_routes`` says it of a
        channel that had the notice of firing: None when it wants no other.
        """
        if not change.fired and not change.resolved:
            return Recorded((), ())

        def work() -> Recorded | None:
            if self.generation() != generation:
                return None
            fired = tuple(c for c in change.fired[:FIRED_MAX] if self._fire(c, now_us, routes(c)))
            resolved = tuple(key for key in change.resolved if self._resolve(key, now_us, resolved_routes))
            self._remember("generation", str(generation + 1))
            return Recorded(fired, resolved)

        return self._books.transaction(work)

    def _fire(self, condition: Condition, now_us: int, routes: Iterable[tuple[str, int]]) -> bool:
        found = self._db.execute(
            "INSERT INTO alert (key, labels, annotations, level, fired_us) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (key) WHERE resolved_us IS NULL DO NOTHING RETURNING id",
            (condition.key, _text(condition.labels), _text(condition.annotations), condition.level, now_us),
        ).fetchone()
        if found is None:
            return False
        self._enqueue(found[0], "firing", notice_id(condition.key, now_us, "firing"), routes)
        return True

    def _resolve(self, key: str, now_us: int, routes: Callable[[Condition, str], int | None]) -> bool:
        found = self._db.execute(
            "UPDATE alert SET resolved_us = ? WHERE key = ? AND resolved_us IS NULL"
            " RETURNING id, fired_us, labels, annotations, level",
            (now_us, key),
        ).fetchone()
        if found is None:
            return False
        alert, fired_us, *rest = found
        condition = _condition(key, *rest)
        told = self._db.execute(
            "SELECT DISTINCT channel FROM alert_delivery WHERE alert_id = ? AND event = 'firing' ORDER BY id", (alert,)
        ).fetchall()
        wanted = [(channel, due) for (channel,) in told if (due := routes(condition, channel)) is not None]
        self._enqueue(alert, "resolved", notice_id(key, fired_us, "resolved"), wanted)
        return True

    def _enqueue(self, alert: int, event: str, notice: str, routes: Iterable[tuple[str, int]]) -> None:
        self._db.executemany(
            "INSERT INTO alert_delivery (alert_id, channel, event, notice_id, state, attempts, next_us, error)"
            " VALUES (?, ?, ?, ?, 'pending', 0, ?, '')",
            [(alert, channel, event, notice, due_us) for channel, due_us in routes],
        )

    def price_change(self, version: str, *, now_us: int) -> PriceChange | None:
        """The last change of the price book, of which ``version`` is in force; None when none was ever seen."""

        def work() -> PriceChange | None:
            text = self._memory("prices")
            before, after, at_us = json.loads(text) if text else ("", "", 0)
            if after != version:
                before, after, at_us = after, version, now_us
                self._remember("prices", json.dumps([before, after, at_us]))
            return PriceChange(before, after, at_us) if before else None

        text = self._memory("prices")
        if text and (known := json.loads(text))[1] == version:  # nearly always: no transaction is needed
            return PriceChange(*known) if known[0] else None
        return self._books.transaction(work)

    # --- deliveries -------------------------------------------------------------------------------------------

    def take(self, channel: str, *, now_us: int, limit: int) -> list[Delivery]:
        """Deliveries that are due at a channel, oldest first. Nobody else gets them for some minutes."""
        due = (
            "SELECT d.id FROM alert_delivery d WHERE d.channel = ?1 AND d.state = 'pending' AND d.next_us <= ?2"
            " AND NOT EXISTS (SELECT 1 FROM alert_delivery e WHERE e.channel = ?1 AND e.alert_id = d.alert_id"
            " AND e.state = 'pending' AND e.id < d.id) ORDER BY d.id LIMIT ?3"
        )
        if not self._rows(due, (channel, now_us, limit)):  # reading keeps nobody from writing
            return []

        def work() -> list[Delivery]:
            ids = [row[0] for row in self._db.execute(due, (channel, now_us, limit))]
            self._db.executemany(
                "UPDATE alert_delivery SET attempts = attempts + 1, next_us = ? WHERE id = ?",
                [(now_us + _LEASE_US, delivery) for delivery in ids],
            )
            return [self._delivery(delivery) for delivery in ids]

        return self._books.transaction(work)

    def _delivery(self, delivery: int) -> Delivery:
        row = self._db.execute(
            "SELECT d.channel, d.attempts, d.notice_id, d.event, a.key, a.labels, a.annotations, a.fired_us, a.resolved_us"
            " FROM alert_delivery d JOIN alert a ON a.id = d.alert_id WHERE d.id = ?",
            (delivery,),
        ).fetchone()
        channel, attempts, notice, event, key, labels, annotations, fired_us, resolved_us = row
        return Delivery(
            delivery,
            channel,
            attempts,
            Notice(
                notice,
                event,
                key,
                _pairs(labels),
                _pairs(annotations),
                fired_us,
                resolved_us if event == "resolved" else None,
            ),
        )

    def ended(self, delivery: Delivery, outcome: Outcome, *, now_us: int, seed: int) -> DeliveryState:
        """Note what came of an attempt. A failed one is tried again later, until it is a dead letter."""
        state: DeliveryState = "sent"
        error, next_us = "", now_us
        if isinstance(outcome, NotSent):
            error = outcome.reason[:_ERROR_LENGTH_MAX]
            due = next_try(outcome, attempts=delivery.attempts, now_us=now_us, seed=seed)
            state, next_us = ("dead", now_us) if due is None else ("pending", due)

        def work() -> None:
            self._db.execute(
                "UPDATE alert_delivery SET state = ?, next_us = ?, error = ? WHERE id = ? AND state = 'pending'",
                (state, next_us, error, delivery.id),
            )

        self._books.transaction(work)
        return state

    def bury(self, channels: Sequence[str], *, now_us: int) -> int:
        """Make what waits for a channel that is not among these a dead letter. Returns how many."""
        condition = "state = 'pending' AND channel NOT IN (SELECT value FROM json_each(?))"
        names = json.dumps(list(channels))
        if not self._rows(f"SELECT 1 FROM alert_delivery WHERE {condition} LIMIT 1", (names,)):  # noqa: S608 - constant
            return 0

        def work() -> int:
            return self._db.execute(
                "UPDATE alert_delivery SET state = 'dead', next_us = ?2,"
                " error = 'there is no channel ' || channel || ' in the configuration any more'"
                " WHERE state = 'pending' AND channel NOT IN (SELECT value FROM json_each(?1))",
                (names, now_us),
            ).rowcount

        return self._books.transaction(work)

    def retry(self, ids: Sequence[int] | None, *, now_us: int) -> int:
        """Put dead letters back, all of them or those named, with what followed them. Returns how many were dead."""

        def work() -> int:
            rows = self._db.execute(
                "SELECT id, alert_id, channel FROM alert_delivery WHERE state = 'dead'"
                " AND (?1 IS NULL OR id IN (SELECT value FROM json_each(?1)))",
                (None if ids is None else json.dumps(list(ids)),),
            ).fetchall()
            # A resolution that went out before its alert is sent again after it, or the alert would stay open there.
            self._db.executemany(
                "UPDATE alert_delivery SET state = 'pending', attempts = 0, next_us = ?1"
                " WHERE alert_id = ?3 AND channel = ?4 AND (id = ?2 OR (id > ?2 AND state <> 'pending'))",
                [(now_us, *row) for row in rows],
            )
            return len(rows)

        return self._books.transaction(work)

    # --- reading ----------------------------------------------------------------------------------------------

    def dead_letters(self) -> int:
        return self._rows("SELECT count(*) FROM alert_delivery WHERE state = 'dead'", ())[0][0]

    def alerts(self, *, limit: int, since_us: int = 0) -> list[StoredAlert]:
        """What fires, and what was resolved since then; the newest first."""
        rows = self._rows(
            "SELECT id, fired_us, resolved_us, key, labels, annotations, level FROM alert"
            " WHERE resolved_us IS NULL OR resolved_us >= ? ORDER BY resolved_us IS NOT NULL, id DESC LIMIT ?",
            (since_us, limit),
        )
        return [StoredAlert(row[0], _condition(*row[3:]), row[1], row[2]) for row in rows]

    def deliveries(self, *, limit: int, sent: bool) -> list[StoredDelivery]:
        """What waits or is a dead letter, with ``sent`` also what went out; the newest first."""
        rows = self._rows(
            "SELECT d.id, d.alert_id, d.channel, d.event, d.state, d.attempts, d.next_us, d.error, a.annotations"
            " FROM alert_delivery d JOIN alert a ON a.id = d.alert_id WHERE d.state <> 'sent' OR ?"
            " ORDER BY d.id DESC LIMIT ?",
            (sent, limit),
        )
        return [
            StoredDelivery(*row, summary=dict(_pairs(annotations)).get("summary", "")) for *row, annotations in rows
        ]

    def prune(self, *, now_us: int) -> int:
        """Delete some of what ended long ago (rule 4). Returns how many alerts went."""
        ended = (
            "SELECT a.id FROM alert a WHERE a.resolved_us IS NOT NULL AND (a.resolved_us < ?1 OR a.id <="
            " (SELECT id FROM alert WHERE resolved_us IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?2))"
            " AND NOT EXISTS (SELECT 1 FROM alert_delivery d WHERE d.alert_id = a.id AND d.state = 'pending') LIMIT ?3"
        )
        found = self._rows(ended, (now_us - KEPT_US, ENDED_MAX, _PRUNED_MAX))

        def work() -> int:
            self._db.executemany("DELETE FROM alert_delivery WHERE alert_id = ?", found)
            return self._db.executemany("DELETE FROM alert WHERE id = ?", found).rowcount

        return self._books.transaction(work) if found else 0

    def _memory(self, name: str) -> str:
        rows = self._rows("SELECT value FROM alert_memory WHERE name = ?", (name,))
        return rows[0][0] if rows else ""

    def _remember(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO alert_memory VALUES (?, ?)", (name, value))

    def _rows(self, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise books_error(error) from error


def _statements(sql: str) -> list[str]:
    """A transaction cannot run a script: ``executescript`` would commit it."""
    found: list[str] = []
    text = ""
    for line in sql.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return [*found, text] if text.strip() else found


def _condition(key: str, labels: str, annotations: str, level: int) -> Condition:
    return Condition(key, _pairs(labels), _pairs(annotations), level)


def _text(pairs: Iterable[tuple[str, str]]) -> str:
    return json.dumps(dict(pairs), ensure_ascii=False)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    found: Mapping[str, str] = json.loads(text)
    return tuple(sorted(found.items()))
