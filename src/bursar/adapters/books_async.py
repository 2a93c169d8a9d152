"""The books for an event loop: group commit on the loop itself.

Rule 1: operations that arrive in one turn of the loop are committed together; each caller waits for its commit.
Rule 2: the loop never waits for the database: a busy one is tried again a moment later, and has failed when that
        went on for ``_BUSY_MAX_S``.
Rule 3: when the books fail, holds are refused with the reason, unless every budget of the call says what may be used
        meanwhile; settlements are kept and tried again, and their callers do not wait: the hold still stands in the books,
        so that even a crash loses nothing.
Rule 4: one operation that cannot be written (no store takes it) stops no other: it is found and left out. A hold is
        refused; of a settlement the hold stays, and the sweeper charges its estimate.
Rule 5: a hold that only others' holds keep out waits in line, first come, first served; whenever something is released
        where it waits, the line is tried from its head. After ``wait_s`` it takes what there is, or is refused.

A thread would not be faster: the statements are short, and each would pay for the interpreter lock twice
(docs/decisions/0003-group-commit.md has the figures).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

from bursar.core.admission import Crowded, Refusal
from bursar.core.call import Held, NeedsHold, NeedsMore, NeedsSettlement, NotHeld
from bursar.core.errors import BooksBusyError, BooksError, BooksFailedError
from bursar.engine.meanwhile import Meanwhile

from .books_file import BooksFile, Operation, Outcome
from .waiting import Line

__all__ = ["AsyncBooks"]

_BUSY_RETRY_S: Final = 0.002
_BUSY_MAX_S: Final = 5.0
_FAILED_RETRY_S: Final = 0.5
_LOOK_AGAIN_S: Final = 0.25
_BATCH_MAX: Final = 512
# A settlement is about a kilobyte; past this many the process would rather stop taking calls than grow.
_UNSETTLED_MAX: Final = 20_000
_WAITING_MAX: Final = 20_000

_log = logging.getLogger("bursar.books")

_Future: TypeAlias = "asyncio.Future[Held | NotHeld | None]"


class _Queued(NamedTuple):
    """An operation on its way to the file. ``until`` is how long a hold may wait (loop time), ``line`` where it stood."""

    need: Operation
    future: _Future | None
    until: float = 0.0
    line: str = ""


class AsyncBooks:
    """``engine.ports.Books`` over a ``BooksFile``. Use from one event loop only.

    ``wait_s`` is how long a call waits for money that others hold.
    """

    def __init__(self, file: BooksFile, *, wait_s: float = 0.0) -> None:
        file.never_wait()
        self.file = file
        self.failure: str | None = None
        self._wait_s = wait_s
        self._queue: deque[_Queued] = deque()
        self._scheduled = False
        self._busy_since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, Line[_Queued]] = {}
        self._looking = False
        self._meanwhile = Meanwhile()

    @property
    def pending(self) -> int:
        """Operations not yet committed."""
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """Holds that wait for others to release."""
        return sum(map(len, self._lines.values()))

    async def hold(self, need: NeedsHold) -> Held | NotHeld:
        if self.failure is not None and len(self._queue) >= _UNSETTLED_MAX:
            return NotHeld(f"{len(self._queue)} settlements wait for the books: {self.failure}")
        outcome = await self._enqueue(need)
        assert outcome is not None
        return outcome

    async def extend(self, need: NeedsMore) -> Refusal | None:
        outcome = await self._enqueue(need)
        if outcome is None:
            return None
        assert isinstance(outcome, NotHeld)
        # Without a refusal the books themselves failed: the hold stands, and the stream may use no more than that.
        return outcome.refusal or Refusal("budget_held", "books", "", "", "usd", 0, 0, 0, need.amount, None)

    async def settle(self, need: NeedsSettlement) -> None:
        await self._enqueue(need)

    async def drain(self) -> None:
        """Commit what is waiting; returns when all is in the books or they fail."""
        while self._queue and self.failure is None:  # noqa: ASYNC110 - at shutdown only; an event would be set per commit
            await asyncio.sleep(_BUSY_RETRY_S)

    def _enqueue(self, need: Operation) -> _Future:
        future: _Future = self._loop.create_future()
        self._queue.append(_Queued(need, future, self._loop.time() + self._wait_s))
        self._schedule()
        return future

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        self._scheduled = False
        size = _BATCH_MAX
        while self._queue:
            batch = [self._queue[i] for i in range(min(len(self._queue), size))]
            try:
                outcomes = self.file.apply([queued.need for queued in batch])
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
                self._meanwhile.forget()
            for _ in batch:
                self._queue.popleft()
            self._answer(batch, outcomes)

    def _answer(self, batch: Sequence[_Queued], outcomes: Sequence[Outcome]) -> None:
        crowded: list[tuple[_Queued, str]] = []
        for queued, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Crowded):
                crowded.append((queued, outcome.account))
            elif queued.future is not None and not queued.future.done():
                queued.future.set_result(outcome)
        self._wait(batch, crowded)

    # --- the lines --------------------------------------------------------------------------------------------

    def _wait(self, batch: Sequence[_Queued], crowded: Sequence[tuple[_Queued, str]]) -> None:
        """Put the crowded ones in line, and try the lines where something was released or whose head got through."""
        moved = self.file.released
        for queued, account in reversed(crowded):  # those that stood at a head go back to it, in their order
            if queued.line:
                self._line(account).put_back(queued._replace(line=account))
        for queued, account in crowded:
            if not queued.line:
                self._stand(queued, account)
        through = {queued.line for queued in batch if queued.line} - {account for _, account in crowded}
        for account in (through | moved) & self._lines.keys():
            self._try_line(account, more=account in through)
        if self._lines and not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_AGAIN_S, self._look_again)

    def _stand(self, queued: _Queued, account: str) -> None:
        if not _listens(queued):
            return
        if self._loop.time() >= queued.until or self.waiting >= _WAITING_MAX:
            self._queue.append(_impatient(queued))
            self._schedule()
            return
        self._line(account).join(queued._replace(line=account))

    def _line(self, account: str) -> Line[_Queued]:
        return self._lines.setdefault(account, Line())

    def _try_line(self, account: str, *, more: bool) -> None:
        """Ask again for the first in line; for more of them each time when those before got their answer."""
        line = self._lines[account]
        for queued in line.next(more=more):
            if _listens(queued):
                self._queue.append(queued)
        if not line:
            del self._lines[account]
        if self._queue:
            self._schedule()

    def _look_again(self) -> None:
        """Other processes release, too; and nobody waits longer than allowed."""
        self._looking = False
        now = self._loop.time()
        for account in list(self._lines):
            line = self._lines[account]
            late = line.take(lambda queued: now >= queued.until)
            self._queue.extend(_impatient(queued) for queued in late if _listens(queued))
            if not line:
                del self._lines[account]
            else:
                self._try_line(account, more=False)
        if self._queue:
            self._schedule()
        if self._lines:
            self._looking = True
            self._loop.call_later(_LOOK_AGAIN_S, self._look_again)

    # --- failure ----------------------------------------------------------------------------------------------

    def _busy(self, error: BooksBusyError) -> None:
        now = self._loop.time()
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since < _BUSY_MAX_S:
            self._again(_BUSY_RETRY_S)
        else:
            self._failed(error)

    def _leave_out(self, error: Exception) -> None:
        need, future, *_ = self._queue.popleft()
        _log.error("%s of attempt %s cannot be written: %r", type(need).__name__, need.opening.attempt_id, error)
        if future is not None and not future.done():
            refused = NotHeld(f"this call cannot be written to the books: {error}")
            future.set_result(None if isinstance(need, NeedsSettlement) else refused)

    def _failed(self, error: BooksError) -> None:
        if self.failure is None:
            _log.error("the books failed, calls are refused until they work again: %s", error)
        self.failure = str(error)
        kept: list[_Queued] = []
        for queued in self._queue:
            need, future = queued.need, queued.future
            if isinstance(need, NeedsSettlement):
                kept.append(queued._replace(future=None))
                if future is not None and not future.done():
                    future.set_result(None)
            elif future is not None and not future.done():
                refused = NotHeld(f"the books cannot be written: {error}")
                future.set_result((self._hold_meanwhile(need) if isinstance(need, NeedsHold) else None) or refused)
        self._queue = deque(kept)
        self._again(_FAILED_RETRY_S)

    def _hold_meanwhile(self, need: NeedsHold) -> Held | None:
        return None if need.claim is None else self._meanwhile.hold(need.claim, self.file.admissions.limited_tasks)

    def _again(self, delay_s: float) -> None:
        if not self._scheduled and self._queue:
            self._scheduled = True
            self._loop.call_later(delay_s, self._commit)


def _listens(queued: _Queued) -> bool:
    """Who has gone away in the meantime must not be held for: nobody would settle it."""
    return queued.future is not None and not queued.future.done()


def _impatient(queued: _Queued) -> _Queued:
    """The same hold, which now takes what there is or is refused."""
    need = queued.need
    assert isinstance(need, NeedsHold)
    assert need.claim is not None
    return queued._replace(need=replace(need, claim=replace(need.claim, patient=False)), line="")
