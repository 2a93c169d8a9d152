"""The books in one SQLite file (WAL): the synchronous part, one transaction at a time.

Rule 1: an entry and every projection of it change in one transaction, or not at all.
Rule 2: saying a hold or an ending again changes nothing.
Rule 3: settlement is never refused; after an expiry it is booked as a correction of the estimate.
Rule 4: any number of processes may write; the order of commits is the order of sequences.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from msgspec import MsgspecError

from bursar.core.call import Held, NeedsHold, NeedsSettlement, NotHeld
from bursar.core.errors import BooksBusyError, BooksFailedError
from bursar.core.ledger import Attempt, Opening, accounts
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.scopes import Scope
from bursar.engine.ports import Entry

from .books_batch import (
    EntryRow,
    NotFreshError,
    answered,
    ended,
    enter_all,
    hold_all,
    imported,
    release_all,
)
from .rows import decode_opening, encode_attempt, encode_opening

__all__ = ["Balance", "BooksFile", "Operation", "books_error", "name_digest"]

Operation: TypeAlias = NeedsHold | NeedsSettlement

_SCHEMA_VERSION: Final = 1
# 16 MB: under constant load a passive checkpoint never catches up to where the log could begin again.
_LOG_PAGES_MAX: Final = 4_096
_BUSY_WAIT_MS: Final = 5_000
_RESTART_WAIT_MS: Final = 50
_RESPONSE_KEY_LENGTH_MAX: Final = 256
_HOLD, _ENDING, _CORRECTION, _ROLLUP = range(4)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Balance:
    """What is held and spent on an account, and how many of its attempts have no known charge."""

    account: str
    held: NanoUSD
    spent: NanoUSD
    unpriced: int


class BooksFile:
    """One connection to the books. Not shared between threads.

    ``durability`` is "process" (survives the death of the process, SQLite's NORMAL) or "power" (also of the machine,
    FULL: one fsync a transaction).
    """

    def __init__(
        self, path: Path, *, clock_us: Callable[[], int], hold_ttl_us: int, durability: str = "process"
    ) -> None:
        self._clock_us = clock_us
        self._hold_ttl_us = hold_ttl_us
        self._deltas: dict[str, list[int]] = {}
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0)
            # Prompts are not in here, but names and spend are: nobody else's business.
            path.chmod(0o600)
            self._db.execute(f"PRAGMA busy_timeout = {_BUSY_WAIT_MS}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
            self._create(path)
        except (sqlite3.Error, OSError) as error:
            raise BooksFailedError(
                f"{path} cannot be opened as the books: {error}. Make it readable, put back a copy of it, or choose "
                "another data directory with --data"
            ) from error

    def _create(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise BooksFailedError(
                f"{path} was written by a newer Bursar (schema {version}, this one knows {_SCHEMA_VERSION}): upgrade Bursar"
            )
        if version < _SCHEMA_VERSION:
            sql = resources.files("bursar.adapters").joinpath("sql/books.sql").read_text(encoding="utf-8")
            self._db.executescript(f"BEGIN IMMEDIATE; {sql} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    def never_wait(self) -> None:
        """For callers that must not block: a busy database raises ``BooksBusyError`` at once, and no commit moves the log
        into the database file, which would wait for the disk; ``checkpoint`` from elsewhere does."""
        self._db.execute("PRAGMA busy_timeout = 0")
        self._db.execute("PRAGMA wal_autocheckpoint = 0")

    def checkpoint(self) -> None:
        """Move the log into the database file. Only a log that has grown large makes writers wait for it."""
        _, pages, _ = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages > _LOG_PAGES_MAX:
            # It keeps writers out while it waits for readers, and a reader may take minutes (verify).
            self._db.execute(f"PRAGMA busy_timeout = {_RESTART_WAIT_MS}")
            self._db.execute("PRAGMA wal_checkpoint(RESTART)")
            self._db.execute(f"PRAGMA busy_timeout = {_BUSY_WAIT_MS}")

    # --- writing ----------------------------------------------------------------------------------------------

    def apply(self, operations: Sequence[Operation]) -> list[Held | NotHeld | None]:
        """Do all operations in one transaction, in order. A hold's outcome is in its place, None for a settlement.

        Raises BooksBusyError or BooksFailedError, and then nothing has changed.
        """
        try:
            return self._transaction(lambda: self._apply_fresh(operations))
        except NotFreshError:
            return self._transaction(lambda: [self._do(operation) for operation in operations])

    def observe(self, attempts: Iterable[Attempt], *, batch: int = 1000) -> int:
        """Book attempts that already happened, in transactions of ``batch``. Returns how many were new."""
        new = 0
        pending: list[Attempt] = []
        for attempt in attempts:
            pending.append(attempt)
            if len(pending) >= batch:
                new += self._observe_batch(pending)
                pending = []
        return new + (self._observe_batch(pending) if pending else 0)

    def _observe_batch(self, attempts: Sequence[Attempt]) -> int:
        return self._transaction(lambda: self._observe_new(attempts))

    def _transaction(self, work: Callable[[], T]) -> T:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                if self._deltas:
                    self._post_deltas()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._deltas.clear()
        except sqlite3.Error as error:
            raise books_error(error) from error
        return result

    def _apply_fresh(self, operations: Sequence[Operation]) -> list[Held | NotHeld | None]:
        """The same for operations that are all new, in a handful of statements. Raises NotFreshError."""
        holds = [operation.opening for operation in operations if isinstance(operation, NeedsHold)]
        endings = [operation for operation in operations if isinstance(operation, NeedsSettlement)]
        outcomes: list[Held | NotHeld | None] = [
            Held(operation.opening.estimate.amount) if isinstance(operation, NeedsHold) else None
            for operation in operations
        ]
        if holds:
            self._hold_fresh(holds)
        if endings:
            released = release_all(self._db, [ending.opening.attempt_id for ending in endings])
            rows: list[EntryRow] = []
            for ending in endings:
                kind = "settle" if ending.attempt else "void"
                row = self._ending_row(ending.opening, ending.attempt, kind, released[ending.opening.attempt_id])
                self._post(accounts(ending.opening.scope), row)
                rows.append(row)
            enter_all(self._db, rows)
        return outcomes

    def _hold_fresh(self, openings: Sequence[Opening]) -> None:
        if ended(self._db, [opening.attempt_id for opening in openings]):
            raise NotFreshError
        now = self._clock_us()
        entries: list[EntryRow] = []
        holds: list[tuple[str, int, int, str]] = []
        for opening in openings:
            held = opening.estimate.amount or 0
            row = self._hold_row(opening, now)
            entries.append(row)
            holds.append((opening.attempt_id, held, now + self._hold_ttl_us, row[7]))
            self._post(accounts(opening.scope), row)
        enter_all(self._db, entries)
        hold_all(self._db, holds)

    def _do(self, operation: Operation) -> Held | NotHeld | None:
        match operation:
            case NeedsHold(opening):
                return self._hold(opening)
            case NeedsSettlement(opening, attempt):
                self._settle(opening, attempt)
                return None

    def _hold(self, opening: Opening) -> Held | NotHeld:
        amount = opening.estimate.amount
        row = self._hold_row(opening, self._clock_us())
        if not self._enter(row, accounts(opening.scope)):
            ended = self._ended(opening.attempt_id)
            return NotHeld(f"attempt {opening.attempt_id} has already ended") if ended else Held(amount)
        expires_us = row[3] + self._hold_ttl_us
        self._db.execute(
            "INSERT INTO open_hold VALUES (?, ?, ?, ?)", (opening.attempt_id, amount or 0, expires_us, row[7])
        )
        return Held(amount)

    def _hold_row(self, opening: Opening, now_us: int) -> EntryRow:
        text = _names_text(accounts(opening.scope))
        held = opening.estimate.amount or 0
        return (opening.attempt_id, _HOLD, "hold", now_us, held, 0, 0, text, encode_opening(opening), None)

    def _ended(self, attempt_id: str) -> bool:
        found = self._db.execute("SELECT 1 FROM entry WHERE attempt_id = ? AND stage = ?", (attempt_id, _ENDING))
        return found.fetchone() is not None

    def _settle(self, opening: Opening, attempt: Attempt | None) -> None:
        held = self._release(opening.attempt_id)
        if attempt is None:
            if held is not None:
                self._end(opening, "void", held[0], None)
            return
        if held is not None:
            self._end(opening, "settle", held[0], attempt)
        elif not self._end(opening, "settle", 0, attempt):
            self._correct(attempt)

    def _observe_new(self, attempts: Sequence[Attempt]) -> int:
        """Enter the attempts that neither their id nor their provider's response id shows to be known."""
        ids = {attempt.opening.attempt_id for attempt in attempts}
        keys = {key for attempt in attempts if (key := _response_key(attempt))}
        digests = {name: name_digest(name) for name in ids | keys}
        rolled_up = imported(self._db, list(digests.values()))
        known_ids = ended(self._db, list(ids)) | {name for name in ids if digests[name] in rolled_up}
        known_keys = answered(self._db, list(keys)) | {key for key in keys if digests[key] in rolled_up}
        rows: list[EntryRow] = []
        for attempt in attempts:
            attempt_id, key = attempt.opening.attempt_id, _response_key(attempt)
            if attempt_id in known_ids or key in known_keys:
                continue
            known_ids.add(attempt_id)
            if key:
                known_keys.add(key)
            row = self._ending_row(attempt.opening, attempt, "settle", 0)
            self._post(accounts(attempt.opening.scope), row)
            rows.append(row)
        enter_all(self._db, rows)
        return len(rows)

    def _end(self, opening: Opening, kind: str, held: int, attempt: Attempt | None) -> bool:
        return self._enter(self._ending_row(opening, attempt, kind, held), accounts(opening.scope))

    def _ending_row(self, opening: Opening, attempt: Attempt | None, kind: str, held: int) -> EntryRow:
        amount = attempt.charge.amount if attempt else NanoUSD(0)
        spent, unpriced = (0, 1) if amount is None else (amount, 0)
        text = _names_text(accounts(opening.scope))
        payload = encode_attempt(attempt) if attempt else None
        key = _response_key(attempt) if attempt else None
        return (opening.attempt_id, _ENDING, kind, self._clock_us(), -held, spent, unpriced, text, payload, key)

    def _correct(self, attempt: Attempt) -> None:
        """A settlement after the hold expired: book the difference to the estimate that the expiry charged, once."""
        opening = attempt.opening
        row = self._db.execute(
            "SELECT kind, spent_nanousd, unpriced FROM entry WHERE attempt_id = ? AND stage = ?",
            (opening.attempt_id, _ENDING),
        ).fetchone()
        if row is None or row[0] != "expire":
            return
        amount = attempt.charge.amount
        spent = 0 if amount is None else amount - row[1]
        unpriced = -row[2] if amount is not None else 0
        charge = replace(
            attempt.charge,
            amount=None if amount is None else NanoUSD(spent),
            usage=None,
            lines=(),
            notes=(*attempt.charge.notes, "settled after its hold expired: the difference to the estimate"),
        )
        late = replace(
            attempt, charge=charge, opening=replace(opening, attempt_id=f"{opening.attempt_id}+late", number=0)
        )
        names = accounts(opening.scope)
        text = _names_text(names)
        payload = encode_attempt(late)
        now = self._clock_us()
        self._enter((opening.attempt_id, _CORRECTION, "adjust", now, 0, spent, unpriced, text, payload, None), names)

    def _release(self, attempt_id: str) -> tuple[int] | None:
        return self._db.execute(
            "DELETE FROM open_hold WHERE attempt_id = ? RETURNING amount_nanousd", (attempt_id,)
        ).fetchone()

    def _enter(self, row: EntryRow, names: Iterable[str]) -> bool:
        # A hold is entered unless the attempt has been held or has ended, an ending unless it has ended.
        cursor = self._db.execute(
            "INSERT INTO entry (attempt_id, stage, kind, at_us, held_nanousd, spent_nanousd, unpriced, accounts, payload,"
            " response_key) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10"
            " WHERE ?2 <> 0 OR NOT EXISTS (SELECT 1 FROM entry WHERE attempt_id = ?1 AND stage = 1)"
            " ON CONFLICT (attempt_id, stage) DO NOTHING",
            row,
        )
        if cursor.rowcount != 1:
            return False
        self._post(names, row)
        return True

    def _post(self, names: Iterable[str], row: EntryRow) -> None:
        held, spent, unpriced = row[4], row[5], row[6]
        for name in names:
            delta = self._deltas.get(name)
            if delta is None:
                self._deltas[name] = [held, spent, unpriced]
            else:
                delta[0] += held
                delta[1] += spent
                delta[2] += unpriced

    def _post_deltas(self) -> None:
        # One statement per account and transaction: most calls of a batch share theirs.
        self._db.executemany(
            "INSERT INTO balance VALUES (?1, ?2, ?3, ?4) ON CONFLICT (account) DO UPDATE SET"
            " held_nanousd = held_nanousd + ?2, spent_nanousd = spent_nanousd + ?3, unpriced = unpriced + ?4",
            [(name, *delta) for name, delta in self._deltas.items()],
        )

    # --- the sweeper ------------------------------------------------------------------------------------------

    def expire(self, *, before_us: int | None, keep: Callable[[str], bool] = lambda _: False, batch: int = 500) -> int:
        """End open holds by charging their estimates: those past their time, or all of them when ``before_us`` is None.

        ``keep`` names attempts that are alive; their time is extended instead. Returns how many were expired.
        """
        ended = 0
        while True:
            limit_us = (1 << 62) if before_us is None else before_us
            try:
                rows: list[tuple[str, int, str, bytes]] = self._db.execute(
                    "SELECT h.attempt_id, h.amount_nanousd, h.accounts, e.payload FROM open_hold h"
                    " JOIN entry e ON e.attempt_id = h.attempt_id AND e.stage = 0 WHERE h.expires_us <= ? LIMIT ?",
                    (limit_us, batch),
                ).fetchall()
            except sqlite3.Error as error:
                raise books_error(error) from error
            if not rows:
                return ended
            ended += self._transaction(partial(self._expire_all, rows, keep))
            if len(rows) < batch:
                return ended

    def _expire_all(self, rows: Sequence[tuple[str, int, str, bytes]], keep: Callable[[str], bool]) -> int:
        return sum(self._expire(*row, keep) for row in rows)

    def _expire(self, attempt_id: str, held: int, names: str, payload: bytes, keep: Callable[[str], bool]) -> int:
        if keep(attempt_id):
            expires = self._clock_us() + self._hold_ttl_us
            self._db.execute("UPDATE open_hold SET expires_us = ? WHERE attempt_id = ?", (expires, attempt_id))
            return 0
        released = self._release(attempt_id)
        if released is None:
            return 0
        try:
            opening = decode_opening(payload)
        except MsgspecError:
            opening = _unread_opening(attempt_id, held, names, self._clock_us())
        charge = replace(opening.estimate, estimated=True, notes=("never settled: the estimate is charged",))
        attempt = Attempt(opening, "expired", charge, error="the gateway stopped before the attempt ended")
        return int(self._end(opening, "expire", released[0], attempt))

    # --- the outbox -------------------------------------------------------------------------------------------

    def endings_after(self, sequence: int, limit: int) -> list[Entry]:
        """Entries with a ledger row after a sequence, in order."""
        rows = self._db.execute(
            "SELECT sequence, payload FROM entry WHERE sequence > ? AND stage IN (1, 2) AND payload IS NOT NULL"
            " ORDER BY sequence LIMIT ?",
            (sequence, limit),
        )
        return [Entry(*row) for row in rows]

    def last_sequence(self) -> int:
        """The last sequence that has a ledger row, 0 when there is none."""
        (last,) = self._db.execute(
            "SELECT coalesce(max(sequence), 0) FROM entry WHERE stage IN (1, 2) AND payload IS NOT NULL"
        ).fetchone()
        return last

    # --- reading ----------------------------------------------------------------------------------------------

    def balances(self) -> list[Balance]:
        return [Balance(*row) for row in self._db.execute("SELECT * FROM balance ORDER BY account")]

    def open_holds(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM open_hold").fetchone()
        return count

    def data_version(self) -> int:
        """A number that changes when another connection has written."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return version

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for the siblings of this file that read and keep other tables: keys, verify, retention."""
        return self._db

    def transaction(self, work: Callable[[], T]) -> T:
        """Run ``work`` in one transaction. Raises BooksBusyError or BooksFailedError, and then nothing has changed."""
        return self._transaction(work)


def _unread_opening(attempt_id: str, held: int, names: str, at_us: int) -> Opening:
    """Where another version wrote the opening: what the open hold itself says."""
    task = next((name.removeprefix("task:") for name in json.loads(names) if name.startswith("task:")), "")
    estimate = Charge(NanoUSD(held), None, None) if held else Charge(None, "the attempt cannot be read", None)
    return Opening(attempt_id, attempt_id, "model", "gateway", "unknown", at_us, "", "", Scope(task=task), estimate)


@lru_cache(maxsize=1024)
def _names_text(names: tuple[str, ...]) -> str:
    return json.dumps(names)


def name_digest(name: str) -> bytes:
    """What stays of an imported attempt's id, and of a response's key, when the entries are rolled up."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _response_key(attempt: Attempt) -> str | None:
    if not attempt.response_id:
        return None
    return f"{attempt.opening.provider}:{attempt.response_id}"[:_RESPONSE_KEY_LENGTH_MAX]


def books_error(error: sqlite3.Error) -> BooksBusyError | BooksFailedError:
    """What an error of the database means to those who use the books."""
    if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BooksBusyError(f"another process keeps the books locked: {error}")
    return BooksFailedError(_explain(error))


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explain(error: sqlite3.Error) -> str:
    if _code(error) == sqlite3.SQLITE_FULL:
        return f"{error}: the disk is full ({errno.errorcode[errno.ENOSPC]}); free some space, nothing is lost"
    return f"{error}"
