"""The response cache of one process: looks, keeps, and lets calls that ask the same at once wait for one answer.

Rule 1: a cache that fails is a miss: it is said once, counted, and the call goes on.
Rule 2: what is kept is what the client was sent, and only when all of it was: see ``core.caching`` for what may be.
Rule 3: of several calls that ask the same at once the first asks the provider; the others get what it got if that may be kept,
        and ask for themselves if not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

from bursar.core.caching import CacheDirective, CacheEntry, CachePolicy, CacheTier, CacheUse
from bursar.core.call import Settled
from bursar.core.errors import BursarError, CacheError
from bursar.core.values import valueclass
from bursar.wire.finishes import GOOD_FINISHES, TOOL_FINISHES

from .ports import CacheStore
from .survey import Kept

__all__ = ["NOTHING_KEPT", "CacheAsk", "Flight", "ResponseCache", "keepable"]

_log = logging.getLogger("bursar.cache")

_US: Final = 1_000_000
_KEPT_BYTES_MAX: Final = 8 * 1024 * 1024
_GIVEN_MAX: Final = 20_000
_FLIGHT_S_MAX: Final = 120.0

NOTHING_KEPT: Final = Kept(None, "exact", None, {})


@valueclass
class CacheAsk:
    """A request as the cache knows it. ``key`` "" where it is not to be looked for, ``why_not`` says why. ``meant`` is what beside
    the body says which answer is meant."""

    key: str
    tier: CacheTier
    tenant: str
    route: str
    policy: CachePolicy
    directive: CacheDirective = ""
    why_not: str = ""
    meant: str = ""

    @property
    def looks(self) -> bool:
        return bool(self.key) and self.directive in ("", "only")

    @property
    def keeps(self) -> bool:
        return bool(self.key) and self.directive in ("", "refresh")


class Flight:
    """An answer under way. ``leads`` is whether this call is the one that asks."""

    __slots__ = ("_cache", "_future", "_key", "leads")

    def __init__(
        self, cache: ResponseCache, key: str, future: asyncio.Future[CacheEntry | None], *, leads: bool
    ) -> None:
        self._cache = cache
        self._key = key
        self._future = future
        self.leads = leads

    async def wait(self, limit_s: float | None = None) -> CacheEntry | None:
        """What the leader got, None where that may not be given to others, where it takes too long, or where nobody leads any more."""
        await asyncio.wait([self._future], timeout=_FLIGHT_S_MAX if limit_s is None else min(limit_s, _FLIGHT_S_MAX))
        return self._future.result() if self._future.done() and not self.left else None

    @property
    def left(self) -> bool:
        """Whether its leader went away before it had an answer: another may lead."""
        return self._future.cancelled()

    def land(self, entry: CacheEntry | None) -> None:
        """Tell those who wait. The leader must, however its call ends; twice changes nothing."""
        if self.leads and not self._future.done():
            self._future.set_result(entry)
            self._cache.landed(self._key, self._future)

    def leave(self) -> None:
        """The leader goes away."""
        if self.leads and self._future.cancel():
            self._cache.landed(self._key, self._future)


class ResponseCache:
    """Without a ``store`` nothing is found and nothing kept."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.store: CacheStore | None = None
        self._now_us = now_us
        self._flights: dict[str, asyncio.Future[CacheEntry | None]] = {}
        self._failed = False
        self._given: OrderedDict[str, tuple[str, Callable[[], None] | None]] = OrderedDict()
        self.lookups: Counter[tuple[str, str]] = Counter()
        """By route and outcome: hits by tier, misses, failures."""
        self.failures = 0
        self.clears = 0
        """How often something was made void: what was asked for before is not kept any more."""

    async def look(self, ask: CacheAsk) -> Kept:
        """What is kept for a request."""
        if not ask.looks:
            said: dict[str, Any] = {"asked": False, "why": ask.why_not or f"x-bursar-cache: {ask.directive}"}
            return Kept(None, ask.tier, None, said)
        entry = await self._get(ask.key)
        now_us = self._now_us()
        if entry is None or entry.tenant != ask.tenant:  # the tenant is in the key: this cannot differ
            return Kept(None, ask.tier, None, {"asked": True, "found": "nothing"})
        age_s = (now_us - entry.stored_us) // _US
        if entry.is_fresh(now_us):
            return Kept(entry, ask.tier, entry, {"asked": True, "found": "fresh", "age_s": age_s})
        return Kept(None, ask.tier, entry, {"asked": True, "found": "stale", "age_s": age_s})

    async def entry(self, key: str, tenant: str) -> CacheEntry | None:
        """A fresh entry of this tenant, by its key."""
        entry = await self._get(key)
        if entry is None or entry.tenant != tenant or not entry.is_fresh(self._now_us()):
            return None
        return entry

    async def keep(self, entry: CacheEntry) -> None:
        if self.store is None:
            return
        try:
            await self.store.put(entry)
        except CacheError as error:
            self.trouble(error)

    async def use(self) -> CacheUse | None:
        return None if self.store is None else await self.store.use()

    async def clear(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int:
        self.clears += 1
        self._flights.clear()  # whoever asks from now on is not given what is void
        if self.store is None:
            return 0
        return await self.store.remove(key=key, tag=tag, tenant=tenant, route=route, everything=everything)

    def given(self, call_id: str, key: str, wrong: Callable[[], None] | None = None) -> None:
        """A call was given the answer of this key; ``wrong`` is called if somebody says that it was."""
        self._given[call_id] = (key, wrong)
        if len(self._given) > _GIVEN_MAX:
            self._given.popitem(last=False)

    async def wrong(self, call_id: str, /) -> bool:
        found = self._given.pop(call_id, None)
        if found is None:
            return False
        key, told = found
        if told is not None:
            told()
        await self.clear(key=key)
        return True

    def flight(self, key: str) -> Flight:
        """The flight of a key: the first to ask leads it."""
        future = self._flights.get(key)
        if future is not None:
            return Flight(self, key, future, leads=False)
        future = self._flights[key] = asyncio.get_running_loop().create_future()
        return Flight(self, key, future, leads=True)

    def landed(self, key: str, future: asyncio.Future[CacheEntry | None]) -> None:
        if self._flights.get(key) is future:
            del self._flights[key]

    def looked(self, route: str, outcome: str) -> None:
        self.lookups[route, outcome] += 1

    async def _get(self, key: str) -> CacheEntry | None:
        if self.store is None:
            return None
        try:
            entry = await self.store.get(key, self._now_us())
        except CacheError as error:
            self.trouble(error)
            return None
        self._failed = False
        return entry

    def trouble(self, error: BursarError) -> None:
        """Something of the cache failed: said once, until it works again."""
        self.failures += 1
        if not self._failed:
            _log.error("the cache is not used: %s", error)
        self._failed = True


def keepable(policy: CachePolicy, done: Settled, body: bytes) -> str:
    """Why an answer that the client was sent is not kept, "" where it may be."""
    attempt = done.attempt
    if attempt is None or attempt.status != "ok" or (attempt.http_status or 200) >= 300:
        return "it is no answer"
    if attempt.charge.estimated:
        return "it did not come whole"
    if attempt.error:
        return attempt.error
    if attempt.opening.operation != "embeddings":  # they have no finish
        asks_for_tools = attempt.finish in TOOL_FINISHES
        if not asks_for_tools and attempt.finish not in GOOD_FINISHES:
            return f"it ended with {attempt.finish or 'no word why'}"
        if (asks_for_tools or attempt.tools) and not policy.tool_calls:
            return "it asks for tools"
    if not body or len(body) > _KEPT_BYTES_MAX:
        return f"it has {len(body)} bytes"
    return ""
