"""What a file of kept answers does beyond the suite: its limit, its damages, its encryption."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cache_stores import KEY, MB, MINUTE_US, OTHER_KEY, a_cipher, a_sqlite, an_entry, now_us, until
from hypothesis import given
from hypothesis import strategies as st

from bursar.adapters.cache_async import AsyncCache
from bursar.adapters.cache_cipher import Cipher, Packing
from bursar.adapters.cache_sqlite import IN_MEMORY, SqliteCache
from bursar.core.caching import CacheEntry, CacheUse, worth
from bursar.core.errors import CacheError, ConfigError

SIZE = 1_000


def sized(key: str, cost: int | None = 1_000, size: int = SIZE, **changes: Any) -> CacheEntry:
    """An entry that takes up this many bytes."""
    entry = an_entry(key, cost=cost, body=b"", **changes)
    return replace(entry, body=b"x" * (size - entry.size_bytes))


def found(cache: SqliteCache, keys: str) -> str:
    """Which of these keys are there, without counting a hit."""
    with sqlite3.connect(cache._path) as db:  # type: ignore[arg-type]
        there = {key for (key,) in db.execute("SELECT key FROM answer")}
    db.close()
    return "".join(key for key in keys if key in there)


# --- the limit --------------------------------------------------------------------------------------------------


@given(
    puts=st.lists(
        st.tuples(
            st.sampled_from("abcdefghij"),
            st.integers(500, 4_000),
            st.one_of(st.none(), st.integers(0, 10**9)),
            st.integers(-1, 2),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_the_limit_is_kept_after_every_step(puts: list[tuple[str, int, int | None, int, bool]]) -> None:
    """Whatever is put, and asked for in between; and the sums are those of what is there."""
    cache = a_sqlite(IN_MEMORY, limit_bytes=8_000, memory_bytes=2_000)
    model: dict[str, CacheEntry] = {}
    for key, size, cost, minutes, ask in puts:
        entry = sized(key, cost, size, stale_us=now_us() + minutes * MINUTE_US + MINUTE_US // 2)
        cache.put(entry)
        model[key] = entry
        there = {name: kept for name in model if (kept := cache.get(name, 0)) is not None} if ask else {}
        use = cache.use()
        assert use.bytes <= 8_000
        if ask:
            assert use == replace(use, entries=len(there), bytes=sum(each.size_bytes for each in there.values()))
            assert all(model[name] == kept for name, kept in there.items())
    cache.close()


def test_what_saves_least_per_byte_goes_first(path: Path) -> None:
    """A cheap one before a dear one, a large one before a small one that cost the same."""
    cache = a_sqlite(path, limit_bytes=5 * SIZE)
    for key, cost in (("d", 9_000), ("a", 1_000), ("c", 3_000), ("b", 2_000), ("e", 5_000)):
        cache.put(sized(key, cost))
    cache.put(sized("f", 20_000))
    assert found(cache, "abcdef") == "bcdef"
    cache.put(sized("g", 20_000, 2 * SIZE))
    assert found(cache, "abcdefg") == "defg"
    assert cache.use().evicted == 3
    cache.put(sized("h", 30_000, 5 * SIZE - 1))
    assert found(cache, "abcdefgh") == "defg"  # what would have to go for it is worth more
    cache.close()


def test_of_equals_the_oldest_goes_first(path: Path) -> None:
    """Also where no cost is known."""
    cache = a_sqlite(path, limit_bytes=3 * SIZE)
    for key in "abcde":
        cache.put(sized(key, None))
    assert found(cache, "abcde") == "cde"
    cache.close()


def test_what_is_asked_for_stays(path: Path) -> None:
    """A cheap one that is hit often is worth more than a dear one that nobody asks for."""
    cache = a_sqlite(path, limit_bytes=3 * SIZE)
    for key, cost in (("a", 1_000), ("b", 4_000), ("c", 4_000)):
        cache.put(sized(key, cost))
    for _ in range(5):
        assert cache.get("a", now_us())
    cache.put(sized("d", 10_000))
    assert found(cache, "abcd") == "acd"
    cache.put(sized("a", 1_000))  # asked again: its hits stay with it
    cache.put(sized("e", 10_000))
    assert found(cache, "acde") == "ade"
    cache.close()


def test_what_was_dear_once_does_not_stay_for_ever(path: Path) -> None:
    """What nobody asks for is worth less with everything that goes before it."""
    cache = a_sqlite(path, limit_bytes=3 * SIZE)
    cache.put(sized("a", 20_000))
    for number in range(60):
        cache.put(sized(f"x{number}", 1_000))
    assert found(cache, "a") == ""
    assert cache.use().entries == 3
    cache.close()


def test_what_is_past_its_time_goes_before_anything(path: Path) -> None:
    """However dear it was. One that is only stale stays."""
    clock = [now_us()]
    cache = a_sqlite(path, limit_bytes=3 * SIZE, clock_us=lambda: clock[0])
    cache.put(sized("a", 10**9, stale_us=clock[0] + 10))
    cache.put(sized("b", 1, expires_us=clock[0] + 10))
    cache.put(sized("c", 1))
    clock[0] += 100
    cache.put(sized("d", 2))
    assert found(cache, "abcd") == "bcd"
    assert cache.use().evicted == 0
    cache.close()


def test_what_is_larger_than_the_store_is_not_kept(path: Path) -> None:
    """Nothing goes for it but what it would have replaced."""
    cache = a_sqlite(path, limit_bytes=3 * SIZE)
    cache.put(sized("a"))
    cache.put(sized("b"))
    cache.put(sized("b", 10**9, 3 * SIZE + 1))
    assert found(cache, "ab") == "a"
    assert cache.get("b", now_us()) is None
    cache.close()


def test_worth_is_whole_and_grows_with_hits() -> None:
    """More hits, more cost, less size: never worth less; an unknown cost is not nothing."""
    assert worth(None, 1_000, 0, 0) > 0
    assert worth(10**6, 1_000, 0, 0) < worth(10**6, 1_000, 1, 0) < worth(10**6, 500, 1, 0) < worth(10**7, 500, 1, 0)
    assert worth(10**18, 1, 10**9, 0) < 1 << 62  # a store counts in 64 bits


# --- the file ---------------------------------------------------------------------------------------------------


def test_nobody_else_may_read_it(cache: SqliteCache, path: Path) -> None:
    """The file and what SQLite keeps beside it."""
    cache.put(an_entry())
    assert cache.get("a", now_us())
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


def test_making_one_opens_nothing(cache: SqliteCache, path: Path) -> None:
    """A process that caches nothing has no file."""
    assert not path.exists()
    assert cache.get("a", now_us()) is None
    assert path.exists()


def test_it_outlives_its_process(path: Path) -> None:
    """Opened again: everything is there."""
    for number in range(3):
        cache = a_sqlite(path)
        assert cache.use().entries == number
        cache.put(an_entry(f"{number}"))
        cache.close()
        with pytest.raises(CacheError, match="closed"):
            cache.get("0", now_us())


def test_clearing_leaves_nothing_in_the_file(cache: SqliteCache, path: Path) -> None:
    """Not even in pages that are free."""
    for number in range(50):
        cache.put(an_entry(f"{number}", body=b"a secret answer " * 200))
    assert cache.remove(everything=True) == 50
    assert all(b"a secret answer" not in each.read_bytes() for each in path.parent.iterdir())
    assert cache.use() == CacheUse(0, 0, 100 * MB)
    assert cache.get("1", now_us()) is None


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("damage", ["garbage", "cut", "scratched"])
def test_a_damaged_file_is_set_aside(path: Path, damage: str, opened: bool) -> None:
    """It is an error once, the file is kept for whoever wants to look, and the next call has a new one."""
    cache = a_sqlite(path, memory_bytes=0)
    for number in range(200):
        cache.put(an_entry(f"{number}", body=os.urandom(3_000)))
    if not opened:
        cache.close()
        cache = a_sqlite(path, memory_bytes=0)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "garbage":
            file.write(b"no database at all" * 1_000)
        elif damage == "cut":
            file.truncate(size // 3)
        else:
            for at in range(8_192, size, 8_192):
                file.seek(at)
                file.write(b"\xff" * 200)
    errors = list(tried(cache))
    assert errors
    assert any("set aside" in str(error) for error in errors)
    assert path.with_name("cache.sqlite3.damaged").exists()
    cache.put(an_entry("new"))
    assert cache.get("new", now_us())
    assert cache.use().entries == 1
    cache.close()


def tried(cache: SqliteCache) -> Iterator[CacheError]:
    """The errors of using it until it works again."""
    for number in range(200):
        try:
            cache.get(f"{number}", now_us())
            cache.put(an_entry(f"x{number}"))
        except CacheError as error:
            yield error
            if "set aside" in str(error):
                return


def test_a_file_that_others_have_made_anew_is_left_alone(path: Path) -> None:
    """Who still has the damaged one open goes over to the new one."""
    one, other = a_sqlite(path), a_sqlite(path)
    one.put(an_entry("a"))
    assert other.get("a", now_us())
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink()
    other.put(an_entry("b"))
    until(lambda: one.get("a", now_us()) is None and one.get("b", now_us()) is not None, 1.0)
    one.put(an_entry("c"))
    assert other.get("c", now_us())
    assert not path.with_name("cache.sqlite3.damaged").exists()
    one.close()
    other.close()


def test_a_file_of_a_newer_version_is_not_touched(path: Path) -> None:
    """It says what to do."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    cache = a_sqlite(path)
    for _ in range(2):
        with pytest.raises(CacheError, match="newer Bursar"):
            cache.get("a", now_us())
    cache.close()


def test_a_file_of_schema_1_is_used_on(path: Path) -> None:
    """What was kept in it is given; anything newer replaces it."""
    cache = a_sqlite(path)
    cache.put(an_entry("a"))
    cache.put(an_entry("b"))
    cache.close()
    with sqlite3.connect(path) as db:
        db.executescript("ALTER TABLE answer DROP COLUMN stored_us; PRAGMA user_version = 1")
    db.close()
    cache = a_sqlite(path)
    assert cache.get("a", now_us())
    cache.put(an_entry("b", body=b"new"))
    found = cache.get("b", now_us())
    assert found is not None
    assert found.body == b"new"
    assert cache.use().entries == 2
    cache.close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Not a crash: calls go on without."""
    cache = a_sqlite(tmp_path / "nowhere" / "cache.sqlite3")
    with pytest.raises(CacheError, match="nowhere"):
        cache.get("a", now_us())
    with pytest.raises(CacheError):
        cache.put(an_entry())
    cache.close()


# --- in front of it ---------------------------------------------------------------------------------------------


class Slow:
    """A store whose writes wait until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.kept: list[str] = []

    def get(self, key: str, now_us: int, /) -> CacheEntry | None:
        return None

    def put(self, entry: CacheEntry, /) -> None:
        self.go.wait(10)
        if entry.key == "bad":
            raise CacheError("the disk is full")
        self.kept.append(entry.key)

    def remove(self, **_: Any) -> int:
        return len(self.kept)

    def use(self) -> CacheUse:
        return CacheUse(len(self.kept), 0, None)

    def close(self) -> None:
        pass


async def test_putting_waits_for_the_queue_and_not_for_the_disk() -> None:
    """What waits is found; a full queue makes the next one wait; closing writes everything first."""
    slow = Slow()
    cache = AsyncCache(slow, queue_max=2)
    for key in "abc":
        await asyncio.wait_for(cache.put(an_entry(key)), 5)
        if key == "a":
            await asyncio.sleep(0.05)  # the thread has it in hand
    assert await cache.get("c", now_us())
    waiting = asyncio.create_task(cache.put(an_entry("d")))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    slow.go.set()
    await asyncio.wait_for(waiting, 5)
    assert await cache.remove(everything=True) == 4
    await cache.put(an_entry("e"))
    await cache.close()
    assert slow.kept == list("abcde")
    with pytest.raises(CacheError, match="closed"):
        await cache.put(an_entry("f"))


async def test_what_could_not_be_written_is_said_once() -> None:
    """By the next put, which is made all the same."""
    slow = Slow()
    slow.go.set()
    cache = AsyncCache(slow)
    await cache.put(an_entry("bad"))
    await cache.remove(everything=True)
    with pytest.raises(CacheError, match="full"):
        await cache.put(an_entry("good"))
    await cache.put(an_entry("better"))
    await cache.close()
    assert slow.kept == ["good", "better"]


@pytest.mark.long
async def test_looking_takes_microseconds(path: Path) -> None:
    """10,000 entries of 2 KB: half of all lookups within 50 us, 99 of 100 within 300 us, in memory or not."""
    for memory in (64 * MB, 0):
        cache = AsyncCache(a_sqlite(path, memory_bytes=memory))
        for number in range(10_000):
            await cache.put(an_entry(f"{number:040x}", body=os.urandom(2_000)))
        await cache.remove(key="none")
        times: list[int] = []
        for number in range(30_000):
            key, now = f"{number * 7919 % 10_000:040x}", now_us()
            began = time.perf_counter_ns()
            assert await cache.get(key, now)
            times.append(time.perf_counter_ns() - began)
        times.sort()
        assert times[15_000] <= 50_000, times[15_000]
        assert times[29_700] <= 300_000, times[29_700]
        await cache.close()


# --- encryption -------------------------------------------------------------------------------------------------


def test_what_is_encrypted_is_not_in_the_file(path: Path) -> None:
    """Neither the answer nor the response's id."""
    cache = a_sqlite(path, cipher=a_cipher())
    cache.put(an_entry(body=b"a secret answer", response_id="resp-secret"))
    entry = cache.get("a", now_us())
    cache.close()
    assert entry is not None
    assert (entry.body, entry.response_id) == (b"a secret answer", "resp-secret")
    data = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert b"gpt-4o-mini" in data
    assert b"secret" not in data


@pytest.mark.parametrize(("before", "after"), [(KEY, OTHER_KEY), (KEY, ""), ("", KEY)])
def test_what_cannot_be_read_is_a_miss(path: Path, caplog: Any, before: str, after: str) -> None:
    """Another key, none, or one where there was none: said once, without a key in the words."""
    kept = a_sqlite(path, cipher=a_cipher(before) if before else None)
    for key in "abc":
        kept.put(an_entry(key))
    kept.close()
    cache = a_sqlite(path, cipher=a_cipher(after) if after else None)
    with caplog.at_level(logging.WARNING):
        assert [cache.get(key, now_us()) for key in "abc"] == [None, None, None]
    assert len(caplog.records) == 1
    assert KEY not in caplog.text
    cache.put(an_entry("a"))
    assert cache.get("a", now_us())
    cache.close()


def test_keys_are_changed_by_putting_a_new_one_in_front(path: Path) -> None:
    """The old one reads what it encrypted; the new one encrypts; then the old one can go."""
    for keys, key in ((KEY, "a"), (f"{OTHER_KEY}, {KEY}", "b")):
        cache = a_sqlite(path, cipher=a_cipher(keys))
        cache.put(an_entry(key))
        assert cache.get("a", now_us())
        cache.close()
    cache = a_sqlite(path, cipher=a_cipher(OTHER_KEY))
    assert cache.get("a", now_us()) is None
    assert cache.get("b", now_us())
    cache.close()


def test_what_somebody_moved_or_changed_is_none(path: Path) -> None:
    """An entry under another's key, with another life, or with one bit turned."""
    cache = a_sqlite(path, cipher=a_cipher(), memory_bytes=0)
    for key in "abcd":
        cache.put(an_entry(key, tenant=f"tenant-{key}"))
    with sqlite3.connect(path) as db:
        rows = {
            key: (number, data)
            for key, number, data in db.execute("SELECT key, id, data FROM answer JOIN packed USING (id)")
        }
        changed = {
            "a": rows["b"][1],
            "b": rows["b"][1].replace(b"tenant-b", b"tenant-x"),
            "c": rows["c"][1][:-1] + bytes([rows["c"][1][-1] ^ 1]),
        }
        for key, data in changed.items():
            db.execute("UPDATE packed SET data = ? WHERE id = ?", (data, rows[key][0]))
    db.close()
    assert [cache.get(key, now_us()) is not None for key in "abcd"] == [False, False, False, True]
    cache.close()


@pytest.mark.parametrize("keys", ["", " , ", "short", "A" * 43, KEY[:-4], f"{KEY} not-a-key", "é" * 44])
def test_a_key_that_cannot_be_is_said_without_showing_it(keys: str) -> None:
    """With the variable's name and the way to make one."""
    with pytest.raises(ConfigError, match=r"BURSAR_CACHE_KEY.*openssl rand") as caught:
        Cipher(keys, "BURSAR_CACHE_KEY")
    for part in keys.replace(",", " ").split():
        assert part not in str(caught.value)


@given(data=st.binary(max_size=300))
def test_no_bytes_make_reading_fail(data: bytes) -> None:
    """Whatever a file has under a key: an entry or none."""
    sealed = Packing(a_cipher()).pack(an_entry())
    for packing in (Packing(None), Packing(a_cipher())):
        for bytes_ in (data, b"\x01" + data, b"\x02" + data, sealed[: len(data)], sealed + data + b"x"):
            assert packing.unpack("a", bytes_) is None
