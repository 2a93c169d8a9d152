"""Kept answers on a Redis or Valkey server, for gateways on several machines.

Rule 1: an entry's life is the server's business (PEXPIRE), and so is what must go when its memory is full.
Rule 2: what removes entries by tag, tenant or route are sorted sets of their keys. They live as long as their longest-lived
        member and are cleaned with each new one. An entry that has dropped out of one of its sets is not given any more.
Rule 3: what was asked for before its tag was removed, or before what is kept under its key, is not kept: its answer may be the
        one that was to go, or is older than that.
Rule 4: a server that does not answer costs a call ``timeout_s`` at most. Then nobody asks it for ``_AWAY_S``, but for one call
        after that, which finds out.
Rule 5: neither the URL nor what the server says is logged or told: credentials may be in them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import resources
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from bursar.core.caching import CacheEntry, CacheUse
from bursar.core.errors import CacheError, ConfigError

from .cache_cipher import Cipher, Packing

__all__ = ["RedisCache"]

_log = logging.getLogger("bursar.cache")

T = TypeVar("T")

_PREFIX: Final = "bursar:cache:"
_TIMEOUT_S: Final = 0.1
_PATIENT_S: Final = 10.0
_AWAY_S: Final = 3.0
_CONNECTIONS_MAX: Final = 50
_MEMBERS_MAX: Final = 1_000_000
_BATCH: Final = 500
_SAMPLE: Final = 64
_LIFE_MS_MAX: Final = 10 * 365 * 86_400_000
_MARK_MS: Final = 3_600_000
_SCRATCH_S: Final = 60
_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
_ALL: Final = "all"


def _lua(name: str) -> str:
    return resources.files("bursar.adapters").joinpath(f"lua/{name}.lua").read_text(encoding="utf-8")


class RedisCache:
    """``engine.ports.CacheStore``. ``url`` is ``redis://``, ``rediss://``, ``unix://``, ``valkey://`` or ``valkeys://``.

    To be used by one loop. All keys begin with ``prefix``, which in a cluster must have one hash tag (``{bursar}:``).
    Raises ConfigError for a URL that cannot be, or where the client library is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        cipher: Cipher | None,
        clock_us: Callable[[], int],
        prefix: str = _PREFIX,
        timeout_s: float = _TIMEOUT_S,
        away_s: float = _AWAY_S,
        members_max: int = _MEMBERS_MAX,
    ) -> None:
        self._packing = Packing(cipher)
        self._clock_us = clock_us
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._away_s = away_s
        self._members_max = members_max
        self._away_until = 0.0
        self._is_away = False
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError, ResponseError
        except ModuleNotFoundError:
            raise ConfigError(
                "the cache is to be on a Redis server, and the package for it is missing: install bursar[redis]"
            ) from None
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
        self._answers: type[Exception] = ResponseError
        try:
            scheme, _, rest = url.partition("://")
            self._where = urlsplit(url).hostname or "its socket"
            make: Any = BlockingConnectionPool

            def client(wait_s: float) -> Any:
                pool = make.from_url(
                    f"{_SCHEMES[scheme]}://{rest}",
                    max_connections=_CONNECTIONS_MAX,
                    timeout=timeout_s,
                    # The library's own are ten retries, each of up to five seconds. A call has its time besides (``_ask``), but
                    # what the library waits with loses a cancellation now and then (asyncio.wait_for, before Python 3.12).
                    socket_timeout=wait_s,
                    socket_connect_timeout=timeout_s,
                    retry=Retry(NoBackoff(), 0),
                    protocol=2,  # the other one begins with a question that not every server knows
                    driver_info=None,  # nor what the client is called, which is read from disk for each connection
                )
                return Redis(connection_pool=pool)

            self._client, self._patient = client(timeout_s), client(_PATIENT_S)
        except (KeyError, ValueError):
            raise ConfigError(
                "the URL of the cache server cannot be read: write redis://host:6379/0, rediss://..., unix:///path or valkey://..."
            ) from None
        self._get, self._put, self._remove = (
            self._client.register_script(_lua(name)) for name in ("cache_get", "cache_put", "cache_remove")
        )

    async def get(self, key: str, now_us: int, /) -> CacheEntry | None:
        data = await self._ask(lambda: self._get([self._entry(key)], [self._prefix, key]))
        entry = None if data is None else self._packing.unpack(key, data)
        return entry if entry is not None and now_us < entry.stale_us else None

    async def put(self, entry: CacheEntry, /) -> None:
        life_ms = min((entry.stale_us - self._clock_us()) // 1_000, _LIFE_MS_MAX)
        arguments = [
            *(self._prefix, entry.key, self._packing.pack(entry)),
            *(msgspec.json.encode(_names(entry)), msgspec.json.encode(entry.tags)),
            *(entry.stored_us, life_ms, self._members_max),
        ]
        await self._ask(lambda: self._put([self._entry(entry.key)], arguments))

    async def remove(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int:
        """Raises ValueError where nothing is said."""
        named = {"g": tag, "r": route, "t": tenant}
        wanted = [f"{kind}:{name}" for kind, name in named.items() if name] or ([_ALL] if everything or key else [])
        if not wanted:
            raise ValueError("say what to remove: a key, a tag, a tenant, a route, or everything")
        names = msgspec.json.encode(wanted)
        if key:
            _, removed = await self._ask(lambda: self._remove([], [self._prefix, names, 1, key]))
            return removed
        if tag and len(wanted) == 1:
            await self._ask(lambda: self._client.set(f"{self._prefix}m:{tag}", self._clock_us(), px=_MARK_MS))
        index = self._index(wanted[0])
        if len(wanted) > 1:
            both, index = [self._index(name) for name in wanted], f"{self._prefix}x:{secrets.token_hex(8)}"
            await self._ask(lambda: self._patient.zinterstore(index, both), _PATIENT_S)
            await self._ask(lambda: self._client.expire(index, _SCRATCH_S))
        removed, looked_at = 0, 1
        while looked_at:
            looked_at, count = await self._ask(lambda: self._remove([index], [self._prefix, names, _BATCH]), _PATIENT_S)
            removed += count
        return removed

    async def use(self) -> CacheUse:
        """Bytes are estimated from some of the entries. What the server evicts it does not say."""
        index = self._index(_ALL)
        now_s = await self._ask(self._client.time)
        await self._ask(lambda: self._patient.zremrangebyscore(index, "-inf", now_s[0] * 1_000), _PATIENT_S)
        entries = await self._ask(lambda: self._client.zcard(index))
        some: list[bytes] = await self._ask(lambda: self._client.zrandmember(index, _SAMPLE)) if entries else []
        sizes = [
            size
            for key in some
            if (size := await self._ask(lambda key=key: self._client.hstrlen(self._entry(key.decode()), "data")))
        ]
        return CacheUse(entries, entries * sum(sizes) // len(sizes) if sizes else 0, None)

    async def close(self) -> None:
        for client in (self._client, self._patient):
            with suppress(*self._failures):  # gone already
                await client.aclose()
                await client.connection_pool.aclose()

    def _entry(self, key: str) -> str:
        return f"{self._prefix}e:{key}"

    def _index(self, name: str) -> str:
        return f"{self._prefix}i:{name}"

    async def _ask(self, question: Callable[[], Awaitable[T]], timeout_s: float = 0.0) -> T:
        """Rule 4."""
        now = time.monotonic()
        if now < self._away_until:
            raise CacheError(f"the cache server at {self._where} did not answer: it is not asked for a moment")
        if self._is_away:
            self._away_until = now + self._away_s  # the others do not wait for this one
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                answer = await question()
        except self._answers as error:
            self._is_back()
            raise CacheError(f"the cache server at {self._where} refused: {type(error).__name__}") from None
        except self._failures as error:
            self._away_until = time.monotonic() + self._away_s
            if not self._is_away:
                self._is_away = True
                _log.warning("the cache server at %s cannot be reached: calls go on without it", self._where)
            raise CacheError(f"the cache server at {self._where} cannot be reached: {type(error).__name__}") from None
        self._is_back()
        return answer

    def _is_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._away_until = 0.0
            _log.warning("the cache server at %s answers again", self._where)


def _names(entry: CacheEntry) -> list[str]:
    """The indexes that an entry is in."""
    return [_ALL, f"t:{entry.tenant}", f"r:{entry.route}", *(f"g:{tag}" for tag in dict.fromkeys(entry.tags))]
