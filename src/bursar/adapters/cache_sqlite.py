"""Kept answers in one SQLite file (WAL), with the most recent of them in memory in front.

Rule 1: any thread and any number of processes may use it. Reading has a connection of its own: a reader waits for no writer,
        but for the moment in which a file is made.
Rule 2: the sum of all sizes never exceeds the limit, at any commit: what must go for an entry goes in its transaction, what is
        past its time first, then what is worth least. An entry that is worth less than all that would have to go for it is
        not kept.
Rule 3: what is in memory is what the file has: it is looked up again where somebody else has taken something away since, which
        is found out at most ``_LOOK_S`` later. What this object removes is gone at once.
Rule 4: hits are counted in memory and written with the next entry: they matter only when room is made.
Rule 5: what was asked for before its tag was removed, or before what is kept under its key, is not kept: its answer may be the
        one that was to go, or is older than that.
Rule 6: a damaged file is set aside, and said; the next call makes a new one. One that others have set aside, or taken away, is
        left alone.
Rule 7: a process that forks lets nothing of the file come along, as with the books (``books_local``, rule 4).
Rule 8: nobody but SQLite opens a file that it may have open: closing any descriptor of a file drops all locks that the process has
        on it (https://www.sqlite.org/howtocorrupt.html, 2.2), and the next process to leave takes the log away under it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from bursar.core.caching import CacheEntry, CacheUse, worth
from bursar.core.errors import CacheError

from .books_file import statements, use_wal
from .cache_cipher import Cipher, Packing

__all__ = ["IN_MEMORY", "SqliteCache"]

T = TypeVar("T")

IN_MEMORY: Final = ":memory:"
"""The path of a store that is gone with its process."""

_SCHEMA_VERSION: Final = 2
_LOOK_S: Final = 0.25
_READ_WAIT_MS: Final = 20
_WRITE_WAIT_MS: Final = 1_000
_PAGE_BYTES: Final = 8_192
_LOG_PAGES_MAX: Final = 2_048
_BATCH: Final = 500
_PURGE: Final = 16
_HITS_MAX: Final = 10_000
_MARK_US: Final = 3_600_000_000
_SQLITE_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LIVING: Final[weakref.WeakSet[SqliteCache]] = weakref.WeakSet()
_connecting: Final = threading.Lock()  # two that make one file would keep each other out, or meet rule 8


class _Connected(NamedTuple):
    db: sqlite3.Connection
    inode: int


class _Kept(NamedTuple):
    """An entry in memory: the row it is, and the last version of the file that it was seen in."""

    entry: CacheEntry
    row: int
    version: int


class _Tally:
    """The sums over all entries, as of one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        row = db.execute("SELECT entries, bytes, evicted, floor, gone FROM tally").fetchone()
        self.entries, self.bytes, self.evicted, self.floor, self._gone = row
        self.dropped = 0
        self.gone: list[str] | None = []
        """The keys of what went, None: of everything."""

    def drop(self, which: str, *values: object) -> list[tuple[int, str, int, int]]:
        """Delete the entries of which this is true. Returns id, key, size and hits of each."""
        rows: list[tuple[int, str, int, int]] = self._db.execute(
            f"DELETE FROM answer WHERE {which} RETURNING id, key, size_bytes, hits",  # noqa: S608 - from this file alone
            values,
        ).fetchall()
        ids = [(row[0],) for row in rows]
        self._db.executemany("DELETE FROM packed WHERE id = ?", ids)
        self._db.executemany("DELETE FROM tag WHERE id = ?", ids)
        self.dropped += len(rows)
        self.entries -= len(rows)
        self.bytes -= sum(row[2] for row in rows)
        if self.gone is not None:
            self.gone.extend(row[1] for row in rows)
        return rows

    def clear(self) -> int:
        for table in ("answer", "packed", "tag"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - from this file alone
        removed, self.entries, self.bytes, self.gone = self.entries, 0, 0, None
        self.dropped += removed
        return removed

    def write(self) -> None:
        self._db.execute(
            "UPDATE tally SET entries = ?, bytes = ?, evicted = ?, floor = ?, gone = ?",
            (self.entries, self.bytes, self.evicted, self.floor, self._gone + self.dropped),
        )


class SqliteCache:
    """``engine.ports.SyncCacheStore``. ``path`` may be ``IN_MEMORY``. Nothing is opened before it is used.

    ``limit_bytes`` is of everything kept, ``memory_bytes`` of what is kept in memory in front of the file.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        limit_bytes: int,
        memory_bytes: int,
        cipher: Cipher | None,
        clock_us: Callable[[], int],
    ) -> None:
        self._path = None if str(path) == IN_MEMORY else Path(path)
        self._limit = limit_bytes
        self._memory_limit = memory_bytes
        self._packing = Packing(cipher)
        self._clock_us = clock_us
        self._read: _Connected | None = None
        self._write: _Connected | None = None
        self._closed = False
        self._forget_all()
        self._hits: dict[str, int] = {}
        self._make_locks()
        _LIVING.add(self)

    def _make_locks(self) -> None:
        # In this order: writing, reading. In memory there is one connection, and one lock.
        self._writing = threading.RLock()
        self._reading = self._writing if self._path is None else threading.RLock()
        self._forking = False

    # --- reading ----------------------------------------------------------------------------------------------

    def get(self, key: str, now_us: int, /) -> CacheEntry | None:
        with self._reading:
            try:
                entry = self._found(key)
            except (sqlite3.Error, OSError) as error:
                failed = error
            else:
                if entry is None or entry.stale_us <= now_us:
                    return None
                hits = self._hits
                if key in hits or len(hits) < _HITS_MAX:
                    hits[key] = hits.get(key, 0) + 1
                return entry
        raise self._error(failed)

    def _found(self, key: str) -> CacheEntry | None:
        db = self._reader()
        kept = self._memory.get(key)
        if kept is not None:
            if kept.version == self._version or self._is_still(db, key, kept):
                self._memory.move_to_end(key)
                return kept.entry
            self._forget(key)
        row = db.execute(
            "SELECT a.id, p.data FROM answer a JOIN packed p ON p.id = a.id WHERE a.key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        entry = self._packing.unpack(key, row[1])
        if entry is not None:
            self._remember(entry, row[0], self._version)
        return entry

    def _is_still(self, db: sqlite3.Connection, key: str, kept: _Kept) -> bool:
        if db.execute("SELECT id FROM answer WHERE key = ?", (key,)).fetchone() != (kept.row,):
            return False
        self._memory[key] = kept._replace(version=self._version)
        return True

    def use(self) -> CacheUse:
        with self._reading:
            try:
                row = self._reader().execute("SELECT entries, bytes, evicted FROM tally").fetchone()
            except (sqlite3.Error, OSError) as error:
                failed = error
            else:
                return CacheUse(row[0], row[1], self._limit, row[2])
        raise self._error(failed)

    # --- memory -----------------------------------------------------------------------------------------------

    def _remember(self, entry: CacheEntry, row: int, version: int) -> None:
        """``version`` is that before the row was read or written: what was taken away since makes it be looked up again."""
        self._forget(entry.key)
        if entry.size_bytes > self._memory_limit:
            return
        self._memory[entry.key] = _Kept(entry, row, version)
        self._memory_used += entry.size_bytes
        while self._memory_used > self._memory_limit:
            _, kept = self._memory.popitem(last=False)
            self._memory_used -= kept.entry.size_bytes

    def _forget(self, key: str) -> None:
        kept = self._memory.pop(key, None)
        if kept is not None:
            self._memory_used -= kept.entry.size_bytes

    def _forget_all(self) -> None:
        self._memory: OrderedDict[str, _Kept] = OrderedDict()
        self._memory_used = 0
        self._version = 0
        self._seen_version = self._seen_gone = -1
        self._own_gone = 0
        self._looked_s = 0.0

    # --- writing ----------------------------------------------------------------------------------------------

    def put(self, entry: CacheEntry, /) -> None:
        data = self._packing.pack(entry)
        self._change(partial(self._put, entry, data), entry)

    def _put(self, entry: CacheEntry, data: bytes, db: sqlite3.Connection, tally: _Tally) -> int | None:
        now = self._clock_us()
        newer = "SELECT 1 FROM answer WHERE key = ? AND stored_us > ? AND stale_us > ?"
        if db.execute(newer, (entry.key, entry.stored_us, now)).fetchone():
            return None  # rule 5
        hits = sum(row[3] for row in tally.drop("key = ?", entry.key))
        tally.drop("id IN (SELECT id FROM answer WHERE stale_us <= ? ORDER BY stale_us LIMIT ?)", now, _PURGE)
        if entry.stale_us <= now or self._is_late(db, entry) or not self._make_room(db, tally, entry, hits, now):
            return None
        size = entry.size_bytes
        row = db.execute(
            "INSERT INTO answer (key, tenant, route, size_bytes, cost, hits, worth, stale_us, stored_us)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(entry.key, entry.tenant, entry.route, size, entry.cost, hits),
                worth(entry.cost, size, hits, tally.floor),
                *(entry.stale_us, entry.stored_us),
            ),
        ).lastrowid
        db.execute("INSERT INTO packed VALUES (?, ?)", (row, data))
        db.executemany("INSERT OR IGNORE INTO tag VALUES (?, ?)", [(row, tag) for tag in entry.tags])
        tally.entries += 1
        tally.bytes += size
        return row

    def _is_late(self, db: sqlite3.Connection, entry: CacheEntry) -> bool:
        """Rule 5."""
        return any(
            db.execute("SELECT 1 FROM removed WHERE tag = ? AND at_us > ?", (tag, entry.stored_us)).fetchone()
            for tag in entry.tags
        )

    def _make_room(self, db: sqlite3.Connection, tally: _Tally, entry: CacheEntry, hits: int, now: int) -> bool:
        """Rule 2. False where the entry is not to be kept."""
        size = entry.size_bytes
        if size > self._limit:
            return False
        while tally.bytes + size > self._limit and tally.drop(
            "id IN (SELECT id FROM answer WHERE stale_us <= ? ORDER BY stale_us LIMIT ?)", now, _PURGE
        ):
            pass
        missing = tally.bytes + size - self._limit
        if missing <= 0:
            return True
        own = worth(entry.cost, size, hits, tally.floor)
        going: list[int] = []
        floor = tally.floor
        cursor = db.execute("SELECT id, size_bytes, worth FROM answer ORDER BY worth, id")
        for row, freed, value in cursor:
            if value > own:
                tally.floor = own
                return False
            going.append(row)
            floor = value
            missing -= freed
            if missing <= 0:
                break
        cursor.close()
        for row in going:
            tally.drop("id = ?", row)
        tally.evicted += len(going)
        tally.floor = floor
        return True

    def remove(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int:
        """Raises ValueError where nothing is said."""
        if everything:
            removed = self._change(lambda _, tally: tally.clear(), None)
            self._shrink()
            return removed
        named = {"key": key, "tenant": tenant, "route": route}
        wanted = {column: value for column, value in named.items() if value}
        if not wanted and not tag:
            raise ValueError("say what to remove: a key, a tag, a tenant, a route, or everything")
        conditions = [f"{column} = ?" for column in wanted]
        if tag:
            conditions.append("id IN (SELECT id FROM tag WHERE tag = ?)")
            if not wanted:
                self._change(partial(self._mark, tag), None)
        values = [*wanted.values(), *([tag] if tag else []), _BATCH]
        which = " AND ".join(conditions)
        batch = f"id IN (SELECT id FROM answer WHERE {which} LIMIT ?)"  # noqa: S608 - names are this function's own
        removed = 0
        while count := self._change(lambda _, tally: len(tally.drop(batch, *values)), None):
            removed += count
        return removed

    def _mark(self, tag: str, db: sqlite3.Connection, _tally: _Tally) -> None:
        now = self._clock_us()
        db.execute("DELETE FROM removed WHERE at_us < ?", (now - _MARK_US,))
        db.execute("INSERT INTO removed VALUES (?, ?) ON CONFLICT DO UPDATE SET at_us = max(at_us, ?2)", (tag, now))

    def _shrink(self) -> None:
        """What was in the file shall not be found in it any more."""
        with self._writing, suppress(sqlite3.Error):  # in use by others: then a later time
            db = self._writer()
            db.executescript("PRAGMA incremental_vacuum")  # a page a step: only a script takes all steps
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _change(self, work: Callable[[sqlite3.Connection, _Tally], T], entry: CacheEntry | None) -> T:
        """Do it in one transaction. What ``work`` returns for an ``entry`` is the row that it is."""
        with self._writing:
            version = self._version
            try:
                done, gone = self._transaction(work)
            except (sqlite3.Error, OSError) as error:
                failed = error
            else:
                with self._reading:
                    if self._read is not None and self._write is not None and self._read.inode != self._write.inode:
                        self._looked_s = 0.0
                    for key in list(self._memory) if gone is None else gone:
                        self._forget(key)
                    if entry is not None and isinstance(done, int):
                        self._remember(entry, done, version)
                return done
        raise self._error(failed)

    def _transaction(self, work: Callable[[sqlite3.Connection, _Tally], T]) -> tuple[T, list[str] | None]:
        db = self._writer()
        announced = 0
        db.execute("BEGIN IMMEDIATE")
        try:
            tally = _Tally(db)
            self._count_hits(db, tally.floor)
            done = work(db, tally)
            tally.write()
            # Before the commit: who looks in between finds fewer taken away by others than there were, never as many.
            announced = tally.dropped
            self._announce(announced)
            db.execute("COMMIT")
        except BaseException:
            self._announce(-announced)
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return done, tally.gone

    def _announce(self, dropped: int) -> None:
        if dropped:
            with self._reading:
                self._own_gone += dropped

    def _count_hits(self, db: sqlite3.Connection, floor: int) -> None:
        with self._reading:
            counted = [self._hits.popitem() for _ in range(min(len(self._hits), _BATCH))]
        for key, count in counted:
            row = db.execute("SELECT id, cost, size_bytes, hits FROM answer WHERE key = ?", (key,)).fetchone()
            if row is not None:
                value = worth(row[1], row[2], row[3] + count, floor)
                db.execute("UPDATE answer SET hits = hits + ?, worth = ? WHERE id = ?", (count, value, row[0]))

    # --- the file ---------------------------------------------------------------------------------------------

    def _reader(self) -> sqlite3.Connection:
        """The connection to read with, having looked whether somebody has written."""
        if self._path is None:
            return self._writer()
        now = time.monotonic()
        if self._read is not None and now - self._looked_s < _LOOK_S:
            return self._read.db
        if self._read is None or self._read.inode != _inode(self._path):
            if self._read is not None:
                self._read.db.close()
                self._read = None
            self._forget_all()
            self._read = self._connect(_READ_WAIT_MS)
        (version,) = self._read.db.execute("PRAGMA data_version").fetchone()
        if version != self._seen_version:
            self._seen_version = version
            (gone,) = self._read.db.execute("SELECT gone FROM tally").fetchone()
            if gone - self._own_gone != self._seen_gone:
                self._seen_gone = gone - self._own_gone
                self._version += 1
        self._looked_s = now
        return self._read.db

    def _writer(self) -> sqlite3.Connection:
        if self._write is not None and self._path is not None and self._write.inode != _inode(self._path):
            self._write.db.close()
            self._write = None
        if self._write is None:
            self._write = self._connect(_WRITE_WAIT_MS)
        return self._write.db

    def _connect(self, wait_ms: int) -> _Connected:
        if self._closed:
            raise sqlite3.ProgrammingError("the cache is closed")
        path, inode = self._path, 0
        with _connecting:
            if path is not None:
                inode = _made(path)
            db = sqlite3.connect(path or IN_MEMORY, isolation_level=None, timeout=0, check_same_thread=False)
            try:
                self._prepare(db)
                db.execute(f"PRAGMA busy_timeout = {wait_ms}")
            except BaseException:
                db.close()
                raise
        return _Connected(db, inode)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA busy_timeout = {_WRITE_WAIT_MS}")
        if db.execute("PRAGMA user_version").fetchone() == (0,):
            # An answer of the usual size does not fill half of a page that is smaller.
            db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            with suppress(sqlite3.OperationalError):  # somebody else makes the file at this moment, with the same
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        use_wal(db)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES_MAX}")
        self._create(db)

    def _create(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise CacheError(
                f"{self._path} was written by a newer Bursar (schema {version}, this one knows {_SCHEMA_VERSION}): "
                "upgrade Bursar, or remove the file: a new one is made"
            )
        if version < _SCHEMA_VERSION:
            # Another process may do the same at this moment: which version it is, is asked again where nobody else can.
            db.execute("BEGIN IMMEDIATE")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version < _SCHEMA_VERSION:
                for statement in (*(statements("cache_2.sql") if version == 1 else ()), *statements("cache.sql")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            db.execute("COMMIT")

    def _error(self, error: sqlite3.Error | OSError) -> CacheError:
        """The error to raise instead. Not to be called with a lock held."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _SQLITE_DAMAGED or self._path is None:
            return CacheError(f"the cache {self._path or IN_MEMORY} cannot be used: {error}")
        aside = self._path.with_name(f"{self._path.name}.damaged")
        with self._writing, self._reading:
            opened = {each.inode for each in (self._read, self._write) if each is not None}
            self._close()
            with suppress(OSError):
                if not opened or _inode(self._path) in opened:
                    self._path.replace(aside)
                    for end in ("-wal", "-shm"):
                        Path(f"{self._path}{end}").unlink(missing_ok=True)
        return CacheError(
            f"the cache {self._path} is damaged ({error}): it was set aside as {aside.name}, a new one is made"
        )

    def _close(self) -> None:
        for each in {id(each): each for each in (self._read, self._write) if each is not None}.values():
            with suppress(sqlite3.Error):
                each.db.close()
        self._read = self._write = None
        self._forget_all()

    def close(self) -> None:
        """What is used afterwards raises CacheError."""
        with self._writing, self._reading:
            if self._hits and self._write is not None:
                with suppress(sqlite3.Error, OSError):
                    self._transaction(lambda _db, _tally: None)
            self._close()
            self._closed = True

    # --- forks ------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        self._writing.acquire()
        self._reading.acquire()
        self._forking = True
        if self._path is not None:
            self._close()

    def after_fork(self) -> None:
        if self._forking:
            self._forking = False
            self._reading.release()
            self._writing.release()

    def forked(self) -> None:
        """This process is a child."""
        self._hits.clear()
        self._make_locks()


def _made(path: Path) -> int:
    """The inode of the file, which is made where there is none. Answers are nobody else's business; what SQLite makes beside it
    has its mode."""
    with suppress(FileExistsError):
        os.close(
            os.open(path.resolve(), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        )  # rule 8: never of one that was there
    path.chmod(0o600)
    return _inode(path)


def _inode(path: Path) -> int:
    """What tells a file from another one of the same name; 0 where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _before_fork() -> None:
    for cache in list(_LIVING):
        cache.before_fork()
    _connecting.acquire()


def _after_fork_in_parent() -> None:
    _connecting.release()
    for cache in list(_LIVING):
        cache.after_fork()


def _after_fork_in_child() -> None:
    _connecting.release()
    for cache in list(_LIVING):
        cache.forked()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
