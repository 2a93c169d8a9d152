"""Many rows of the books in few statements.

Rule 1: a statement is a hand-over of the interpreter lock; a batch of calls costs as many statements as one call.
Rule 2: only what is certainly new is written here: holds of attempts the books have never seen, endings of open holds.
        Anything else raises ``NotFreshError``, the transaction is undone, and the careful way is taken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

__all__ = ["EntryRow", "NotFreshError", "answered", "ended", "enter_all", "hold_all", "imported", "release_all"]

EntryRow: TypeAlias = tuple[str, int, str, int, int, int, int, str, bytes | None, str | None]
"""attempt_id, stage, kind, at_us, held, spent, unpriced, accounts, payload, response_key."""

# Statements are prepared per number of rows: few sizes keep them all prepared.
_SIZES: Final = (128, 32, 8, 2, 1)


class NotFreshError(Exception):
    """Something in the batch has been in the books before."""


def enter_all(db: sqlite3.Connection, rows: Sequence[EntryRow]) -> None:
    """Raises NotFreshError when an attempt has that stage already."""
    head = (
        "INSERT INTO entry (attempt_id, stage, kind, at_us, held_nanousd, spent_nanousd, unpriced, accounts, payload,"
        " response_key) VALUES "
    )
    _insert(db, head, 10, rows)


def hold_all(db: sqlite3.Connection, rows: Sequence[tuple[str, int, int, str]]) -> None:
    """Open holds: attempt_id, amount, expires_us, accounts. Raises NotFreshError when one is open already."""
    _insert(db, "INSERT INTO open_hold VALUES ", 4, rows)


def ended(db: sqlite3.Connection, attempt_ids: Sequence[str]) -> set[str]:
    """Which of the attempts have ended."""
    return _known(db, "SELECT attempt_id FROM entry WHERE stage = 1 AND attempt_id IN", attempt_ids)


def imported(db: sqlite3.Connection, digests: Sequence[bytes]) -> set[bytes]:
    """Which digests are those of imports that have been rolled up."""
    return _known(db, "SELECT digest FROM imported WHERE digest IN", digests)


def answered(db: sqlite3.Connection, response_keys: Sequence[str]) -> set[str]:
    """Which responses have been booked."""
    return _known(db, "SELECT response_key FROM entry WHERE response_key IN", response_keys)


def _known(db: sqlite3.Connection, head: str, values: Sequence[Any]) -> set[Any]:
    found: set[Any] = set()
    for size, part in _parts(values):
        found.update(row[0] for row in db.execute(_in(head, size, ""), part))
    return found


def release_all(db: sqlite3.Connection, attempt_ids: Sequence[str]) -> dict[str, int]:
    """Close open holds: the amounts that were held, by attempt. Raises NotFreshError when one is not open."""
    released: dict[str, int] = {}
    for size, part in _parts(attempt_ids):
        sql = _in("DELETE FROM open_hold WHERE attempt_id IN", size, " RETURNING attempt_id, amount_nanousd")
        released.update(db.execute(sql, part).fetchall())
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


@lru_cache(maxsize=32)
def _in(head: str, size: int, tail: str) -> str:
    return f"{head} ({', '.join('?' * size)}){tail}"
