"""The books for the threads of an agent's own process, shared with every other process of the machine.

Rule 1: a hold is committed before it is granted. What ended is committed by whoever holds next, or a moment later by a
        thread of its own: until then its hold stands, so that nothing is lost if the process dies.
Rule 2: one transaction takes all that waits, endings first. A thread that must wait for the lock finds less to do.
Rule 3: what cannot be written now stays and is tried again; one operation that no store takes is left out and said.
Rule 4: a child of ``fork`` begins with an empty queue and a connection of its own: what waits is its parent's. The parent
        closes its connection before it forks: SQLite would believe that the child has the parent's locks, and the next
        process that closes the file would take the log away under it.
Rule 5: a forgotten answer may be settled by the collector of garbage, at any moment, also in the middle of a turn: what only
        queues takes no lock that its own thread may hold.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from bursar.core.admission import Claim, Crowded, Refusal
from bursar.core.budgets import TaskLimit
from bursar.core.call import Held, NeedsHold, NeedsMore, NeedsSettlement, NotHeld
from bursar.core.errors import BooksBusyError, BooksError, BooksFailedError
from bursar.core.ledger import Attempt
from bursar.engine.ports import TaskUse

from .books_desk import task_totals, use_of_task
from .books_errors import books_error
from .books_file import BooksFile, Outcome

__all__ = ["LocalBooks"]

_log = logging.getLogger("bursar.books")

_LINGER_S: Final = 0.02
_IDLE_S: Final = 1.0
_RETRY_S: Final = 0.5
_BATCH_MAX: Final = 256
_TOGETHER_MAX: Final = 32
_WAITING_MAX: Final = 20_000
_KEPT_MAX: Final = 200_000  # some 200 MB
_RENEW_EVERY_S: Final = 30.0
_EXIT_WAIT_S: Final = 5.0


class _Seen(NamedTuple):
    """What already happened, and the budgets it counts toward."""

    attempt: Attempt
    claim: Claim | None


class _Hold(NamedTuple):
    """A hold that no budget looks at, made when it is written."""

    attempt_id: str
    make: Callable[[], NeedsHold]


_Operation: TypeAlias = _Hold | NeedsSettlement | _Seen

T = TypeVar("T")

# Connections that a fork brought into a child although they should not have been open. To close them there, or let them be
# collected, would tear down the log and the locks of the parent's (https://www.sqlite.org/howtocorrupt.html, 2.6): they are
# kept and never used.
_INHERITED: Final[list[object]] = []
_LIVING: Final[weakref.WeakSet[LocalBooks]] = weakref.WeakSet()


class LocalBooks:
    """``engine.ports.ThreadBooks`` over a file of books. Any thread may call.

    ``open_file`` opens a connection that any thread may use, one at a time. ``sweep`` is called every half minute with
    the file and the attempts that are alive here; ``beside`` writes what belongs beside the books, after each turn, and
    raises BooksError.
    """

    def __init__(
        self,
        open_file: Callable[[], BooksFile],
        *,
        sweep: Callable[[BooksFile, set[str]], object],
        beside: Callable[[], object],
    ) -> None:
        self._open_file = open_file
        self._beside = beside
        self._sweep = sweep
        self._limited_tasks: set[str] = set()
        self._begin()
        self._file: BooksFile | None = open_file()  # now, so that what is wrong with it is said where it is set up
        _LIVING.add(self)

    def _begin(self) -> None:
        self._lock = _Turn()
        self._starting = threading.RLock()
        self._waiting: deque[_Operation] = deque()
        self._wake = threading.Event()
        self._idle = False
        self._due = False
        self._since_s = 0.0
        self._thread: threading.Thread | None = None
        self._file = None
        self._closed = False
        self._forking = False
        self._swept_s = time.monotonic()
        self.alive: set[str] = set()
        self.failure: str | None = None
        self.lost = 0

    def before_fork(self) -> None:
        """Let nothing of the file come along (rule 4). Raises BooksBusyError in the middle of a turn of this thread."""
        self._lock.__enter__()
        self._forking = True
        if self._file is not None:
            self._limited_tasks |= self._file.admissions.limited_tasks
            self._file.close()
            self._file = None

    def after_fork(self) -> None:
        """This process is the parent: the file is opened again when it is needed."""
        if self._forking:
            self._forking = False
            self._lock.__exit__()

    def forked(self) -> None:
        """This process is a child: begin anew (rule 4)."""
        if self._file is not None:
            _INHERITED.append(self._file)
        self._begin()

    @property
    def closed(self) -> bool:
        return self._closed

    # --- holding ----------------------------------------------------------------------------------------------

    def hold(self, need: NeedsHold) -> Held | NotHeld | Crowded:
        """All its budgets or none, committed. Raises BooksError."""
        if self.failure is not None and len(self._waiting) >= _WAITING_MAX:
            return NotHeld(f"{len(self._waiting)} endings wait for the books: {self.failure}")
        with self._lock:
            outcome = self._hold_with_waiting(need)
        assert outcome is not None
        if isinstance(outcome, Held):
            self.alive.add(need.opening.attempt_id)
        return outcome

    def _hold_with_waiting(self, need: NeedsHold) -> Outcome:
        """One transaction for the hold and the few endings before it; the careful way where that cannot be."""
        waiting = len(self._waiting)
        if 0 < waiting <= _TOGETHER_MAX:
            batch = [self._waiting[i] for i in range(waiting)]
            calls, seen = _sorted(batch)
            if not seen:
                try:
                    outcome = self._opened().apply([*calls, need])[-1]
                except BooksError:
                    pass  # whose fault it is, is found out one by one
                else:
                    self._written(batch)
                    return outcome
        self._write_waiting()
        return self._opened().apply([need])[0]

    def extend(self, need: NeedsMore) -> Refusal | None:
        """Hold more for a running attempt: None when that is done. Raises BooksError."""
        with self._lock:
            self._write_waiting()
            outcome = self._opened().apply([need])[0]
        if outcome is None:
            return None
        assert isinstance(outcome, NotHeld)
        return outcome.refusal

    # --- tasks ------------------------------------------------------------------------------------------------

    def place(self, tasks: Sequence[TaskLimit]) -> None:
        """Enter tasks that nobody has called for yet, the top first. Raises BooksError."""
        with self._lock:
            file = self._opened()
            file.transaction(lambda: [file.admissions.place(task) for task in tasks])

    def task_use(self, task: str) -> TaskUse:
        """Raises BooksError."""
        with self._lock:
            self._write_waiting()
            file = self._opened()
            return use_of_task(*file.transaction(lambda: task_totals(file, task)))

    def is_limited(self, tasks: Iterable[str]) -> bool:
        """Whether any of the tasks, or one above them, has a limit of its own. Raises BooksError."""
        with self._lock:
            chain = self._opened().admissions.chain
            try:
                return any(task.limit is not None for name in tasks if name for task in chain(name))
            except sqlite3.Error as error:
                raise books_error(error) from error

    def limited_tasks(self) -> set[str]:
        now = self._file.admissions.limited_tasks if self._file is not None else set[str]()
        return self._limited_tasks | now

    def ask(self, question: Callable[[BooksFile], T]) -> T:
        """Ask the file when everything that ended is in it. Raises BooksError."""
        with self._lock:
            self._write_waiting()
            return question(self._opened())

    # --- what need not wait -----------------------------------------------------------------------------------

    def hold_later(self, attempt_id: str, make: Callable[[], NeedsHold]) -> None:
        """Enter a hold that no budget looks at within a moment, unless the call has ended by then."""
        self.alive.add(attempt_id)
        self._later(_Hold(attempt_id, make))

    def settle_later(self, settlement: NeedsSettlement) -> None:
        """Enter an ending within a moment."""
        self.alive.discard(settlement.opening.attempt_id)
        self._later(settlement)

    def observe(self, attempt: Attempt, claim: Claim | None) -> None:
        """Book what already happened, within a moment. It counts toward the budgets of the claim."""
        self._later(_Seen(attempt, claim))

    def _later(self, operation: _Operation) -> None:
        if not self._waiting:
            self._since_s = time.monotonic()
        if len(self._waiting) >= _KEPT_MAX:
            self._lose()
            return
        self._waiting.append(operation)
        if self._closed:  # a stream that outlived the session
            self._write_late()
        else:
            self.wake()

    def _lose(self) -> None:
        """The books have been away for so long that memory is not for more. What is held is charged by estimate later."""
        if self.lost == 0:
            _log.error("%d operations wait for the books, no more are kept: %s", len(self._waiting), self.failure)
        self.lost += 1

    def wake(self) -> None:
        """Let the thread look, a moment from now."""
        self._due = True
        if self._thread is None:
            self._start()
        if self._idle:
            self._wake.set()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="bursar-books", daemon=True)
                self._thread.start()
                _flush_at_worker_exit()

    def _write_late(self) -> None:
        try:
            with self._lock:
                if self._file is None:
                    self._file = self._open_file()
                self._write_waiting()
                self._file.close()
                self._file = None
        except BooksError as error:
            _log.error("the end of a call came after bursar.shutdown() and cannot be written: %s", error)

    def flush(self, timeout_s: float) -> bool:
        """Write what waits. False when it could not be written in time: what is held stands, and is charged by estimate."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with self._lock:
                    self._write_waiting()
                self._beside()
                return True
            except BooksError as error:
                if time.monotonic() >= deadline:
                    _log.error("%d endings could not be written: %s", len(self._waiting), error)
                    return False
                time.sleep(min(_RETRY_S, timeout_s / 10))

    def close(self, timeout_s: float) -> bool:
        """Flush, and use the file no more."""
        written = self.flush(timeout_s)
        self._closed = True
        self._wake.set()
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return written

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause, until_s = _LINGER_S, time.monotonic() + _IDLE_S
        while not self._closed:
            if not self._due and time.monotonic() > until_s:
                self._doze()
            # What comes in the meantime goes into the same transaction, here or with the next hold.
            time.sleep(max(pause, self._since_s + _LINGER_S - time.monotonic()) if self._waiting else pause)
            if not self._due or (self._waiting and time.monotonic() < self._since_s + _LINGER_S):
                continue
            self._due = False
            until_s = time.monotonic() + _IDLE_S
            try:
                with self._lock:
                    if self._closed:
                        return
                    self._write_waiting()
                    self._sweep_now()
                self._beside()
                pause = _LINGER_S
            except BooksError as error:
                if self.failure is None:
                    _log.error("the books cannot be written, trying again: %s", error)
                self.failure = str(error)
                pause = _RETRY_S
                self._due = True

    def _doze(self) -> None:
        """Wait to be woken: while calls come one after the other that would take each of them a switch of threads."""
        self._idle = True
        if not self._due:
            self._wake.wait(_RENEW_EVERY_S)
        self._idle = False
        self._wake.clear()
        self._due = True

    def _sweep_now(self) -> None:
        now = time.monotonic()
        if now - self._swept_s >= _RENEW_EVERY_S:
            self._swept_s = now
            self._sweep(self._opened(), set(self.alive))

    def _write_waiting(self) -> None:
        """In order, as many as there are. Raises BooksError, and then what is not written still waits."""
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(len(self._waiting), _BATCH_MAX))]
            try:
                self._write(batch)
            except BooksBusyError:
                raise
            except Exception as error:
                if isinstance(error, BooksFailedError) and not _is_their_fault(error):
                    raise
                self._write_each(batch)
            self._written(batch)

    def _written(self, batch: Sequence[_Operation]) -> None:
        for _ in batch:
            self._waiting.popleft()
        self.failure = None

    def _write(self, batch: Sequence[_Operation]) -> None:
        file = self._opened()
        calls, seen = _sorted(batch)
        try:
            if calls:
                file.apply(calls)
            if seen:
                claims = {attempt.opening.attempt_id: claim for attempt, claim in seen}
                file.observe([attempt for attempt, _ in seen], budgets=lambda a: claims[a.opening.attempt_id])
        except (OSError, MemoryError) as error:  # nothing that an operation can be blamed for
            raise BooksFailedError(str(error) or type(error).__name__) from error

    def _write_each(self, batch: Sequence[_Operation]) -> None:
        for operation in batch:
            try:
                self._write([operation])
            except BooksBusyError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the other operations must go on
                _log.error("an operation cannot be written and is left out: %r", error)

    def _opened(self) -> BooksFile:
        if self._file is None:
            if self._closed:
                raise BooksFailedError("the books are closed: call bursar.init() again")
            self._file = self._open_file()
        return self._file


class _Turn:
    """A lock that refuses a thread which has it already, where waiting would be for ever (rule 5)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            raise BooksBusyError("this thread is in the middle of writing the books")
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = 0
        self._lock.release()


def _flush_at_worker_exit() -> None:
    """A worker of ``multiprocessing`` that was forked runs no ``atexit`` when it ends, only what is registered there."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _flush_living, exitpriority=0)


def _flush_living() -> None:
    for books in list(_LIVING):
        books.flush(_EXIT_WAIT_S)


def _is_their_fault(error: BooksFailedError) -> bool:
    """Whether it is the operation that cannot be written, and not the file that cannot be."""
    return isinstance(error.__cause__, sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.DataError)


def _sorted(
    batch: Sequence[_Operation],
) -> tuple[list[NeedsHold | NeedsSettlement], list[_Seen]]:
    """What is to be applied, and what is to be booked as seen: a call that no budget looked at, and that is over before its
    hold was entered, needs none."""
    held = {each.attempt_id for each in batch if isinstance(each, _Hold)}
    over = held and {each.opening.attempt_id for each in batch if isinstance(each, NeedsSettlement)} & held
    calls: list[NeedsHold | NeedsSettlement] = []
    seen: list[_Seen] = []
    for each in batch:
        match each:
            case _Seen():
                seen.append(each)
            case _Hold(attempt_id, make):
                if attempt_id not in over:
                    calls.append(make())
            case NeedsSettlement(opening, attempt):
                if opening.attempt_id not in over:
                    calls.append(each)
                elif attempt is not None:
                    seen.append(_Seen(attempt, None))
    return calls, seen


def _before_fork() -> None:
    for books in list(_LIVING):
        with suppress(BooksBusyError, sqlite3.Error):
            books.before_fork()


def _after_fork_in_parent() -> None:
    for books in list(_LIVING):
        books.after_fork()


def _after_fork_in_child() -> None:
    for books in list(_LIVING):
        with suppress(Exception):  # a child must come to life whatever is wrong with its parent's books
            books.forked()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
