"""What already happened elsewhere: entered in the books once, and taken back when it turns out to be somebody else's.

Rule 1: what is known by its own id, or told at second hand of a response that is known, changes nothing.
Rule 2: it is never refused. It counts toward the budgets of its time, as far as their windows are not over.
Rule 3: only what was told at second hand can be taken back, once, by an entry of its own.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Protocol

from bursar.core.admission import Claim, checks_of, posted
from bursar.core.budgets import TaskLimit
from bursar.core.ledger import Attempt, Opening, accounts

from .books_admission import Admissions
from .books_batch import EntryRow, OpenHold, answered, ended, enter_all, imported, select_in
from .rows import decode_row, encode_retraction

__all__ = ["Seen", "name_digest", "names_text", "response_key"]

_CORRECTION: Final = 2
_SECOND_HAND: Final = ("import", "otlp")
_RESPONSE_KEY_LENGTH_MAX: Final = 256


class _EndingRow(Protocol):
    def __call__(
        self, opening: Opening, attempt: Attempt | None, kind: str, held: OpenHold | None, names: str, *, assumed: int
    ) -> EntryRow: ...


class Seen:
    """One per connection; both methods are called inside of a transaction. ``post`` counts a row toward the balances."""

    def __init__(
        self,
        db: sqlite3.Connection,
        admissions: Admissions,
        clock_us: Callable[[], int],
        ending_row: _EndingRow,
        post: Callable[[EntryRow], None],
    ) -> None:
        self._db = db
        self._admissions = admissions
        self._clock_us = clock_us
        self._ending_row = ending_row
        self._post = post

    def enter(self, attempts: Sequence[Attempt], budgets: Callable[[Attempt], Claim | None]) -> int:
        """Enter the attempts that neither their id nor their provider's response id shows to be known. What a live door saw
        itself is known by its id alone: it was there."""
        ids = {attempt.opening.attempt_id for attempt in attempts}
        keys = {key for attempt in attempts if (key := response_key(attempt))}
        rolled_up = self._rolled_up(ids | keys)
        known_ids = ended(self._db, list(ids)) | (ids & rolled_up)
        known_keys = answered(self._db, list(keys)) | (keys & rolled_up)
        self._admissions.load(attempt.opening.scope.task for attempt in attempts)
        rows: list[EntryRow] = []
        for attempt in attempts:
            attempt_id, key = attempt.opening.attempt_id, response_key(attempt)
            second_hand = attempt.opening.door in _SECOND_HAND
            if attempt_id in known_ids or (second_hand and key in known_keys):
                continue
            known_ids.add(attempt_id)
            if key:
                known_keys.add(key)
            claim = budgets(attempt)
            text = names_text(self._observed_accounts(attempt, claim))
            assumed = max((budget.assume for budget in claim.budgets), default=0) if claim else 0
            row = self._ending_row(attempt.opening, attempt, "settle", None, text, assumed=assumed)
            self._post(row)
            rows.append(row)
        enter_all(self._db, rows)
        return len(rows)

    def _rolled_up(self, names: set[str]) -> set[str]:
        """Which of these are ids and response keys of imports whose entries have been rolled up."""
        if self._db.execute("SELECT 1 FROM imported LIMIT 1").fetchone() is None:
            return set()
        digests = {name: name_digest(name) for name in names}
        found = imported(self._db, list(digests.values()))
        return {name for name in names if digests[name] in found}

    def _observed_accounts(self, attempt: Attempt, claim: Claim | None) -> tuple[str, ...]:
        """Where what already happened is entered: the accounts of its own time, but not those of windows that are over."""
        scope = attempt.opening.scope
        if scope.parent_task and scope.task:
            chain = self._admissions.place(TaskLimit(scope.task, scope.parent_task))
        else:
            chain = self._admissions.chain(scope.task) if scope.task and claim is not None else ()
        if claim is None:
            return tuple(dict.fromkeys((*accounts(scope), *(f"task:{task.task}" for task in chain))))
        now = self._clock_us()
        checks = [
            c
            for c in checks_of(claim, chain, claim.at_us)
            if c.span.end_us is None or c.span.end_us + c.window.length_us > now
        ]
        return posted(claim, chain, checks)

    def retract(self, attempt_ids: Sequence[str]) -> int:
        """Take back everything that the endings of observed attempts changed. What was taken back, or summed up, stays so."""
        rows = select_in(
            self._db,
            "SELECT sequence, attempt_id, spent_nanousd, unpriced, spent_tokens, spent_calls, assumed_nanousd, accounts, payload"
            " FROM entry e WHERE stage = 1 AND NOT EXISTS (SELECT 1 FROM entry r WHERE r.attempt_id = e.attempt_id"
            " AND r.stage = 2) AND attempt_id IN",
            list(dict.fromkeys(attempt_ids)),
        )
        now = self._clock_us()
        entries: list[EntryRow] = []
        for sequence, attempt_id, spent, unpriced, tokens, calls, assumed, names, payload in rows:
            if decode_row(payload).door not in _SECOND_HAND:
                raise ValueError(f"attempt {attempt_id} was not observed from afar: it cannot be taken back")
            row = EntryRow(
                attempt_id, _CORRECTION, "retract", now, 0, -spent, -unpriced, 0, -tokens, 0, -calls, -assumed, names,
                encode_retraction(payload, sequence), None,
            )  # fmt: skip
            self._post(row)
            entries.append(row)
        enter_all(self._db, entries)
        return len(rows)


@lru_cache(maxsize=4096)
def names_text(names: tuple[str, ...]) -> str:
    return json.dumps(names)


def name_digest(name: str) -> bytes:
    """What stays of an imported attempt's id, and of a response's key, when the entries are rolled up."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def response_key(attempt: Attempt) -> str | None:
    if not attempt.response_id:
        return None
    return f"{attempt.opening.provider}:{attempt.response_id}"[:_RESPONSE_KEY_LENGTH_MAX]
