"""What every store of kept answers must do: SQLite in a file and in memory, a Redis or Valkey server, each also encrypted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import pytest_asyncio
from cache_stores import KINDS, MINUTE_US, Server, a_server, an_entry, needed, now_us, opened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.caching import CacheEntry
from bursar.core.errors import CacheError
from bursar.engine.ports import CacheStore

pytestmark = pytest.mark.xdist_group("cache-server")


@pytest.fixture(scope="module")
def server() -> Iterator[Server | None]:
    with a_server() as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, server: Server | None) -> str:
    if request.param.startswith("redis"):
        needed(server)
    return request.param


@pytest_asyncio.fixture
async def store(kind: str, server: Server | None, tmp_path: Path) -> AsyncIterator[CacheStore]:
    async with opened(kind, tmp_path, server) as store:
        yield store


async def test_what_was_kept_comes_back_whole(store: CacheStore) -> None:
    """Every field, also bytes that are no text, no cost, and names in any script."""
    entries = [
        an_entry("a", body=bytes(range(256)), tags=("orders", "naïve\n☃")),
        an_entry("b", cost=None, usage=(), stream=True, tenant="", route="/ü"),
        an_entry("c", body=b"", response_id=""),
    ]
    for entry in entries:
        await keep(store, entry)
    assert [await store.get(entry.key, now_us()) for entry in entries] == entries
    assert await store.get("d", now_us()) is None


async def test_a_fresh_one_becomes_stale_and_is_gone(store: CacheStore) -> None:
    """Given until ``stale_us``, also by a clock that runs ahead; fresh until ``expires_us``."""
    entry = an_entry()
    await keep(store, entry)
    fresh = await store.get("a", entry.expires_us - 1)
    stale = await store.get("a", entry.expires_us)
    assert fresh is not None
    assert fresh.is_fresh(entry.expires_us - 1)
    assert stale is not None
    assert not stale.is_fresh(entry.expires_us)
    assert await store.get("a", entry.stale_us - 1) == entry
    assert await store.get("a", entry.stale_us) is None


async def test_what_is_past_its_time_is_not_kept(store: CacheStore) -> None:
    """And takes away the one that it would have replaced."""
    await keep(store, an_entry("a"))
    await keep(store, an_entry("a", stale_us=now_us() - 1))
    assert await store.get("a", now_us()) is None


async def test_the_last_one_under_a_key_counts(store: CacheStore) -> None:
    """Its tags too: those of the one before describe it no more."""
    await keep(store, an_entry("a", body=b"old", tags=("old",), route="old"))
    await keep(store, an_entry("a", body=b"new", tags=("new",)))
    assert await store.remove(tag="old") == await store.remove(route="old") == 0
    found = await store.get("a", now_us())
    assert found is not None
    assert found.body == b"new"
    assert (await store.use()).entries == 1


async def test_what_was_asked_earlier_does_not_replace_it(store: CacheStore) -> None:
    """A slow call lands after a later one: whoever asks then is given what the later one got, also while the slow one waits to be
    written, and whatever time it has left. Where both were asked at once the last one counts."""
    asked = now_us()
    await keep(store, an_entry("a", body=b"later", tags=("t",), stored_us=asked))
    for late in (
        an_entry("a", body=b"earlier", stored_us=asked - 1),
        an_entry("a", body=b"earlier", tags=("t",), stored_us=asked - 1),
        an_entry("a", body=b"earlier", stored_us=asked - 1, stale_us=now_us() - 1),
    ):
        await store.put(late)
        for _ in range(2):
            found = await store.get("a", now_us())
            assert found is not None
            assert found.body == b"later"
            await store.remove(key="nothing has this key")
    assert (await store.use()).entries == 1
    await keep(store, an_entry("a", body=b"as late", stored_us=asked))
    found = await store.get("a", now_us())
    assert found is not None
    assert found.body == b"as late"
    assert await store.remove(tag="t") == 0


async def test_all_that_is_said_must_describe_what_goes(store: CacheStore) -> None:
    """A key, a tag, a tenant, a route, or several of them; how many went is told."""
    for key, tenant, route, tags in [
        ("1", "A", "x", ("t",)),
        ("2", "A", "y", ("t", "u")),
        ("3", "B", "x", ("t",)),
        ("4", "B", "y", ()),
    ]:
        await keep(store, an_entry(key, tenant=tenant, route=route, tags=tags))
    assert await store.remove(key="1", tenant="B") == 0
    assert await store.remove(tenant="A", route="x", tag="u") == 0
    assert await store.remove(tenant="B", tag="t") == 1
    assert await there(store) == {"1", "2", "4"}
    assert await store.remove(key="1") == 1
    assert await store.remove(route="y") == 2
    assert await there(store) == set()
    for key in "123":
        await keep(store, an_entry(key))
    assert await store.remove(everything=True) == 3
    assert await there(store) == set()
    assert (await store.use()).entries == 0


async def test_nothing_said_removes_nothing(store: CacheStore) -> None:
    """It is an error of the caller, not a way to say everything."""
    await keep(store, an_entry())
    with pytest.raises(ValueError, match="everything"):
        await store.remove()
    assert await store.get("a", now_us()) is not None


async def test_what_was_asked_before_its_tag_went_comes_too_late(store: CacheStore) -> None:
    """A writer removes a tag while a reader is under way: what the reader brings may be from before."""
    asked = now_us() - 1_000
    assert await store.remove(tag="orders") == 0
    await keep(store, an_entry("a", tags=("orders",), stored_us=asked))
    await keep(store, an_entry("b", tags=("others",), stored_us=asked))
    await keep(store, an_entry("c", tags=("orders",), stored_us=now_us() + 1))
    assert await there(store, "abc") == {"b", "c"}


async def test_more_than_one_batch_goes(store: CacheStore) -> None:
    """A removal does not end where the store stops to let others in."""
    for number in range(1_100):
        await store.put(an_entry(f"{number}", tags=("all",), tenant="A" if number % 2 else "B"))
    assert await store.remove(tag="all", tenant="A") == 550
    assert await store.remove(tag="all") == 550


async def test_many_at_once(store: CacheStore) -> None:
    """Whoever asks gets a whole entry of that key."""

    async def work(number: int) -> None:
        for turn in range(10):
            key = f"{(number + turn) % 7}"
            await keep(store, an_entry(key, body=key.encode() * 500))
            found = await store.get(key, now_us())
            assert found is not None
            assert found.body == key.encode() * 500

    await asyncio.gather(*(work(number) for number in range(20)))
    assert (await store.use()).entries == 7


async def test_what_it_holds_is_told(store: CacheStore) -> None:
    """Entries and their bytes (an estimate where a server has them); a limit only where it is the store's own."""
    assert (await store.use()).entries == 0
    for number in range(20):
        await keep(store, an_entry(f"{number}", body=b"x" * 1_000))
    for _ in range(100):
        use = await store.use()
        if use.entries == 20:
            break
        await asyncio.sleep(0.02)
    assert use.entries == 20
    assert 20 * 1_000 <= use.bytes <= 20 * 2_000


async def test_a_closed_store_says_so_or_opens_again(store: CacheStore) -> None:
    """Nothing is lost silently after closing."""
    await keep(store, an_entry())
    await store.close()
    try:
        found = await store.get("a", now_us())
    except CacheError:
        return
    assert found is not None


# --- at random --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["", "A", "B", "A\nB", "*", "é"])
KEYS = st.sampled_from(["k1", "k2", "k3", "k4"])
TAGS = st.lists(st.sampled_from(["t", "u", "*"]), max_size=2, unique=True).map(tuple)
PUT = st.tuples(st.just("put"), KEYS, NAMES, NAMES, TAGS, st.binary(max_size=60))
REMOVE = st.tuples(
    st.just("remove"),
    st.one_of(st.just(""), KEYS),
    NAMES,
    NAMES,
    st.sampled_from(["", "", "t", "u", "*"]),
    st.just(b""),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(PUT, PUT, REMOVE), max_size=20))
def test_no_tenant_meets_anothers(kind: str, server: Server | None, steps: list[tuple[object, ...]]) -> None:
    """After any steps a key gives what was last put under it, whole and with its own tenant; a removal for one tenant takes
    exactly that tenant's."""
    with TemporaryDirectory() as folder:
        asyncio.run(played(kind, server, Path(folder), steps))


async def played(kind: str, server: Server | None, folder: Path, steps: list[tuple[object, ...]]) -> None:
    async with opened(kind, folder, server) as store:
        model: dict[str, CacheEntry] = {}
        for step in steps:
            what, key, tenant, route, tag, body = step
            assert isinstance(key, str)
            if what == "put":
                entry = an_entry(key, tenant=tenant, route=route, tags=tag, body=body)
                await keep(store, entry)
                model[key] = entry
            elif key or tenant or route or tag:
                going = [
                    name
                    for name, entry in model.items()
                    if (not key or name == key)
                    and (not tenant or entry.tenant == tenant)
                    and (not route or entry.route == route)
                    and (not tag or tag in entry.tags)
                ]
                assert await store.remove(key=key, tenant=tenant, route=route, tag=tag) == len(going)  # type: ignore[arg-type]
                for name in going:
                    del model[name]
            for name in ("k1", "k2", "k3", "k4"):
                assert await store.get(name, now_us()) == model.get(name)


async def there(store: CacheStore, keys: str = "1234") -> set[str]:
    return {key for key in keys if await store.get(key, now_us()) is not None}


async def test_an_entry_moved_to_another_key_is_none(store: CacheStore, kind: str) -> None:
    """What is asked for by one key is never what was kept under another."""
    await keep(store, an_entry("a", tenant="A"))
    await keep(store, replace(an_entry("b", tenant="B"), stale_us=now_us() + MINUTE_US))
    for key, tenant in (("a", "A"), ("b", "B")):
        found = await store.get(key, now_us())
        assert found is not None
        assert (found.key, found.tenant) == (key, tenant)


async def keep(store: CacheStore, entry: CacheEntry) -> None:
    """Put it, and wait until it is written: what waits in front of a removal goes in before it."""
    await store.put(entry)
    await store.remove(key="nothing has this key")
