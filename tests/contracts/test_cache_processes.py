"""What a file of kept answers does for several processes and threads at once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cache_stores import a_sqlite, an_entry, forked, now_us, until

from bursar.adapters.cache_sqlite import IN_MEMORY, SqliteCache
from bursar.core.caching import CacheEntry

WRITER = """
import sys, time
from pathlib import Path
from bursar.adapters.cache_sqlite import SqliteCache
sys.path.insert(0, sys.argv[2])
from cache_stores import a_sqlite, an_entry
cache = a_sqlite(Path(sys.argv[1]), limit_bytes=200_000)
for number in range(1_000_000):
    cache.put(an_entry(f"{number % 300}", body=bytes([number % 256]) * (number % 3_000), tags=("t",)))
    if number % 50 == 0:
        cache.remove(tag="t")
    if number == 200:
        print("busy", flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(path: Path) -> None:
    """Its sums are those of its entries, it can be read and written, and it is within its limit."""
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            sums = db.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM answer").fetchone()
            assert db.execute("SELECT entries, bytes FROM tally").fetchone() == sums
            assert db.execute("SELECT count(*) FROM packed WHERE id NOT IN (SELECT id FROM answer)").fetchone() == (0,)
            assert sums[1] <= 200_000
        db.close()
        cache = a_sqlite(path, limit_bytes=200_000)
        cache.put(an_entry("after"))
        assert cache.get("after", now_us())
        cache.close()


def test_what_another_process_removes_is_not_served(path: Path) -> None:
    """For less than a second it may be, from memory; the same for what another one replaces."""
    one, other = a_sqlite(path), a_sqlite(path)
    for key in "abc":
        one.put(an_entry(key, body=b"old"))
        assert other.get(key, now_us())
    began = time.monotonic()
    one.remove(key="a")
    one.put(an_entry("b", body=b"new"))
    until(lambda: other.get("a", now_us()) is None)
    until(lambda: (entry := other.get("b", now_us())) is not None and entry.body == b"new")
    assert time.monotonic() - began < 1.0
    kept = other.get("c", now_us())
    assert kept is not None
    assert kept.body == b"old"
    one.close()
    other.close()


LEAVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from cache_stores import a_sqlite
cache = a_sqlite(Path(sys.argv[1]))
print(cache.remove(everything=True) if sys.argv[3:] else cache.use().entries)
cache.close()
"""


def left(path: Path, *more: str) -> bytes:
    """Another process opens the file and closes it again: what it says."""
    command = [sys.executable, "-c", LEAVER, str(path), str(Path(__file__).parent), *more]
    return subprocess.run(command, check=True, capture_output=True, timeout=50).stdout.strip()


def test_whoever_leaves_takes_nothing_along(path: Path) -> None:
    """A server has the file open, commands come and go: the log stays under its name, what the server writes then is found by
    others, and what others clear is found by the server."""
    for round_ in range(2):
        server = a_sqlite(path)
        for key in "ab":
            server.put(an_entry(key))
        assert server.get("a", now_us())
        log = path.with_name("cache.sqlite3-wal").stat().st_ino
        assert left(path) == b"2"
        assert path.with_name("cache.sqlite3-wal").stat().st_ino == log, round_
        server.put(an_entry("c"))
        assert left(path) == b"3"
        assert left(path, "all") == b"3"
        until(lambda: all(server.get(key, now_us()) is None for key in "abc"), 1.0)  # noqa: B023 - called in this round
        server.close()


def test_what_goes_while_it_is_being_kept_is_not_served(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes it after the commit and before it is in memory."""
    one, other = a_sqlite(path), a_sqlite(path)
    one.put(an_entry("b"))
    assert one.get("b", now_us())
    remember = SqliteCache._remember

    def late(cache: SqliteCache, entry: CacheEntry, *rest: Any) -> None:
        if cache is one and entry.key == "a":
            other.remove(key="a")
            cache._looked_s = 0.0
            cache._reader()
        remember(cache, entry, *rest)

    monkeypatch.setattr(SqliteCache, "_remember", late)
    one.put(an_entry("a"))
    assert one.get("a", now_us()) is None
    one.close()
    other.close()


def test_what_it_removes_itself_is_gone_at_once(cache: SqliteCache) -> None:
    """Also from memory, whichever way it goes."""
    for number in range(20):
        for how in ({"key": "a"}, {"tag": "t"}, {"everything": True}):
            cache.put(an_entry("a", tags=("t",), stored_us=now_us() + number))
            assert cache.get("a", now_us())
            assert cache.remove(**how) == 1  # type: ignore[arg-type]
            assert cache.get("a", now_us()) is None


def test_threads_share_it(cache: SqliteCache) -> None:
    """Each gets whole entries, and none an error."""
    errors: list[BaseException] = []

    def work(own: int) -> None:
        try:
            for turn in range(60):
                key = f"{(own + turn) % 5}"
                cache.put(an_entry(key, body=key.encode() * 300))
                entry = cache.get(key, now_us())
                assert entry is None or entry.body == key.encode() * 300
                if turn % 20 == 0:
                    cache.remove(key=key)
        except BaseException as error:  # noqa: BLE001 - a thread's failure fails the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_processes_share_it(path: Path) -> None:
    """Three at once write, read and remove; nothing is lost or mixed up."""
    code = WRITER.replace("range(1_000_000)", "range(150)") + "cache.close()\n"
    command = [sys.executable, "-c", code, str(path), str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(50) for process in processes] == [0, 0, 0]
    cache = a_sqlite(path, limit_bytes=200_000)
    use = cache.use()
    kept = [entry for number in range(300) if (entry := cache.get(f"{number}", now_us())) is not None]
    assert (len(kept), sum(entry.size_bytes for entry in kept)) == (use.entries, use.bytes)
    assert all(len(set(entry.body)) <= 1 for entry in kept)
    cache.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_goes_on_with_files_of_its_own(path: Path) -> None:
    """Parent and child both use what was open before; what the child counts is not the parent's."""
    for where in (path, IN_MEMORY):
        cache = a_sqlite(where)
        cache.put(an_entry("a"))
        assert cache.get("a", now_us())

        def child(cache: SqliteCache = cache) -> None:
            assert cache.get("a", now_us())
            cache.put(an_entry("b"))
            assert cache.get("b", now_us())
            cache.close()

        assert forked(child) == 0
        assert cache.get("a", now_us())
        assert (cache.get("b", now_us()) is None) == (where == IN_MEMORY)
        cache.put(an_entry("c"))
        assert cache.get("c", now_us())
        cache.close()
