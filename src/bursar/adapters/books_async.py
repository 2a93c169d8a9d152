"""The books for an event loop: group commit on the loop itself.

Rule 1: operations that arrive in one turn of the loop are committed together; each caller waits for its commit.
Rule 2: the loop never waits for the database: a busy one is tried again a moment later, and has failed when that
        went on for ``_BUSY_MAX_S``.
Rule 3: when the books fail, holds are refused with the reason; settlements are kept and tried again, and their callers
        do not wait: the hold still stands in the books, so that even a crash loses nothing.
Rule 4: one operation that cannot be written (no store takes it) stops no other: it is found and left out. A hold is
        refused; of a settlement the hold stays, and the sweeper charges its estimate.

A thread would not be faster: the statements are short, and each would pay for the interpreter lock twice
(docs/decisions/0003-group-commit.md has the figures).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from typing import Final

from bursar.core.call import Held, NeedsHold, NeedsSettlement, NotHeld
from bursar.core.errors import BooksBusyError, BooksError, BooksFailedError

from .books_file import BooksFile

__all__ = ["AsyncBooks"]

_BUSY_RETRY_S: Final = 0.002
_BUSY_MAX_S: Final = 5.0
_FAILED_RETRY_S: Final = 0.5
_BATCH_MAX: Final = 512
# A settlement is about a kilobyte; past this many the process would rather stop taking calls than grow.
_UNSETTLED_MAX: Final = 20_000

_log = logging.getLogger("bursar.books")


class AsyncBooks:
    """``engine.ports.Books`` over a ``BooksFile``. Use from one event loop only."""

    def __init__(self, file: BooksFile) -> None:
        file.never_wait()
        self.file = file
        self.failure: str | None = None
        self._queue: deque[tuple[NeedsHold | NeedsSettlement, asyncio.Future[Held | NotHeld | None] | None]] = deque()
        self._scheduled = False
        self._busy_since: float | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def pending(self) -> int:
        """Operations not yet committed."""
        return len(self._queue)

    async def hold(self, need: NeedsHold) -> Held | NotHeld:
        if self.failure is not None and len(self._queue) >= _UNSETTLED_MAX:
            return NotHeld(f"{len(self._queue)} settlements wait for the books: {self.failure}")
        outcome = await self._enqueue(need)
        assert outcome is not None
        return outcome

    async def settle(self, need: NeedsSettlement) -> None:
        await self._enqueue(need)

    async def drain(self) -> None:
        """Commit what is waiting; returns when all is in the books or they fail."""
        while self._queue and self.failure is None:  # noqa: ASYNC110 - at shutdown only; an event would be set per commit
            await asyncio.sleep(_BUSY_RETRY_S)

    def _enqueue(self, need: NeedsHold | NeedsSettlement) -> asyncio.Future[Held | NotHeld | None]:
        future: asyncio.Future[Held | NotHeld | None] = self._loop.create_future()
        self._queue.append((need, future))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._commit)
        return future

    def _commit(self) -> None:
        self._scheduled = False
        size = _BATCH_MAX
        while self._queue:
            batch = [self._queue[i] for i in range(min(len(self._queue), size))]
            try:
                outcomes = self.file.apply([need for need, _ in batch])
            except BooksBusyError as error:
                self._busy(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the other operations must go on
                if isinstance(error, BooksFailedError) and not isinstance(error.__cause__, sqlite3.IntegrityError):
                    self._failed(error)
                    return
                if len(batch) == 1:
                    self._leave_out(error)
                size = 1
                continue
            self._busy_since = None
            if self.failure is not None:
                _log.warning("the books work again")
                self.failure = None
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                self._queue.popleft()
                if future is not None and not future.done():
                    future.set_result(outcome)

    def _busy(self, error: BooksBusyError) -> None:
        now = self._loop.time()
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since < _BUSY_MAX_S:
            self._again(_BUSY_RETRY_S)
        else:
            self._failed(error)

    def _leave_out(self, error: Exception) -> None:
        need, future = self._queue.popleft()
        _log.error("%s of attempt %s cannot be written: %r", type(need).__name__, need.opening.attempt_id, error)
        if future is not None and not future.done():
            refused = NotHeld(f"this call cannot be written to the books: {error}")
            future.set_result(refused if isinstance(need, NeedsHold) else None)

    def _failed(self, error: BooksError) -> None:
        if self.failure is None:
            _log.error("the books failed, calls are refused until they work again: %s", error)
        self.failure = str(error)
        kept: list[tuple[NeedsHold | NeedsSettlement, asyncio.Future[Held | NotHeld | None] | None]] = []
        for need, future in self._queue:
            if isinstance(need, NeedsHold):
                if future is not None and not future.done():
                    future.set_result(NotHeld(f"the books cannot be written: {error}"))
                continue
            kept.append((need, None))
            if future is not None and not future.done():
                future.set_result(None)
        self._queue = deque(kept)
        self._again(_FAILED_RETRY_S)

    def _again(self, delay_s: float) -> None:
        if not self._scheduled and self._queue:
            self._scheduled = True
            self._loop.call_later(delay_s, self._commit)
