"""What the store on a Redis or Valkey server does beyond the suite: when the server goes away, and what it leaves there."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cache_stores import MINUTE_US, Server, a_cipher, a_server, an_entry, needed, now_us

from bursar.adapters.cache_redis import RedisCache
from bursar.core.errors import CacheError, ConfigError
from bursar.engine.ports import CacheStore

pytestmark = pytest.mark.xdist_group("cache-server")

SECRET = "hunter2"


@pytest.fixture(scope="module")
def running() -> Iterator[Server | None]:
    with a_server() as server:
        yield server


@pytest.fixture
def server(running: Server | None) -> Iterator[Server]:
    server = needed(running)
    yield server
    if server.process is None:
        server.start()
    with server.client() as client:
        client.config_set("maxmemory", 0)
        client.flushall()


async def failure(store: CacheStore) -> tuple[str, float]:
    """What asking raises, and how long it takes, in milliseconds."""
    began = time.perf_counter()
    with pytest.raises(CacheError) as caught:
        await store.get("a", now_us())
    return str(caught.value), (time.perf_counter() - began) * 1000


async def test_a_server_that_dies_costs_one_moment(server: Server, caplog: Any) -> None:
    """Then nobody asks it for a while; when it is back, it is used again. Both are said once."""
    store = server.store(timeout_s=0.1, away_s=0.3)
    await store.put(an_entry())
    assert await store.get("a", now_us())
    server.stop()
    with caplog.at_level(logging.WARNING):
        _, first_ms = await failure(store)
        assert first_ms < 500
        for _ in range(20):
            text, ms = await failure(store)
            assert ms < 50
        assert "not asked" in text
        server.start()
        text, _ = await failure(store)
        assert "not asked" in text
        await asyncio.sleep(0.35)
        assert await store.get("a", now_us()) is None
        await store.put(an_entry())
        assert await store.get("a", now_us())
    assert [record.message.rpartition(": ")[0] or record.message for record in caplog.records] == [
        "the cache server at its socket cannot be reached",
        "the cache server at its socket answers again",
    ]
    await store.close()


async def test_one_that_says_nothing_costs_one_moment() -> None:
    """It takes connections and never answers: 100 ms, and what a busy machine adds. Of many calls at once each waits once;
    later one of them finds out."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        url = f"redis://:{SECRET}@127.0.0.1:{listening.getsockname()[1]}/0"
        store = RedisCache(url, cipher=None, clock_us=now_us, timeout_s=0.1, away_s=0.3)
        for _ in range(2):
            began = time.perf_counter()
            found = await asyncio.gather(*(failure(store) for _ in range(30)))
            assert 0.08 < time.perf_counter() - began < 1.0
            assert all(SECRET not in text for text, _ in found)
            assert max(ms for _, ms in found) < 1_000
            _, ms = await failure(store)
            assert ms < 50
            await asyncio.sleep(0.35)
        waiting = asyncio.create_task(failure(store))
        await asyncio.sleep(0.01)
        _, ms = await failure(store)
        assert ms < 50  # one finds out, the others do not wait for it
        await waiting
        await store.close()


async def test_credentials_are_nowhere(caplog: Any) -> None:
    """Neither in the log nor in what is raised, for a server that is not there and for URLs that cannot be."""
    with caplog.at_level(logging.DEBUG):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        store = RedisCache(f"redis://user:{SECRET}@127.0.0.1:{port}/0", cipher=None, clock_us=now_us)
        text, _ = await failure(store)
        assert "127.0.0.1" in text
        await store.close()
        for url in (f"http://user:{SECRET}@host", f"redis://user:{SECRET}@host:port", f"user:{SECRET}@host", ""):
            with pytest.raises(ConfigError, match="redis://") as caught:
                RedisCache(url, cipher=None, clock_us=now_us)
            text += str(caught.value)
    assert SECRET not in text
    assert SECRET not in caplog.text


async def test_a_server_that_refuses_is_asked_again(server: Server) -> None:
    """Its memory is full: what cannot be kept is an error, and what is there is still found."""
    store = server.store()
    await store.put(an_entry("a"))
    with server.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(CacheError, match="refused"):
            await store.put(an_entry("b"))
        assert await store.get("a", now_us())
        client.config_set("maxmemory", 0)
    await store.put(an_entry("b"))
    assert await store.get("b", now_us())
    await store.close()


async def test_every_key_goes_by_itself(server: Server) -> None:
    """With the entry's life: entries, their indexes, and what marks a removal. Nothing stays behind."""
    store = server.store()
    now = now_us()
    await store.put(an_entry("a", tags=("t",), stale_us=now + 150_000))
    await store.put(an_entry("b", tags=("t", "u"), stale_us=now + 300_000))
    await store.remove(tag="v")
    with server.client() as client:
        lives = {key: client.pttl(key) for key in client.keys("*")}
        assert len(lives) == 2 + 3 + 2 + 1
        assert all(life > 0 for life in lives.values())
        index = next(key for key in lives if key.endswith(b"i:g:t"))
        assert 200 < lives[index] <= 300
        await asyncio.sleep(0.2)
        await store.put(an_entry("c", tags=("t",), stale_us=now_us() + 100_000))
        assert sorted(client.zrange(index, 0, -1)) == [b"b", b"c"]
        await asyncio.sleep(0.35)
        assert [key for key in client.keys("*") if b":m:" not in key] == []
    await store.close()


async def test_removing_leaves_nothing(server: Server) -> None:
    """Whichever way it goes: no entry, no member of an index."""
    store = server.store()
    for how in ({"key": "a"}, {"tenant": "team-a"}, {"tag": "t", "route": "chat"}, {"everything": True}):
        await store.put(an_entry("a", tags=("t",)))
        assert await store.remove(**how) == 1  # type: ignore[arg-type]
        with server.client() as client:
            assert client.keys("*") == []
    await store.close()


async def test_what_no_removal_would_find_is_not_given(server: Server) -> None:
    """A server that is short of memory may drop an index and keep its entries."""
    for index in ("i:all", "i:t:team-a", "i:r:chat", "i:g:t"):
        store = server.store()
        await store.put(an_entry("a", tags=("t",)))
        with server.client() as client:
            assert client.delete(next(key for key in client.keys("*") if key.endswith(index.encode()))) == 1
            assert await store.get("a", now_us()) is None
            client.flushall()
        await store.close()


async def test_indexes_are_bounded(server: Server) -> None:
    """Of too many members the first to end go, with their entries."""
    store = server.store(members_max=10)
    now = now_us()
    for number in range(15):
        await store.put(an_entry(f"{number:02}", tags=("t",), stale_us=now + MINUTE_US * (number + 1)))
    there = [number for number in range(15) if await store.get(f"{number:02}", now_us()) is not None]
    assert there == list(range(5, 15))
    assert (await store.use()).entries == 10
    assert await store.remove(tag="t") == 10
    await store.close()


async def test_a_restarted_server_knows_the_scripts_again(server: Server) -> None:
    """What it has forgotten is sent again."""
    store = server.store()
    await store.put(an_entry())
    with server.client() as client:
        client.script_flush()
    assert await store.get("a", now_us())
    await store.close()


async def test_what_is_encrypted_is_not_on_the_server(server: Server) -> None:
    """The server sees names, sizes and times, no answer."""
    store = server.store(cipher=a_cipher())
    await store.put(an_entry(body=b"a secret answer", response_id="resp-secret"))
    assert await store.get("a", now_us())
    with server.client() as client:
        kept = b"".join(b"".join(client.hgetall(key).values()) for key in client.keys("*e:*"))
    assert b"gpt-4o-mini" in kept
    assert b"secret" not in kept
    await store.close()


async def test_a_call_that_is_cancelled_spoils_no_other(server: Server) -> None:
    """Its connection is not handed on with an answer that is still to come."""
    store = server.store()
    for number in range(20):
        await store.put(an_entry(f"{number}", body=f"{number}".encode()))
    for number in range(100):
        asked = asyncio.create_task(store.get(f"{number % 20}", now_us()))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        entry = await store.get(f"{(number + 1) % 20}", now_us())
        assert entry is not None
        assert entry.body == f"{(number + 1) % 20}".encode()
    await store.close()
