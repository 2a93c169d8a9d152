"""Traces for an event loop: one thread that reads, keeps and decides what comes in, one thing after the other.

Rule 1: the event loop never waits for it but where a sender waits for its answer: what was taken is on disk by then.
Rule 2: nothing here holds up a call: other doors are read of in the books, after they have written.
Rule 3: what waits has a limit. Beyond it senders are asked to come again, before anything of theirs is read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, TypeVar

from bursar.core.observations import Observation
from bursar.core.scopes import Scope
from bursar.engine.ports import VirtualKey
from bursar.engine.rulebook import Rulebook
from bursar.wire.otlp import Export, MetricExport
from bursar.wire.otlp_metrics import metric_observations

from .books_file import BooksFile
from .trace_evaluator import TraceEvaluator
from .trace_store import TraceStore

__all__ = ["TraceWorker"]

T = TypeVar("T")

_BACKLOG_MAX: Final = 100_000
_RETRY_S: Final = 2
_ROUNDS_MAX: Final = 50
_CHECKPOINT_EVERY_S: Final = 2.0


class TraceWorker:
    """``engine.ports.TraceIntake``. ``open_books`` and ``open_store`` are called in the worker's own thread."""

    def __init__(
        self,
        open_books: Callable[[], BooksFile],
        open_store: Callable[[], TraceStore],
        rulebook: Callable[[], Rulebook],
        *,
        backlog_max: int = _BACKLOG_MAX,
    ) -> None:
        self._open_books = open_books
        self._open_store = open_store
        self._rulebook = rulebook
        self._backlog_max = backlog_max
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="traces")
        self._books: BooksFile | None = None
        self._store: TraceStore | None = None
        self._evaluator: TraceEvaluator | None = None
        self._checkpointed_s = 0.0
        self.taken: Final[Counter[tuple[str, str]]] = Counter()
        """Observations by signal, taken or rejected."""

    @property
    def backlog(self) -> int:
        """Observations that are kept and not yet decided."""
        return self._evaluator.backlog if self._evaluator is not None else 0

    @property
    def counts(self) -> Counter[str]:
        """What became of observations: charged, linked, retracted."""
        return self._evaluator.counts if self._evaluator is not None else Counter()

    @property
    def retry_after_s(self) -> int | None:
        return _RETRY_S if self.backlog >= self._backlog_max else None

    async def take(self, signal: str, read: Callable[[], Export], key: VirtualKey | None) -> Export:
        """Read and keep. Raises BadRequest of ``read``, or BooksError, and then nothing was taken."""
        return await self._run(lambda: self._take(signal, read, key))

    async def take_points(self, read: Callable[[], MetricExport], key: VirtualKey | None) -> MetricExport:
        return await self._run(lambda: self._take_points(read, key))

    async def evaluate(self, *, everything: bool = False) -> None:
        """Decide what is due. Raises BooksError, and then it is tried again the next time."""
        for _ in range(_ROUNDS_MAX):
            if not await self._run(lambda: self._evaluate(everything=everything)):
                return

    async def close(self) -> None:
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- in the thread ----------------------------------------------------------------------------------------

    def _parts(self) -> tuple[TraceStore, TraceEvaluator]:
        if self._store is None or self._evaluator is None:
            self._books = self._open_books()
            self._store = self._open_store()
            # What ships to the ledger moves the books' log into their file, and ``_evaluate`` that of the store.
            self._books.connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._store.checkpoint_by_hand()
            self._evaluator = TraceEvaluator(self._books, self._store, self._rulebook)
            self._evaluator.resume(time.monotonic())
        return self._store, self._evaluator

    def _take(self, signal: str, read: Callable[[], Export], key: VirtualKey | None) -> Export:
        store, evaluator = self._parts()
        export = read()
        if export.observations:
            if key is not None:
                export = replace(export, observations=_from_key(export, key))
            if evaluator.full:
                export = _without(export, evaluator.full)
            if export.observations:
                evaluator.take(export.observations, store.arrive(export.observations), time.monotonic())
        self.taken[signal, "taken"] += len(export.observations)
        self.taken[signal, "rejected"] += export.rejected
        return export

    def _take_points(self, read: Callable[[], MetricExport], key: VirtualKey | None) -> MetricExport:
        store, evaluator = self._parts()
        export = read()
        if export.points:
            previous = store.series(list({point.series for point in export.points}))
            observations, series = metric_observations(export.points, previous)
            if key is not None:
                observations = _from_key(Export(observations, 0, ""), key)
            arrival = store.arrive(observations, series)
            if observations:
                evaluator.take(observations, arrival, time.monotonic())
        self.taken["metrics", "taken"] += len(export.points)
        self.taken["metrics", "rejected"] += export.rejected
        return export

    def _evaluate(self, *, everything: bool) -> bool:
        store, evaluator = self._parts()
        now_s = time.monotonic()
        more = evaluator.evaluate(now_s, everything=everything)
        if now_s - self._checkpointed_s > _CHECKPOINT_EVERY_S:
            self._checkpointed_s = now_s
            store.checkpoint()
        return more

    def _close(self) -> None:
        for file in (self._store, self._books):
            if file is not None:
                file.close()
        self._store = self._books = self._evaluator = None


def _without(export: Export, full: set[str]) -> Export:
    """An export without what came for traces that take no more."""
    kept = [each for each in export.observations if each.trace_id not in full]
    rejected = len(export.observations) - len(kept)
    if not rejected:
        return export
    return Export(
        kept, export.rejected + rejected, export.problem or "a trace has more spans than are looked at together"
    )


def _from_key(export: Export, key: VirtualKey) -> list[Observation]:
    """What was sent with a virtual key: columns that it pins are its own, whatever the sender says."""
    scopes: dict[Scope, Scope] = {}
    made: list[Observation] = []
    for observation in export.observations:
        scope = scopes.get(observation.scope)
        if scope is None:
            pinned = observation.scope.pinned(key.scope, key.pinned)
            scope = scopes[observation.scope] = replace(pinned, key=key.name)
        made.append(replace(observation, scope=scope))
    return made
