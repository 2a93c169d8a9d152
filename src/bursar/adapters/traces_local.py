"""The store of traces for the threads of an agent's own process."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from bursar.core.observations import Observation, TaskOutcome

from .trace_store import TraceStore

__all__ = ["LocalTraces"]

# As the books' (``books_local``): what a fork brought along is neither used nor closed.
_INHERITED: Final[list[object]] = []
_LIVING: Final[weakref.WeakSet[LocalTraces]] = weakref.WeakSet()


class LocalTraces:
    """``engine.ports.Traces`` that any thread may use. The file is opened when there is something to take."""

    def __init__(self, open_store: Callable[[], TraceStore]) -> None:
        self._open_store = open_store
        self._lock = threading.Lock()
        self._store: TraceStore | None = None
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

    def forked(self) -> None:
        """This process is a child."""
        if self._store is not None:
            _INHERITED.append(self._store)
        self._lock = threading.Lock()
        self._store = None


def _after_fork() -> None:
    for traces in list(_LIVING):
        with suppress(Exception):  # a child must come to life whatever is wrong with its parent's store
            traces.forked()


os.register_at_fork(after_in_child=_after_fork)
