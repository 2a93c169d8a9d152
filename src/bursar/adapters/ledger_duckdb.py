"""The ledger in one DuckDB file: rows in, answers out.

Rule 1: rows and the position they bring the ledger to are written in one transaction, so each arrives exactly once.
Rule 2: one process has the file open at a time; others ask it over HTTP, or wait their turn.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib import resources
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import duckdb

from bursar.core.errors import LedgerBusyError, LedgerError
from bursar.engine.ports import Entry, TraceRows

__all__ = ["DuckLedger"]

_SCHEMA_VERSION: Final = 3
_SPOOL: Final = "rows-"
_SPOOL_S_MAX: Final = 600
_SPOOL_BUFFER_BYTES: Final = 1 << 20


def _sql(name: str) -> str:
    return resources.files("bursar.adapters").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")


class DuckLedger:
    """``engine.ports.Ledger`` and ``Queries`` on a DuckDB file, or in memory when ``path`` is None. Any thread may call."""

    def __init__(
        self, path: Path | None, *, wait_s: float = 5.0, memory_limit: str = "512MB", threads: int | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._spool = path.parent if path is not None else None
        config: dict[str, Any] = {"memory_limit": memory_limit, "autoinstall_known_extensions": "false"}
        if threads is not None:
            config["threads"] = str(threads)
        self._db = _connect(path, config, wait_s)
        with _failures("be opened"):
            if path is not None:
                path.chmod(0o600)
                _sweep(path.parent)
            # A ledger of this version that is already there needs no statement at all: start-up is felt in every command.
            if not self._is_current():
                self._db.execute(_sql("ledger"))

    def _is_current(self) -> bool:
        found = self._db.execute("SELECT comment FROM duckdb_tables() WHERE table_name = 'position'").fetchone()
        if found is None:
            return False
        version = int(found[0] or 0)
        if version > _SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger was written by a newer Bursar (schema {version}, this one knows {_SCHEMA_VERSION})"
            )
        return version == _SCHEMA_VERSION

    def close(self) -> None:
        with self._lock, _failures("be closed"):
            self._db.close()

    def last_sequence(self) -> int:
        with self._lock, _failures("be read"):
            row = self._db.execute("SELECT last_sequence FROM position").fetchone()
        assert row is not None
        return int(row[0])

    def append(self, entries: Sequence[Entry]) -> int:
        """Returns how many rows were new. Raises LedgerError, and then nothing has changed."""
        if not entries:
            return 0
        # A file, because DuckDB reads one about ten times faster than the same rows as a parameter.
        lines = [b'{"sequence":%d,%b\n' % (entry.sequence, entry.row[1:]) for entry in entries]
        with _failures(f"take {len(entries)} rows"), self._file_of(lines) as path, self._lock:
            retracts = any(b'"retracts"' in entry.row for entry in entries)
            with self._transaction():
                if retracts:
                    self._run(_RETRACT, path=path)
                done = self._db.execute(_APPEND_BACK if retracts else _APPEND, {"path": path}).fetchone()
                self._db.execute(
                    "UPDATE position SET last_sequence = greatest(last_sequence, ?)", [entries[-1].sequence]
                )
        return int(done[0]) if done else 0

    def trace_position(self) -> int:
        """The sequence of the trace store that the ledger has come to."""
        with self._lock, _failures("be read"):
            row = self._db.execute("SELECT last_sequence FROM trace_position").fetchone()
        assert row is not None
        return int(row[0])

    def append_traces(self, rows: Sequence[TraceRows]) -> None:
        """What was kept of traces. Raises LedgerError, and then nothing has changed."""
        last = max((kept.sequence for kept in rows), default=0)
        with _failures(f"take {len(rows)} pieces of traces"), self._lock, self._transaction():
            (position,) = self._db.execute("SELECT last_sequence FROM trace_position").fetchone() or (0,)
            spans = [kept for kept in rows if not kept.outcomes and kept.sequence > position]
            outcomes = [kept for kept in rows if kept.outcomes]
            if any(kept.revised for kept in spans):
                with self._file_of(_numbered(spans)) as path:
                    self._run(_RESPANS, path=path)
                    self._run(_SPANS, path=path)
            elif spans:  # nothing is there twice, so the order among them says nothing: the rows go in as they are kept
                with self._file_of(kept.lines for kept in spans) as path:
                    self._run(_NEW_SPANS, path=path, last=last)
            if outcomes:
                with self._file_of(_numbered(outcomes)) as path:
                    self._run(_OUTCOMES, path=path)
            self._db.execute("UPDATE trace_position SET last_sequence = greatest(last_sequence, ?)", [last])

    @contextmanager
    def _file_of(self, lines: Iterable[bytes]) -> Generator[str]:
        """A file of rows for as long as this is open."""
        with NamedTemporaryFile(dir=self._spool, prefix=_SPOOL, suffix=".json", buffering=_SPOOL_BUFFER_BYTES) as file:
            file.writelines(lines)
            file.flush()
            yield file.name

    def restart_traces(self) -> None:
        """The trace store is a new one: it is read from its beginning."""
        with self._lock, _failures("be written"):
            self._db.execute("UPDATE trace_position SET last_sequence = 0")

    def _run(self, sql: str, **parameters: Any) -> None:
        """Statements one by one: the database takes parameters for a single one only, and no more than it names."""
        for statement in filter(str.strip, sql.split(";\n")):
            used = {name: value for name, value in parameters.items() if f"${name}" in statement}
            self._db.execute(statement, used)

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._db.execute("BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a failed commit has ended it already; what failed first is what to tell
                self._db.execute("ROLLBACK")
            raise

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """One statement, named columns. A cursor of its own: a long question does not hold up the writer."""
        with _failures("answer"), closing(self._db.cursor()) as cursor:
            cursor.execute(sql, dict(parameters) if parameters else None)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def roll_up(self, begin_us: int, until_us: int) -> int:
        """Sum the attempts of a span of time into ``rollup`` and delete them, in one transaction. Returns their number."""
        span = {"begin": begin_us, "until": until_us}
        with _failures("be compacted"), self._lock, self._transaction():
            self._db.execute(_ROLLUP, span)
            deleted = self._db.execute(_DELETE, span).fetchone()
        return int(deleted[0]) if deleted else 0

    def forget_traces(self, before_us: int) -> None:
        """Delete what happened before a time. There is no money in it."""
        with _failures("be compacted"), self._lock, self._transaction():
            self._db.execute("DELETE FROM span WHERE started_at < make_timestamp(?)", [before_us])
            self._db.execute("DELETE FROM outcome WHERE said_at < make_timestamp(?)", [before_us])


def _numbered(rows: Sequence[TraceRows]) -> Generator[bytes]:
    """The lines of rows, each with its sequence."""
    for kept in rows:
        head = b'{"sequence":%d,' % kept.sequence
        yield from (head + line[1:] + b"\n" for line in kept.lines.split(b"\n") if line)


@contextmanager
def _failures(what: str) -> Generator[None]:
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise LedgerError(f"the ledger could not {what}: {error}") from error


def _sweep(folder: Path) -> None:
    """Take away the files of rows that killed processes left. One that is in use is seconds old."""
    for left in folder.glob(f"{_SPOOL}*.json"):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - _SPOOL_S_MAX:
                left.unlink()


def _connect(path: Path | None, config: dict[str, Any], wait_s: float) -> duckdb.DuckDBPyConnection:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return duckdb.connect(str(path) if path is not None else ":memory:", config=config)
        except duckdb.Error as error:
            text = str(error)
            if not _TAKEN.search(text):
                raise LedgerError(
                    f"{path} cannot be opened as the ledger: {text}. Move it away: the next command makes it again "
                    "from the books (what they have summed up already is only in the old file)"
                ) from error
            if time.monotonic() > deadline:
                raise LedgerBusyError(
                    f"{path} has been in use for {wait_s:.0f} s: try again when that is done. {text}"
                ) from error
            time.sleep(0.05)


# Another process has the file, or another connection of this one is just opening or closing it.
_TAKEN: Final = re.compile(r"lock|Unique file handle conflict|already attached", re.IGNORECASE)
_APPEND_BACK: Final = _sql("ledger_append")
# The table of what is taken back is there only after something was.
_APPEND: Final = _APPEND_BACK.rpartition("\n  AND")[0]
_RETRACT: Final = _sql("ledger_retract")
_RESPANS: Final = _sql("ledger_respans")
_SPANS: Final = _sql("ledger_spans")
# What is new comes without sequences: all of a file has the one it brings the ledger to.
_NEW_SPANS: Final = (
    _SPANS.rpartition("\nWHERE")[0]
    .replace("SELECT sequence", "SELECT $last", 1)
    .replace("'sequence': 'BIGINT', ", "", 1)
)
_OUTCOMES: Final = _sql("ledger_outcomes")
_ROLLUP: Final = _sql("ledger_rollup")
_DELETE: Final = (
    "DELETE FROM attempt WHERE started_at >= make_timestamp($begin) AND started_at < make_timestamp($until)"
)
