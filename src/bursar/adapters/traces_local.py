"""The store of traces for the threads of an agent's own process."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from bursar.core.observations import Observation, TaskOutcome

from .trace_store import TraceStore

__all__ = ["LocalTraces"]

_LIVING: Final[weakref.WeakSet[LocalTraces]] = weakref.WeakSet()


class LocalTraces:
    """``engine.ports.Traces`` that any thread may use. The file is opened when there is something to take."""

    def __init__(self, open_store: Callable[[], TraceStore]) -> None:
        self._open_store = open_store
        self._lock = threading.Lock()
        self._store: TraceStore | None = None
        self._forking = False
        _LIVING.add(self)

    def take(self, observations: Sequence[Observation], outcomes: Sequence[TaskOutcome] = ()) -> None:
        """Durable before it returns. Raises BooksError."""
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            self._store.take(observations, outcomes)

    def close(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    def before_fork(self) -> None:
        """Let nothing of the file come along, as with the books (``books_local``, rule 4)."""
        self._lock.acquire()
        self._forking = True
        if self._store is not None:
            self._store.close()
            self._store = None

    def after_fork(self) -> None:
        if self._forking:
            self._forking = False
            self._lock.release()

    def forked(self) -> None:
        """This process is a child."""
        self._lock = threading.Lock()
        self._forking = False


def _before_fork() -> None:
    for traces in list(_LIVING):
        with suppress(sqlite3.Error):
            traces.before_fork()


def _after_fork_in_parent() -> None:
    for traces in list(_LIVING):
        traces.after_fork()


def _after_fork_in_child() -> None:
    for traces in list(_LIVING):
        traces.forked()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
