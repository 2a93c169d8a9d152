"""The cache of this machine for an event loop.

Rule 1: reading is done where it is asked for: it takes microseconds, and handing it to a thread would take longer.
Rule 2: writing is done by one thread, in order. ``put`` waits for its place in the queue, not for the disk. What waits is
        found already, unless it has tags, or the store has what was asked for later: only the store knows whether it comes too
        late.
Rule 3: what could not be written is said by the next ``put``: the answer that it was made for has long gone out.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeAlias

from bursar.core.caching import CacheEntry, CacheUse
from bursar.core.errors import CacheError
from bursar.engine.ports import SyncCacheStore

__all__ = ["AsyncCache"]

_QUEUE_MAX: Final = 1_000

_Removal: TypeAlias = tuple[Callable[[], int], "Future[int]"]


class AsyncCache:
    """``engine.ports.CacheStore`` over one for threads, which it closes. To be made and closed by one loop."""

    def __init__(self, store: SyncCacheStore, *, queue_max: int = _QUEUE_MAX) -> None:
        self._store = store
        self._queue: queue.Queue[CacheEntry | _Removal | None] = queue.Queue(queue_max)
        self._waiting: dict[str, CacheEntry] = {}
        self._failed: CacheError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="bursar-cache", daemon=True)
        self._thread.start()

    async def get(self, key: str, now_us: int, /) -> CacheEntry | None:
        waiting = self._waiting.get(key)
        kept = self._store.get(key, now_us)
        if waiting is None or now_us >= waiting.stale_us or (kept is not None and kept.stored_us > waiting.stored_us):
            return kept
        return waiting

    async def put(self, entry: CacheEntry, /) -> None:
        self._check()
        failed, self._failed = self._failed, None
        waiting = self._waiting.get(entry.key)
        if not entry.tags and (waiting is None or waiting.stored_us <= entry.stored_us):
            self._waiting[entry.key] = entry
        await self._enter(entry)
        if failed is not None:
            raise failed

    async def remove(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int:
        self._check()
        done: Future[int] = Future()

        def work() -> int:
            return self._store.remove(key=key, tag=tag, tenant=tenant, route=route, everything=everything)

        await self._enter((work, done))
        return await asyncio.wrap_future(done)

    async def use(self) -> CacheUse:
        return self._store.use()

    async def close(self) -> None:
        """What waits is written first."""
        if not self._closed:
            self._closed = True
            await self._enter(None)
            await asyncio.to_thread(self._thread.join)
            self._store.close()

    def _check(self) -> None:
        if self._closed:
            raise CacheError("the cache is closed")

    async def _enter(self, what: CacheEntry | _Removal | None) -> None:
        try:
            self._queue.put_nowait(what)
        except queue.Full:
            await asyncio.to_thread(self._queue.put, what)

    # --- the thread -------------------------------------------------------------------------------------------

    def _write(self) -> None:
        while (what := self._queue.get()) is not None:
            if isinstance(what, CacheEntry):
                self._put(what)
                continue
            work, done = what
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work())
                except Exception as error:  # noqa: BLE001 - whoever asked is told
                    done.set_exception(error)

    def _put(self, entry: CacheEntry) -> None:
        try:
            self._store.put(entry)
        except CacheError as error:
            self._failed = error
        except Exception as error:  # noqa: BLE001 - a thread that dies would let the queue fill and everybody wait
            self._failed = CacheError(f"an entry could not be kept: {error!r}")
        finally:
            if self._waiting.get(entry.key) is entry:  # another one may wait by now
                self._waiting.pop(entry.key, None)
