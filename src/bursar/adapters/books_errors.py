"""What an error of the database means to those who use the books."""

from __future__ import annotations

import errno
import sqlite3

from bursar.core.errors import BooksBusyError, BooksFailedError

__all__ = ["books_error"]


def books_error(error: sqlite3.Error) -> BooksBusyError | BooksFailedError:
    """The error to raise instead."""
    if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BooksBusyError(f"another process keeps the books locked: {error}")
    return BooksFailedError(_explain(error))


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explain(error: sqlite3.Error) -> str:
    if _code(error) == sqlite3.SQLITE_FULL:
        return f"{error}: the disk is full ({errno.errorcode[errno.ENOSPC]}); free some space, nothing is lost"
    return f"{error}"
