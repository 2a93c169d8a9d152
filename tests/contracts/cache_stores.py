"""The stores of the cache that the suite runs on, and a real Redis or Valkey server for those that need one."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from bursar.adapters.cache_async import AsyncCache
from bursar.adapters.cache_cipher import Cipher
from bursar.adapters.cache_redis import RedisCache
from bursar.adapters.cache_sqlite import IN_MEMORY, SqliteCache
from bursar.core.caching import CacheEntry
from bursar.engine.ports import CacheStore

KINDS = ("sqlite file", "sqlite memory", "sqlite encrypted", "redis", "redis encrypted")
KEY, OTHER_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
MINUTE_US = 60_000_000
MB = 1 << 20
_prefixes = count()


def now_us() -> int:
    return time.time_ns() // 1_000


def an_entry(key: str = "a", **changes: Any) -> CacheEntry:
    """A kept answer, fresh for a minute and stale for another."""
    now = changes.pop("now_us", None) or now_us()
    values: dict[str, Any] = {
        "tenant": "team-a",
        "route": "chat",
        "body": b'{"answer": "yes"}',
        "content_type": "application/json",
        "stream": False,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "cost": 1_000_000,
        "usage": (("input_tokens", 10), ("output_tokens", 2)),
        "attempt_id": "call-1.1",
        "stored_us": now,
        "expires_us": now + MINUTE_US,
        "stale_us": now + 2 * MINUTE_US,
        "tags": (),
        "response_id": "resp-1",
        "finish": "stop",
        "operation": "chat_completions",
    }
    return CacheEntry(key=key, **{**values, **changes})


def a_cipher(keys: str = KEY) -> Cipher:
    return Cipher(keys, "BURSAR_CACHE_KEY")


def a_sqlite(path: Path | str, **options: Any) -> SqliteCache:
    values: dict[str, Any] = {"limit_bytes": 100 * MB, "memory_bytes": 10 * MB, "cipher": None, "clock_us": now_us}
    return SqliteCache(path, **{**values, **options})


@asynccontextmanager
async def opened(kind: str, folder: Path, server: Server | None) -> AsyncIterator[CacheStore]:
    """A store of this kind with nothing in it."""
    cipher = a_cipher() if kind.endswith("encrypted") else None
    if kind.startswith("redis"):
        assert server is not None
        store: CacheStore = server.store(cipher=cipher)
    else:
        path = IN_MEMORY if kind == "sqlite memory" else folder / f"cache-{next(_prefixes)}.sqlite3"
        store = AsyncCache(a_sqlite(path, cipher=cipher))
    try:
        yield store
    finally:
        await store.close()


# --- a server ---------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server at a socket of its own, which keeps nothing on disk."""

    folder: Path
    binary: str
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def socket(self) -> Path:
        return self.folder / "s"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(self.binary, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
                *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
            ],
            stdout=subprocess.DEVNULL,
        )
        until(self.answers)

    def answers(self) -> bool:
        import redis

        with suppress(redis.RedisError), redis.Redis(unix_socket_path=str(self.socket), protocol=2) as client:
            return bool(client.ping())
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None
            self.socket.unlink(missing_ok=True)

    def store(self, **options: Any) -> RedisCache:
        """A store with keys of its own."""
        values: dict[str, Any] = {"cipher": None, "clock_us": now_us, "prefix": f"test-{next(_prefixes)}:"}
        return RedisCache(self.url, **{**values, "timeout_s": 5.0, **options})

    def client(self) -> Any:
        import redis

        return redis.Redis(unix_socket_path=str(self.socket), protocol=2)


@contextmanager
def a_server() -> Iterator[Server | None]:
    """A server, None where no binary is installed."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None or find_spec("redis") is None:
        yield None
        return
    with TemporaryDirectory(prefix="bursar-") as folder:
        server = Server(Path(folder), binary)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def needed(server: Server | None) -> Server:
    pytest.importorskip("redis", reason="the client library is not installed (bursar[redis])")
    if server is None:
        pytest.skip("neither redis-server nor valkey-server is installed (apt-get install redis-server)")
    return server


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s")
        time.sleep(0.01)


def forked(work: Callable[[], None]) -> int:
    """Run it in a fork. Returns its exit code: 0 where nothing was raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
