"""Opens the cache that bursar.yaml asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bursar.core.errors import ConfigError
from bursar.engine.ports import CacheStore, SyncCacheStore

if TYPE_CHECKING:
    from .cache_cipher import Cipher

__all__ = ["open_cache_store", "open_tool_cache_store"]

_MB: Final = 1_000_000


def open_cache_store(
    path: Path,
    *,
    store: str,
    size_mb: int,
    memory_mb: int,
    url_env: str,
    encryption_env: str | None,
    environment: Mapping[str, str],
    clock_us: Callable[[], int],
) -> CacheStore:
    """For an event loop: ``store`` is "sqlite" (the file at ``path``), "memory" or "redis". Raises ConfigError."""
    cipher = _cipher(encryption_env, environment)
    if store == "redis":
        from .cache_redis import RedisCache

        url = environment.get(url_env, "")
        if not url:
            raise ConfigError(f"cache.store is redis: set {url_env} to the server's URL, redis://host:6379/0")
        return RedisCache(url, cipher=cipher, clock_us=clock_us)
    from .cache_async import AsyncCache
    from .cache_sqlite import IN_MEMORY, SqliteCache

    limit, memory = size_mb * _MB, memory_mb * _MB
    where = IN_MEMORY if store == "memory" else path
    return AsyncCache(SqliteCache(where, limit_bytes=limit, memory_bytes=memory, cipher=cipher, clock_us=clock_us))


def open_tool_cache_store(
    path: Path,
    *,
    size_mb: int,
    memory_mb: int,
    encryption_env: str | None,
    environment: Mapping[str, str],
    clock_us: Callable[[], int],
) -> SyncCacheStore:
    """For threads: always the file at ``path``. Raises ConfigError."""
    from .cache_sqlite import SqliteCache

    return SqliteCache(
        path,
        limit_bytes=size_mb * _MB,
        memory_bytes=memory_mb * _MB,
        cipher=_cipher(encryption_env, environment),
        clock_us=clock_us,
    )


def _cipher(name: str | None, environment: Mapping[str, str]) -> Cipher | None:
    if name is None:
        return None
    from .cache_cipher import Cipher

    return Cipher(environment.get(name, ""), name)
