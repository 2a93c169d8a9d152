"""The books in one SQLite file (WAL): the synchronous part, one transaction at a time.

Rule 1: an entry and every projection of it change in one transaction, or not at all.
Rule 2: saying a hold or an ending again changes nothing.
Rule 3: settlement is never refused; after an expiry it is booked as a correction of the estimate.
Rule 4: any number of processes may write; the order of commits is the order of sequences.
Rule 5: a hold is entered in every account of its call, or refused (``books_admission``); its ending goes to the same ones.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from time import sleep
from typing import Final, TypeAlias, TypeVar

from msgspec import MsgspecError

from bursar.core.admission import (
    Admitted,
    Claim,
    Crowded,
    Denied,
    more,
)
from bursar.core.budgets import Totals
from bursar.core.call import Held, NeedsHold, NeedsMore, NeedsSettlement, NotHeld
from bursar.core.errors import BooksFailedError
from bursar.core.ledger import Attempt, Opening, accounts
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.scopes import Scope
from bursar.engine.ports import Entry

from .books_admission import Admissions, Asked
from .books_batch import (
    INSERT_ENTRY,
    EntryRow,
    NotFreshError,
    OpenHold,
    ended,
    enter_all,
    hold_all,
    release_all,
)
from .books_errors import books_error
from .books_seen import Seen, names_text, response_key
from .rows import decode_opening, encode_attempt, encode_opening

__all__ = ["Balance", "BooksFile", "Operation", "Outcome", "statements", "use_wal"]

Operation: TypeAlias = NeedsHold | NeedsMore | NeedsSettlement
Outcome: TypeAlias = Held | NotHeld | Crowded | None

_SCHEMA_VERSION: Final = 2
# 16 MB: under constant load a passive checkpoint never catches up to where the log could begin again.
_LOG_PAGES_MAX: Final = 4_096
_BUSY_WAIT_MS: Final = 5_000
_RESTART_WAIT_MS: Final = 50
_SWITCH_WAIT_MS: Final = 5
_HOLD, _ENDING, _CORRECTION, _ROLLUP, _EXTENSION = range(5)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Balance:
    """What is held and spent on an account, and how many of its attempts have no known charge."""

    account: str
    held: NanoUSD
    spent: NanoUSD
    unpriced: int
    held_tokens: int = 0
    spent_tokens: int = 0
    held_calls: int = 0
    spent_calls: int = 0
    assumed: int = 0


def use_wal(db: sqlite3.Connection) -> None:
    """Switch to a write-ahead log. SQLite asks no busy handler here, so that of two processes which open new books in one
    moment one fails at once (https://www.sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY"): it tries again."""
    for _ in range(_BUSY_WAIT_MS // _SWITCH_WAIT_MS):
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            sleep(_SWITCH_WAIT_MS / 1000)
        else:
            return
    db.execute("PRAGMA journal_mode = WAL")


def _no_claim(_attempt: Attempt) -> None:
    return None


class BooksFile:
    """One connection to the books. Not shared between threads.

    ``durability`` is "process" (survives the death of the process, SQLite's NORMAL) or "power" (also of the machine,
    FULL: one fsync a transaction). With ``any_thread`` the caller sees to it that one thread uses it at a time.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock_us: Callable[[], int],
        hold_ttl_us: int,
        durability: str = "process",
        any_thread: bool = False,
    ) -> None:
        self._clock_us = clock_us
        self._hold_ttl_us = hold_ttl_us
        self._posted: dict[str, Totals] = {}
        self.released: frozenset[str] = frozenset()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=not any_thread)
            # Prompts are not in here, but names and spend are: nobody else's business.
            path.chmod(0o600)
            self._db.execute(f"PRAGMA busy_timeout = {_BUSY_WAIT_MS}")
            use_wal(self._db)
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
            self._create(path)
            self.admissions = Admissions(self._db, self._pending, clock_us)
            self._seen = Seen(self._db, self.admissions, clock_us, self._ending_row, self._post)
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
            # Another process may do the same at this moment: which version it is, is asked again where nobody else can.
            self._db.execute("BEGIN IMMEDIATE")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version < _SCHEMA_VERSION:
                for statement in (*(statements("books_2.sql") if version == 1 else ()), *statements("books.sql")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            self._db.execute("COMMIT")

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

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Do all operations in one transaction. Outcomes are in their places, None for what cannot be refused.

        ``released`` are then the accounts on which something is held no more. Raises BooksBusyError or
        BooksFailedError, and then nothing has changed.
        """
        try:
            return self._transaction(lambda: self._apply_fresh(operations))
        except NotFreshError:
            return self._transaction(lambda: [self._do(operation) for operation in operations])

    def observe(
        self, attempts: Iterable[Attempt], *, batch: int = 1000, budgets: Callable[[Attempt], Claim | None] = _no_claim
    ) -> int:
        """Book attempts that already happened, in transactions of ``batch``. Returns how many were new.

        ``budgets`` says which budgets an attempt counts toward; it is booked whatever they have left.
        """
        new = 0
        pending: list[Attempt] = []
        for attempt in attempts:
            pending.append(attempt)
            if len(pending) >= batch:
                new += self._observe_batch(pending, budgets)
                pending = []
        return new + (self._observe_batch(pending, budgets) if pending else 0)

    def revise(
        self,
        retracted: Sequence[str],
        attempts: Sequence[Attempt],
        *,
        budgets: Callable[[Attempt], Claim | None] = _no_claim,
    ) -> int:
        """Take back observed attempts and book others in their place, in one transaction. Returns how many were taken back.

        Raises ValueError for an attempt that was seen at a nearer door: what was paid there stays.
        """

        def work() -> int:
            back = self._seen.retract(retracted)
            self._seen.enter(attempts, budgets)
            return back

        return self._transaction(work)

    def _observe_batch(self, attempts: Sequence[Attempt], budgets: Callable[[Attempt], Claim | None]) -> int:
        return self._transaction(lambda: self._seen.enter(attempts, budgets))

    def _transaction(self, work: Callable[[], T]) -> T:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                pending = self._pending()
                self._post_deltas(pending)
                self._db.execute("COMMIT")
                self.released = frozenset(name for name, delta in pending.items() if delta[0] < 0 or delta[5] < 0)
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self.admissions.forget()
                raise
            finally:
                self._posted.clear()
        except sqlite3.Error as error:
            raise books_error(error) from error
        return result

    def _apply_fresh(self, operations: Sequence[Operation]) -> list[Outcome]:
        """The same for operations that are all new, in a handful of statements. Raises NotFreshError.

        What ends in this transaction is released before anything is held in it.
        """
        outcomes: list[Outcome] = [None] * len(operations)
        holds: list[tuple[int, NeedsHold]] = []
        endings: list[NeedsSettlement] = []
        for index, operation in enumerate(operations):
            match operation:
                case NeedsHold():
                    holds.append((index, operation))
                case NeedsSettlement():
                    endings.append(operation)
                case NeedsMore():
                    raise NotFreshError  # rare, and in order with the ending of the same attempt
        if endings:
            released = release_all(self._db, [ending.opening.attempt_id for ending in endings])
            enter_all(self._db, [self._ended_row(each, released[each.opening.attempt_id]) for each in endings])
        if holds:
            self._hold_fresh(holds, outcomes)
        return outcomes

    def _ended_row(self, ending: NeedsSettlement, held: OpenHold) -> EntryRow:
        kind = "settle" if ending.attempt else "void"
        row = self._ending_row(ending.opening, ending.attempt, kind, held, held.accounts)
        self._post(row)
        return row

    def _hold_fresh(self, holds: Sequence[tuple[int, NeedsHold]], outcomes: list[Outcome]) -> None:
        if ended(self._db, [need.opening.attempt_id for _, need in holds]):
            raise NotFreshError
        claimed = self.admissions.ask([need for _, need in holds if need.claim is not None])
        totals = self.admissions.totals(name for asked in claimed for check in asked.checks for name in check.accounts)
        by_claim = iter(claimed)
        now = self._clock_us()
        entries: list[EntryRow] = []
        rows: list[tuple[str, int, int, str, int]] = []
        for index, need in holds:
            asked = next(by_claim) if need.claim is not None else None
            outcome = outcomes[index] = self._ruled(need, asked, totals)
            if isinstance(outcome, Held):
                entry = self._hold_row(need, outcome, now)
                self._post(entry)
                for name in totals.keys() & outcome.accounts:  # the next one in this batch finds it held
                    totals[name] = totals[name].plus(entry.changes)
                entries.append(entry)
                rows.append((entry.attempt_id, entry.held, now + self._hold_ttl_us, entry.accounts, entry.held_tokens))
        enter_all(self._db, entries)
        hold_all(self._db, rows)

    def _ruled(self, need: NeedsHold, asked: Asked | None, totals: dict[str, Totals]) -> Held | NotHeld | Crowded:
        """The outcome of a hold that is new."""
        if asked is None:
            return Held(need.opening.estimate.amount, accounts=accounts(need.opening.scope))
        match self.admissions.rule(asked, totals):
            case None:
                return Held(need.opening.estimate.amount, accounts=asked.accounts)
            case Denied(refusal):
                return NotHeld("", refusal)
            case Crowded() as crowded:
                return crowded
            case Admitted() as admitted:
                opening = asked.claim.opened(admitted)
                return Held(admitted.amount, opening, admitted, asked.checks, asked.accounts)

    def _do(self, operation: Operation) -> Outcome:
        match operation:
            case NeedsHold():
                return self._hold(operation)
            case NeedsMore():
                return self._extend(operation)
            case NeedsSettlement():
                self._settle(operation)
                return None

    def _hold(self, need: NeedsHold) -> Held | NotHeld | Crowded:
        attempt_id = need.opening.attempt_id
        if self._ended(attempt_id):
            return NotHeld(f"attempt {attempt_id} has already ended")
        held = self._db.execute(
            "SELECT amount_nanousd, accounts FROM open_hold WHERE attempt_id = ?", (attempt_id,)
        ).fetchone()
        if held is not None:
            return Held(NanoUSD(held[0]), accounts=_names(held[1]))
        asked = self.admissions.ask([need])[0] if need.claim is not None else None
        totals = self.admissions.totals(name for check in asked.checks for name in check.accounts) if asked else {}
        outcome = self._ruled(need, asked, totals)
        if isinstance(outcome, Held):
            now = self._clock_us()
            row = self._hold_row(need, outcome, now)
            self._enter(row)
            hold_all(self._db, [(attempt_id, row.held, now + self._hold_ttl_us, row.accounts, row.held_tokens)])
        return outcome

    def _hold_row(self, need: NeedsHold, held: Held, now_us: int) -> EntryRow:
        opening = held.opening or need.opening
        tokens = held.admitted.tokens if held.admitted else _tokens(opening.estimate, 0)
        text = names_text(held.accounts)
        amount = held.amount or 0
        payload = encode_opening(opening)
        return EntryRow(
            opening.attempt_id, _HOLD, "hold", now_us, amount, 0, 0, tokens, 0, 1, 0, 0, text, payload, None
        )

    def _extend(self, need: NeedsMore) -> NotHeld | None:
        """Hold more for an attempt that is open. Not held: a budget has not that much left, or it has ended."""
        attempt_id = need.opening.attempt_id
        checks = need.held.checks
        totals = self.admissions.totals(name for check in checks for name in check.accounts)
        final = need.held.admitted is not None and need.held.admitted.final
        refusal = more(checks, totals.__getitem__, amount=need.amount, tokens=need.tokens, final=final)
        if refusal is not None:
            return NotHeld("", refusal)
        found = self._db.execute(
            "UPDATE open_hold SET amount_nanousd = amount_nanousd + ?, tokens = tokens + ? WHERE attempt_id = ?"
            " RETURNING accounts",
            (need.amount, need.tokens, attempt_id),
        ).fetchone()
        if found is None:
            return NotHeld(f"attempt {attempt_id} is not held")
        (stage,) = self._db.execute(
            "SELECT max(max(stage) + 1, ?) FROM entry WHERE attempt_id = ?", (_EXTENSION, attempt_id)
        ).fetchone()
        now = self._clock_us()
        self._enter(
            EntryRow(attempt_id, stage, "extend", now, need.amount, 0, 0, need.tokens, 0, 0, 0, 0, found[0], None, None)
        )
        return None

    def _ended(self, attempt_id: str) -> bool:
        found = self._db.execute("SELECT 1 FROM entry WHERE attempt_id = ? AND stage = ?", (attempt_id, _ENDING))
        return found.fetchone() is not None

    def _settle(self, ending: NeedsSettlement) -> None:
        opening, attempt = ending.opening, ending.attempt
        held = self._release(opening.attempt_id)
        if held is not None:
            kind = "settle" if attempt else "void"
            self._enter(self._ending_row(opening, attempt, kind, held, held.accounts))
        elif attempt is not None:
            # Held in memory while the books could not be written: it is entered where it would have been held.
            text = names_text((ending.held.accounts if ending.held else ()) or accounts(opening.scope))
            assumed = (ending.held.amount or 0) if ending.held else 0
            if not self._enter(self._ending_row(opening, attempt, "settle", None, text, assumed=assumed)):
                self._correct(attempt)

    def _ending_row(
        self,
        opening: Opening,
        attempt: Attempt | None,
        kind: str,
        held: OpenHold | None,
        names: str,
        *,
        assumed: int = 0,
    ) -> EntryRow:
        """``assumed`` is what budgets count for an attempt that was not held here and whose charge is not known."""
        amount = attempt.charge.amount if attempt else NanoUSD(0)
        # Unknown is never zero: money and tokens that nobody stated count as those that were held for them.
        spent, unpriced, unknown = (0, 1, held.amount if held else assumed) if amount is None else (amount, 0, 0)
        tokens = _tokens(attempt.charge, held.tokens if held else 0) if attempt else 0
        calls = 1 if attempt else 0
        payload = encode_attempt(attempt) if attempt else None
        key = response_key(attempt) if attempt else None
        back = (-held.amount, -held.tokens, -1) if held else (0, 0, 0)
        return EntryRow(
            opening.attempt_id, _ENDING, kind, self._clock_us(), back[0], spent, unpriced, back[1], tokens, back[2], calls,
            unknown, names, payload, key,
        )  # fmt: skip

    def _correct(self, attempt: Attempt) -> None:
        """A settlement after the hold expired: book the difference to the estimate that the expiry charged, once."""
        opening = attempt.opening
        row = self._db.execute(
            "SELECT kind, spent_nanousd, unpriced, spent_tokens, accounts, assumed_nanousd FROM entry"
            " WHERE attempt_id = ? AND stage = ?",
            (opening.attempt_id, _ENDING),
        ).fetchone()
        if row is None or row[0] != "expire":
            return
        amount = attempt.charge.amount
        spent = 0 if amount is None else amount - row[1]
        unpriced, assumed = (-row[2], -row[5]) if amount is not None else (0, 0)
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
        tokens = _tokens(attempt.charge, row[3]) - row[3]
        payload = encode_attempt(late)
        now = self._clock_us()
        self._enter(
            EntryRow(
                opening.attempt_id, _CORRECTION, "adjust", now, 0, spent, unpriced, 0, tokens, 0, 0, assumed, row[4], payload,
                None,
            )
        )  # fmt: skip

    def _release(self, attempt_id: str) -> OpenHold | None:
        found = self._db.execute(
            "DELETE FROM open_hold WHERE attempt_id = ? RETURNING amount_nanousd, tokens, accounts", (attempt_id,)
        ).fetchone()
        return None if found is None else OpenHold(*found)

    def _enter(self, row: EntryRow) -> bool:
        """False when the attempt has this stage already."""
        cursor = self._db.execute(
            INSERT_ENTRY + "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (attempt_id, stage) DO NOTHING",
            row,
        )
        if cursor.rowcount != 1:
            return False
        self._post(row)
        return True

    def _post(self, row: EntryRow) -> None:
        # By the list of accounts: most calls of a batch share theirs.
        before = self._posted.get(row.accounts)
        self._posted[row.accounts] = Totals(*row.changes) if before is None else before.plus(row.changes)

    def _pending(self) -> dict[str, Totals]:
        """What this transaction has posted so far, by account."""
        pending: dict[str, Totals] = {}
        for text, changes in self._posted.items():
            for name in _names(text):
                before = pending.get(name)
                pending[name] = changes if before is None else before.plus(changes)
        return pending

    def _post_deltas(self, pending: dict[str, Totals]) -> None:
        self._db.executemany(
            "INSERT INTO balance VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (account) DO UPDATE SET"
            " held_nanousd = held_nanousd + ?2, spent_nanousd = spent_nanousd + ?3, unpriced = unpriced + ?4,"
            " held_tokens = held_tokens + ?5, spent_tokens = spent_tokens + ?6, held_calls = held_calls + ?7,"
            " spent_calls = spent_calls + ?8, assumed_nanousd = assumed_nanousd + ?9",
            [(name, *delta) for name, delta in pending.items()],
        )

    # --- the sweeper ------------------------------------------------------------------------------------------

    def expire(self, *, before_us: int | None, keep: Callable[[str], bool] = lambda _: False, batch: int = 500) -> int:
        """End open holds by charging their estimates: those past their time, or all of them when ``before_us`` is None.

        ``keep`` names attempts that are alive; their time is extended instead. Returns how many were expired.
        """
        ended, last = 0, ""
        while True:
            limit_us = (1 << 62) if before_us is None else before_us
            try:
                # In the order of their ids: those that are kept stay where they are, and must not be met again.
                rows: list[tuple[str, int, str, bytes]] = self._db.execute(
                    "SELECT h.attempt_id, h.amount_nanousd, h.accounts, e.payload FROM open_hold h"
                    " JOIN entry e ON e.attempt_id = h.attempt_id AND e.stage = 0"
                    " WHERE h.expires_us <= ? AND h.attempt_id > ? ORDER BY h.attempt_id LIMIT ?",
                    (limit_us, last, batch),
                ).fetchall()
            except sqlite3.Error as error:
                raise books_error(error) from error
            if not rows:
                return ended
            last = rows[-1][0]
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
        attempt = Attempt(opening, "expired", charge, error="its process stopped before the attempt ended")
        return int(self._enter(self._ending_row(opening, attempt, "expire", released, released.accounts)))

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


def statements(name: str) -> Iterator[str]:
    """The statements of a file, one by one: a script would commit the transaction it is run in."""
    statement = ""
    for line in resources.files("bursar.adapters").joinpath(f"sql/{name}").read_text(encoding="utf-8").splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _tokens(charge: Charge, unknown: int) -> int:
    """All tokens of a charge, or ``unknown`` where its usage is not known."""
    return unknown if charge.usage is None else charge.usage.input_tokens + charge.usage.output_tokens


def _unread_opening(attempt_id: str, held: int, names: str, at_us: int) -> Opening:
    """Where another version wrote the opening: what the open hold itself says."""
    task = next((name.removeprefix("task:") for name in json.loads(names) if name.startswith("task:")), "")
    estimate = Charge(NanoUSD(held), None, None) if held else Charge(None, "the attempt cannot be read", None)
    return Opening(attempt_id, attempt_id, "model", "gateway", "unknown", at_us, "", "", Scope(task=task), estimate)


@lru_cache(maxsize=4096)
def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
