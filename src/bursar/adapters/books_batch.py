"""Many rows of the books in few statements.

Rule 1: a statement is a hand-over of the interpreter lock; a batch of calls costs as many statements as one call.
Rule 2: only what is certainly new is written here: holds of attempts the books have never seen, endings of open holds.
        Anything else raises ``NotFreshError``, the transaction is undone, and the careful way is taken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

__all__ = [
    "INSERT_ENTRY",
    "EntryRow",
    "NotFreshError",
    "OpenHold",
    "answered",
    "ended",
    "enter_all",
    "hold_all",
    "imported",
    "release_all",
    "select_in",
]


class EntryRow(NamedTuple):
    """One row of ``entry``: from ``held`` to ``assumed`` it is what changes on each of its accounts."""

    attempt_id: str
    stage: int
    kind: str
    at_us: int
    held: int
    spent: int
    unpriced: int
    held_tokens: int
    spent_tokens: int
    held_calls: int
    spent_calls: int
    assumed: int
    accounts: str
    payload: bytes | None
    response_key: str | None

    @property
    def changes(self) -> tuple[int, ...]:
        """What it changes, in the order of ``Totals``."""
        return self[4:12]


class OpenHold(NamedTuple):
    """What an open hold sets aside, and where its ending is entered (JSON)."""

    amount: int
    tokens: int
    accounts: str


INSERT_ENTRY: Final = (
    "INSERT INTO entry (attempt_id, stage, kind, at_us, held_nanousd, spent_nanousd, unpriced, held_tokens, spent_tokens,"
    " held_calls, spent_calls, assumed_nanousd, accounts, payload, response_key) VALUES "
)

# Statements are prepared per number of rows: few sizes keep them all prepared.
_SIZES: Final = (128, 32, 8, 2, 1)
_SELECT_MAX: Final = 256


class NotFreshError(Exception):
    """Something in the batch has been in the books before."""


def enter_all(db: sqlite3.Connection, rows: Sequence[EntryRow]) -> None:
    """Raises NotFreshError when an attempt has that stage already."""
    _insert(db, INSERT_ENTRY, len(EntryRow._fields), rows)


def hold_all(db: sqlite3.Connection, rows: Sequence[tuple[str, int, int, str, int]]) -> None:
    """Open holds: attempt_id, amount, expires_us, accounts, tokens. Raises NotFreshError when one is open already."""
    _insert(db, "INSERT INTO open_hold VALUES ", 5, rows)


def ended(db: sqlite3.Connection, attempt_ids: Sequence[str]) -> set[str]:
    """Which of the attempts have ended."""
    return _known(db, "SELECT attempt_id FROM entry WHERE stage = 1 AND attempt_id IN", attempt_ids)


def imported(db: sqlite3.Connection, digests: Sequence[bytes]) -> set[bytes]:
    """Which digests are those of imports that have been rolled up."""
    return _known(db, "SELECT digest FROM imported WHERE digest IN", digests)


def answered(db: sqlite3.Connection, response_keys: Sequence[str]) -> set[str]:
    """Which responses have been booked, and not taken back."""
    return _known(
        db,
        "SELECT response_key FROM entry e WHERE NOT EXISTS (SELECT 1 FROM entry r WHERE r.attempt_id = e.attempt_id"
        " AND r.stage = 2 AND r.kind = 'retract') AND response_key IN",
        response_keys,
    )


def select_in(db: sqlite3.Connection, head: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement that ends in ``IN``, for any number of values."""
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(values), _SELECT_MAX):
        part = list(values[start : start + _SELECT_MAX])
        size = 1 << (len(part) - 1).bit_length()
        part += part[-1:] * (size - len(part))  # a value twice finds its row once
        rows += db.execute(_in(head, size, ""), part).fetchall()
    return rows


def _known(db: sqlite3.Connection, head: str, values: Sequence[Any]) -> set[Any]:
    return {row[0] for row in select_in(db, head, values)}


def release_all(db: sqlite3.Connection, attempt_ids: Sequence[str]) -> dict[str, OpenHold]:
    """Close open holds: what was held, by attempt. Raises NotFreshError when one is not open."""
    released: dict[str, OpenHold] = {}
    tail = " RETURNING attempt_id, amount_nanousd, tokens, accounts"
    for size, part in _parts(attempt_ids):
        for row in db.execute(_in("DELETE FROM open_hold WHERE attempt_id IN", size, tail), part).fetchall():
            released[row[0]] = OpenHold(*row[1:])
    if len(released) != len(attempt_ids):
        raise NotFreshError
    return released


def _insert(db: sqlite3.Connection, head: str, columns: int, rows: Sequence[tuple[Any, ...]]) -> None:
    try:
        for size, part in _parts(rows):
            db.execute(_values(head, columns, size), [value for row in part for value in row])
    except sqlite3.IntegrityError as error:
        raise NotFreshError from error


def _parts(items: Sequence[Any]) -> list[tuple[int, Sequence[Any]]]:
    parts: list[tuple[int, Sequence[Any]]] = []
    position = 0
    for size in _SIZES:
        while len(items) - position >= size:
            parts.append((size, items[position : position + size]))
            position += size
    return parts


@lru_cache(maxsize=32)
def _values(head: str, columns: int, size: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return head + ", ".join([row] * size)


@lru_cache(maxsize=64)
def _in(head: str, size: int, tail: str) -> str:
    return f"{head} ({', '.join('?' * size)}){tail}"
