"""Keeps books and ledger bounded: old rows are summed, then deleted in small batches.

Rule 1: no sum changes. A batch and what it is summed into are one transaction.
Rule 2: nothing goes that the ledger has not taken, and no entry of an attempt that has not ended. The newest entry and
        the newest ending with a row stay: they are where books and ledger know each other by.
Rule 3: the id of an attempt that was imported or seen in telemetry, and every response's key, outlive their entries, as
        digests, so that telling what is known still changes nothing. What was taken back gives its response's key free.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import Final

from bursar.core.budgets import Totals

from .books_file import BooksFile
from .books_seen import name_digest
from .ledger_duckdb import DuckLedger

__all__ = ["Compaction", "compact_books", "compact_ledger"]

BATCH: Final = 1_000
_AWAITED_MAX: Final = 50_000  # attempts that are looked through for the correction of one
_DAY_US: Final = 86_400_000_000
_WINDOW: Final = re.compile(r"budget:[^@~=]+[@~]\d+-(?P<end_s>\d+)")
# A part of a rolling window counts for as long as the longest window after it ends.
_ROLLING_MAX_US: Final = 366 * _DAY_US


@dataclass(frozen=True, slots=True)
class Compaction:
    """How many entries or rows were summed up and deleted."""

    deleted: int


def compact_books(books: BooksFile, *, before_us: int, shipped: int, batch: int = BATCH) -> Compaction:
    """Sum up the entries of attempts that ended before ``before_us`` and are in the ledger (sequence <= ``shipped``)."""
    deleted = 0
    while True:
        done = books.transaction(partial(_compact_batch, books, before_us, shipped, batch))
        deleted += done
        if done == 0:
            break
    while books.transaction(partial(_forget_accounts, books, before_us, batch)):
        pass
    return Compaction(deleted)


def _forget_accounts(books: BooksFile, before_us: int, batch: int) -> int:
    """Drop the accounts of tasks, and of budget windows that are over, which are rolled up whole: balance and sum go
    together. The ledger still knows their calls. What a task's own limit or a budget without windows has spent stays."""
    db = books.connection
    found = db.execute(
        "SELECT b.account FROM balance b JOIN entry e ON e.attempt_id = b.account AND e.stage = 3"
        " WHERE (b.account LIKE 'task:%' OR b.account LIKE 'budget:%') AND b.held_nanousd = 0 AND e.held_nanousd = 0"
        " AND b.spent_nanousd = e.spent_nanousd AND b.assumed_nanousd = e.assumed_nanousd AND b.unpriced = e.unpriced AND b.spent_calls = e.spent_calls"
        " AND b.held_calls = 0 AND e.at_us < ? AND NOT EXISTS (SELECT 1 FROM task t WHERE t.limit_nanousd IS NOT NULL"
        " AND b.account = 'task:' || t.task) ORDER BY b.account",
        (before_us,),
    )
    done = [(name,) for (name,) in found if _is_over(name, before_us)][:batch]
    db.executemany("DELETE FROM entry WHERE attempt_id = ? AND stage = 3", done)
    db.executemany("DELETE FROM balance WHERE account = ?", done)
    db.execute(
        "DELETE FROM task WHERE limit_nanousd IS NULL AND opened_us < ? AND NOT EXISTS"
        " (SELECT 1 FROM balance b WHERE b.account = 'task:' || task.task)"
        " AND NOT EXISTS (SELECT 1 FROM task below WHERE below.parent = task.task)",
        (before_us,),
    )
    return len(done)


def _is_over(account: str, before_us: int) -> bool:
    """Whether nothing can be entered in an account any more."""
    if account.startswith("task:"):
        return True
    window = _WINDOW.match(account)
    return window is not None and int(window["end_s"]) * 1_000_000 + _ROLLING_MAX_US < before_us


def _compact_batch(books: BooksFile, before_us: int, shipped: int, batch: int) -> int:
    db = books.connection
    (newest,) = db.execute("SELECT coalesce(max(sequence), 0) FROM entry").fetchone()
    upto = min(shipped, books.last_sequence() - 1)
    rows = _oldest(books, before_us, newest - 1, upto, batch)
    if not rows:
        return 0
    ids = json.dumps([attempt for attempt, _, _ in rows])
    sums = db.execute(
        "SELECT a.value, max(at_us), sum(held_nanousd), sum(spent_nanousd), sum(unpriced), sum(held_tokens), sum(spent_tokens),"
        " sum(held_calls), sum(spent_calls), sum(assumed_nanousd) FROM entry, json_each(entry.accounts) a"
        " WHERE attempt_id IN (SELECT value FROM json_each(?)) AND stage <> 3 GROUP BY a.value",
        (ids,),
    ).fetchall()
    (first,) = db.execute("SELECT min(sequence) FROM entry WHERE attempt_id = ?", (rows[0][0],)).fetchone()
    db.executemany(
        "INSERT OR IGNORE INTO imported VALUES (?)",
        [(name_digest(attempt),) for attempt, door, _ in rows if door in ("import", "otlp")]
        + [(name_digest(key),) for _, _, key in rows if key],
    )
    removed = db.execute(
        "DELETE FROM entry WHERE attempt_id IN (SELECT value FROM json_each(?)) AND stage <> 3", (ids,)
    ).rowcount
    for account, at_us, *totals in sums:
        _roll_up(books, account, at_us, Totals(*totals), first)
    return removed


def _oldest(
    books: BooksFile, before_us: int, upto_void: int, upto: int, batch: int
) -> list[tuple[str, str | None, str | None]]:
    """The attempts (with door and response key) whose entries the books begin with, as far as all of them are old.

    Where an entry stays (a clock went back, a correction is young), so does what comes after it: nobody could tell what is
    missing there from what was summed up. An attempt and its correction go together.
    """
    found = books.connection.execute(
        "SELECT attempt_id, stage, at_us < ?1 AND sequence <= iif(payload IS NULL, ?2, ?3), EXISTS (SELECT 1 FROM entry late"
        " WHERE late.attempt_id = e.attempt_id AND late.stage = 2), json_extract(payload, '$.door'),"
        " iif(EXISTS (SELECT 1 FROM entry back WHERE back.attempt_id = e.attempt_id AND back.kind = 'retract'), NULL, response_key)"
        " FROM entry e WHERE stage IN (1, 2) ORDER BY sequence",
        (before_us, upto_void, upto),
    )
    taken: list[tuple[str, str | None, str | None]] = []
    whole = 0
    awaited: set[str] = set()
    for attempt_id, stage, is_old, is_corrected, door, key in found:
        if not is_old or len(taken) >= batch + _AWAITED_MAX:
            break
        if stage == 1:
            taken.append((attempt_id, door, key))
            if is_corrected:
                awaited.add(attempt_id)
        else:
            awaited.discard(attempt_id)
        if not awaited:
            whole = len(taken)
            if whole >= batch:
                break
    return taken[:whole]


def _roll_up(books: BooksFile, account: str, at_us: int, totals: Totals, first: int) -> None:
    """Merge into the account's one rollup entry. It takes the place of the entries it sums, not the end of the books."""
    db = books.connection
    updated = db.execute(
        "UPDATE entry SET held_nanousd = held_nanousd + ?, spent_nanousd = spent_nanousd + ?, unpriced = unpriced + ?,"
        " held_tokens = held_tokens + ?, spent_tokens = spent_tokens + ?, held_calls = held_calls + ?,"
        " spent_calls = spent_calls + ?, assumed_nanousd = assumed_nanousd + ?, at_us = max(at_us, ?) WHERE attempt_id = ? AND stage = 3",
        (*totals, at_us, account),
    ).rowcount
    if not updated:
        (free,) = db.execute("SELECT coalesce(min(sequence), ?) FROM entry", (first,)).fetchone()
        db.execute(
            "INSERT INTO entry (sequence, attempt_id, stage, kind, at_us, accounts, held_nanousd, spent_nanousd, unpriced,"
            " held_tokens, spent_tokens, held_calls, spent_calls, assumed_nanousd)"
            " VALUES (?, ?, 3, 'rollup', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (free - 1, account, at_us, json.dumps([account]), *totals),
        )


def compact_ledger(ledger: DuckLedger, *, before_us: int) -> Compaction:
    """Sum up the attempts of the days that ended before ``before_us``, one day at a time."""
    deleted = 0
    cutoff_us = before_us - before_us % _DAY_US
    ledger.forget_traces(cutoff_us)
    while True:
        found = ledger.rows(
            "SELECT epoch_us(date_trunc('day', min(started_at))) AS day_us FROM attempt WHERE started_at < make_timestamp($cutoff)",
            {"cutoff": cutoff_us},
        )
        day_us = found[0]["day_us"]
        if day_us is None:
            return Compaction(deleted)
        deleted += ledger.roll_up(day_us, day_us + _DAY_US)
