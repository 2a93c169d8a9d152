"""What can go wrong at the edges.

BursarError
├── ConfigError          the configuration or an option has a value that cannot be
├── DataDirError         the data directory cannot be used
│   └── DataDirInUseError    by another server
├── BooksError
│   ├── BooksBusyError       another process is writing; try again in a moment
│   └── BooksFailedError     the books could not be read or written; nothing has changed
├── CacheError           the cache cannot be reached or read; a call goes on without it
└── LedgerError          the ledger could not be read or written; nothing is lost, the books have it
    └── LedgerBusyError      another process has it; try again in a moment

Expected outcomes (a refused hold, an unpriced charge) are values, not exceptions.
"""

from __future__ import annotations

__all__ = [
    "BooksBusyError",
    "BooksError",
    "BooksFailedError",
    "BursarError",
    "CacheError",
    "ConfigError",
    "DataDirError",
    "DataDirInUseError",
    "LedgerBusyError",
    "LedgerError",
]


class BursarError(Exception):
    """An error that a person can act on: its text names the value, the limit and the way out."""


class ConfigError(BursarError):
    """A configuration value that cannot be."""


class DataDirError(BursarError):
    """A data directory that cannot be used."""


class DataDirInUseError(DataDirError):
    """A data directory that another server uses."""


class BooksError(BursarError):
    """The books."""


class BooksBusyError(BooksError):
    """Another process is writing to the books."""


class BooksFailedError(BooksError):
    """The books could not be read or written."""


class CacheError(BursarError):
    """The response cache cannot be reached or read."""


class LedgerError(BursarError):
    """The ledger could not be read or written."""


class LedgerBusyError(LedgerError):
    """Another process has the ledger's file open."""
