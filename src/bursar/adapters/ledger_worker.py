"""The ledger for an event loop: one thread that ships, compacts and answers, one thing after the other.

Rule 1: the event loop never touches the ledger's file; a slow question delays views and nothing else.
Rule 2: the file is opened for each turn and closed after it, so that other processes get theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bursar.engine.ship import ship, ship_traces

from .books_file import BooksFile
from .ledger_duckdb import DuckLedger
from .retention import compact_books, compact_ledger
from .trace_store import TraceStore

__all__ = ["LedgerWorker"]

T = TypeVar("T")
_DAY_US = 86_400_000_000


class LedgerWorker:
    """``open_books``, ``open_ledger`` and ``open_traces`` are called in the worker's own thread."""

    def __init__(
        self,
        open_books: Callable[[], BooksFile],
        open_ledger: Callable[[], DuckLedger],
        open_traces: Callable[[], TraceStore] | None = None,
    ) -> None:
        self._open_books = open_books
        self._open_ledger = open_ledger
        self._open_traces = open_traces
        self._traces: TraceStore | None = None
        self._trace_position = -1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._books: BooksFile | None = None
        self._position = -1

    async def ship(self, *, at_least: int = 1) -> int:
        """Ship what is new, if it is ``at_least`` so many sequences. Returns how many the ledger lags. Raises LedgerError."""
        return await self._run(lambda: self._ship(at_least))

    async def ask(self, question: Callable[[DuckLedger], T]) -> T:
        """Answer from the ledger, with everything in it that is in the books now. Raises LedgerError."""
        return await self._run(lambda: self._ask(question))

    async def compact(self, now_us: int, *, books_days: int, ledger_days: int) -> int:
        """Sum up what is older than the retention. Returns how many entries and rows went."""
        return await self._run(lambda: self._compact(now_us, books_days, ledger_days))

    async def close(self) -> None:
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _file(self) -> BooksFile:
        if self._books is None:
            self._books = self._open_books()
        return self._books

    def _ship(self, at_least: int) -> int:
        books = self._file()
        lag = books.last_sequence() - self._position
        behind = self._store().last_sequence() - self._trace_position if self._open_traces else 0
        books.checkpoint()  # holds and voids fill the log too, and have nothing to ship
        if 0 <= lag < at_least and 0 <= behind < at_least:
            return lag
        ledger = self._open_ledger()
        try:
            self._ship_all(ledger)
        finally:
            ledger.close()
        return max(0, books.last_sequence() - self._position)

    def _store(self) -> TraceStore:
        if self._traces is None:
            assert self._open_traces is not None
            self._traces = self._open_traces()
        return self._traces

    def _ship_all(self, ledger: DuckLedger) -> None:
        ship(self._file(), ledger)
        self._position = ledger.last_sequence()
        if self._open_traces is not None:
            store = self._store()
            ship_traces(store, ledger)
            self._trace_position = store.last_sequence()

    def _ask(self, question: Callable[[DuckLedger], T]) -> T:
        ledger = self._open_ledger()
        try:
            self._ship_all(ledger)
            return question(ledger)
        finally:
            ledger.close()

    def _compact(self, now_us: int, books_days: int, ledger_days: int) -> int:
        def work(ledger: DuckLedger) -> int:
            before_us = now_us - books_days * _DAY_US
            old = compact_books(self._file(), before_us=before_us, shipped=ledger.last_sequence())
            if self._open_traces is not None:
                self._store().prune(before_us, shipped=ledger.trace_position())
            return old.deleted + compact_ledger(ledger, before_us=now_us - ledger_days * _DAY_US).deleted

        return self._ask(work)

    def _close(self) -> None:
        if self._books is not None:
            self._books.close()
            self._books = None
        if self._traces is not None:
            self._traces.close()
            self._traces = None
