"""The stores' own edges: what lies in the data directory, ledgers made again, logs that grow, and values nobody expects."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bursar.adapters.books_file import BooksFile
from bursar.adapters.data_dir import DataDir
from bursar.adapters.keys import KeyCache, KeyStore
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.adapters.ledger_worker import LedgerWorker
from bursar.adapters.retention import compact_books, compact_ledger
from bursar.adapters.rows import decode_row, encode_attempt
from bursar.adapters.verify import verify
from bursar.core.call import NeedsHold, NeedsSettlement
from bursar.core.errors import BooksError, LedgerError
from bursar.core.money import NanoUSD
from bursar.core.prices import Line
from bursar.engine.ship import ship
from making import STARTED_US, an_attempt, an_opening

DAY_US = 86_400_000_000


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.us = STARTED_US

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(tmp_path: Path, clock: Clock) -> Iterator[BooksFile]:
    with closing(BooksFile(tmp_path / "books.sqlite3", clock_us=clock, hold_ttl_us=1_000)) as file:
        yield file


def days(books: BooksFile, clock: Clock, first: int, last: int) -> None:
    """One attempt a day, each started and ended on it."""
    for day in range(first, last):
        clock.us = STARTED_US + day * DAY_US
        books.observe([an_attempt(f"d{day}", opening=an_opening(f"d{day}", started_us=clock.us))])


def spent(ledger: DuckLedger) -> int:
    return int(ledger.rows("SELECT coalesce(sum(cost_nanousd), 0)::BIGINT AS cost FROM spend")[0]["cost"])


@pytest.mark.parametrize(("books_days", "ledger_days"), [(3, 8), (8, 3)])
def test_either_store_may_keep_its_rows_longer(
    books: BooksFile, clock: Clock, books_days: int, ledger_days: int
) -> None:
    """What one store has summed up and the other has not is no difference; a changed sum is one."""
    days(books, clock, 0, 12)
    with closing(DuckLedger(None)) as ledger:
        ship(books, ledger)
        compact_books(books, before_us=clock.us - books_days * DAY_US, shipped=ledger.last_sequence())
        compact_ledger(ledger, before_us=clock.us - ledger_days * DAY_US)
        assert verify(books, ledger).differences == ()
        ledger.rows(
            "UPDATE rollup SET cost_nanousd = cost_nanousd + 1 WHERE started_at = (SELECT min(started_at) FROM rollup)"
        )
        assert [each.about for each in verify(books, ledger).differences] == ["spent on everything"]


def test_a_ledger_that_is_gone_is_missed(books: BooksFile, clock: Clock) -> None:
    """Rows that the books had summed up already are in no new ledger: its total is not that of the books."""
    days(books, clock, 0, 12)
    with closing(DuckLedger(None)) as lost:
        ship(books, lost)
        compact_books(books, before_us=clock.us - 3 * DAY_US, shipped=lost.last_sequence())
    with closing(DuckLedger(None)) as ledger:
        assert [each.about for each in verify(books, ledger).differences] == ["spent on everything"]
        assert spent(ledger) < 12 * 1_500


# --- verify -------------------------------------------------------------------------------------------------------


def test_verify_ships_what_ended_since(books: BooksFile, clock: Clock) -> None:
    """Calls go on ending while somebody verifies: that is no difference."""
    with closing(DuckLedger(None)) as ledger:
        days(books, clock, 0, 2)
        ship(books, ledger)
        days(books, clock, 2, 4)
        assert verify(books, ledger).differences == ()


def test_lines_of_an_unpriced_attempt_are_no_difference(books: BooksFile) -> None:
    """Where only a fee has no price the lines hold the rest, and there is no amount to compare them with."""
    attempt = an_attempt(amount=None)
    lines = (Line("input_tokens", 100, None, "test:row", NanoUSD(5)),)
    books.observe([replace(attempt, charge=replace(attempt.charge, lines=lines))])
    with closing(DuckLedger(None)) as ledger:
        assert verify(books, ledger).differences == ()


# --- retention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["void", "hold"])
def test_an_idle_time_does_not_part_books_and_ledger(books: BooksFile, clock: Clock, last: str) -> None:
    """When all is old and the newest entry has no row, the books still end where the ledger is."""
    days(books, clock, 0, 3)
    books.apply([NeedsHold(an_opening("last"))])
    if last == "void":
        books.apply([NeedsSettlement(an_opening("last"), None)])
    clock.us += 100 * DAY_US
    with closing(DuckLedger(None)) as ledger:
        ship(books, ledger)
        compact_books(books, before_us=clock.us, shipped=ledger.last_sequence())
        assert ship(books, ledger) == 0
        assert verify(books, ledger).differences == ()
        books.observe([an_attempt("next")])
        assert ship(books, ledger) == 1


def test_a_correction_that_is_not_shipped_stays(books: BooksFile, clock: Clock) -> None:
    """The late settlement of an old attempt is in the ledger before its entries go."""
    opening = an_opening("late", estimate=2_000)
    books.apply([NeedsHold(opening)])
    books.expire(before_us=None)
    with closing(DuckLedger(None)) as ledger:
        ship(books, ledger)
        clock.us += 100 * DAY_US
        books.apply([NeedsSettlement(opening, an_attempt("late", opening=opening))])
        books.observe([an_attempt("after")])
        compact_books(books, before_us=clock.us, shipped=ledger.last_sequence())
        ship(books, ledger)
        assert spent(ledger) == 3_000
        assert verify(books, ledger).differences == ()


def test_an_import_knows_a_response_that_was_rolled_up(books: BooksFile, clock: Clock) -> None:
    """A transcript of last month's gateway calls is imported: they are not charged again."""
    live = an_attempt("live", response_id="resp_1")
    books.apply([NeedsHold(live.opening), NeedsSettlement(live.opening, live)])
    books.observe([an_attempt("newest")])
    clock.us += 1
    assert compact_books(books, before_us=clock.us, shipped=100).deleted == 2
    assert books.observe([an_attempt("file", response_id="resp_1", door="import")]) == 0


# --- values nobody expects ----------------------------------------------------------------------------------------


def test_an_opening_of_another_version_still_ends(books: BooksFile) -> None:
    """A hold whose opening cannot be read is charged what is held, to the accounts it is held on."""
    books.apply([NeedsHold(an_opening(estimate=2_000, task="t")), NeedsHold(an_opening("b", estimate=None))])
    books.connection.execute("UPDATE entry SET payload = ?", (b'{"another": "shape"}',))
    assert books.expire(before_us=None) == 2
    assert books.open_holds() == 0
    assert {(b.account, b.held, b.spent, b.unpriced) for b in books.balances()} == {
        ("all", 0, 2_000, 1),
        ("task:t", 0, 2_000, 0),
    }
    with closing(DuckLedger(None)) as ledger:
        assert verify(books, ledger).differences == ()


def test_a_row_has_bounds(books: BooksFile) -> None:
    """Megabytes in a provider's answer become neither megabytes in the books nor a row that the ledger cannot take."""
    attempt = an_attempt(response_id="r" * 5_000_000)
    line = attempt.charge.lines[0]
    charge = replace(attempt.charge, model="m" * 5_000_000, notes=("n" * 99_999,) * 99, lines=(line,) * 5_000)
    long = replace(attempt, charge=replace(charge, amount=NanoUSD(1_500 * 5_000)), tools=("t" * 99_999,) * 999)
    assert len(encode_attempt(long)) < 128 * 1024
    books.observe([long])
    assert books.observe([replace(long, opening=an_opening("again", door="import"))]) == 0
    with closing(DuckLedger(None)) as ledger:
        assert verify(books, ledger).differences == ()
        assert spent(ledger) == 1_500 * 5_000
    assert decode_row(books.endings_after(0, 1)[0].row).units == {"input_tokens": 100, "output_tokens": 20}


def test_strangers_keys_are_not_remembered_whole(books: BooksFile, clock: Clock) -> None:
    """A key that is too long to be one of ours is not looked up; and books that cannot be read are said to be so."""
    cache = KeyCache(KeyStore(books, clock), books)
    assert cache.find("bursar_" + "x" * 400_000) is None
    assert cache._known == {}
    books.connection.execute("DROP TABLE virtual_key")
    with pytest.raises(BooksError, match="virtual_key"):
        cache.find("bursar_unknown")


# --- files --------------------------------------------------------------------------------------------------------


def test_a_reader_does_not_keep_writers_out(books: BooksFile, tmp_path: Path, clock: Clock) -> None:
    """While somebody reads for minutes, a checkpoint of a long log gives up at once."""
    with closing(sqlite3.connect(tmp_path / "books.sqlite3", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entry").fetchone()
        books.never_wait()
        books.observe((replace(an_attempt(f"a{i}"), error="x" * 4_000) for i in range(5_000)), batch=500)
        with closing(BooksFile(tmp_path / "books.sqlite3", clock_us=clock, hold_ttl_us=1)) as other:
            start = time.perf_counter()
            other.checkpoint()
            assert time.perf_counter() - start < 2


async def test_the_log_of_holds_alone_is_moved_too(books: BooksFile, tmp_path: Path, clock: Clock) -> None:
    """Calls that never leave end without a row: with nothing to ship the log is moved all the same."""
    books.never_wait()

    def void(number: int) -> None:
        opening = an_opening(f"v{number}")
        books.apply([NeedsHold(opening), NeedsSettlement(opening, None)])

    worker = LedgerWorker(
        lambda: BooksFile(tmp_path / "books.sqlite3", clock_us=clock, hold_ttl_us=1),
        lambda: DuckLedger(tmp_path / "ledger.duckdb"),
    )
    await worker.ship()
    for number in range(100):
        void(number)
    await worker.ship()
    grown = (tmp_path / "books.sqlite3-wal").stat().st_size
    for number in range(100, 130):
        void(number)
    assert (tmp_path / "books.sqlite3-wal").stat().st_size == grown
    await worker.close()


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    """Files of rows on their way are taken away when they are old; one that may be in use stays."""
    old, new = tmp_path / "rows-old.json", tmp_path / "rows-new.json"
    for file in (old, new):
        file.touch()
    os.utime(old, (1, 1))
    DuckLedger(tmp_path / "ledger.duckdb").close()
    assert not old.exists()
    assert new.exists()


def test_a_disk_without_room_is_a_ledger_error(
    books: BooksFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that cannot be laid down for DuckDB fail as the ledger does, and arrive later."""
    books.observe([an_attempt()])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with closing(DuckLedger(tmp_path / "ledger.duckdb")) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr("bursar.adapters.ledger_duckdb.NamedTemporaryFile", full)
            with pytest.raises(LedgerError, match="No space left"):
                ship(books, ledger)
        assert ship(books, ledger) == 1


def test_the_first_error_is_the_one_that_is_told() -> None:
    """A transaction that DuckDB has ended by itself is not rolled back again over what went wrong."""
    with closing(DuckLedger(None)) as ledger:

        def fail() -> None:
            with ledger._transaction():
                ledger._db.execute("ROLLBACK")
                raise LedgerError("what went wrong")

        with pytest.raises(LedgerError, match="what went wrong"):
            fail()


def test_an_empty_admin_token_opens_nothing(tmp_path: Path) -> None:
    """A token file that a full disk left empty is made again."""
    data = DataDir(tmp_path)
    (tmp_path / "admin.token").touch()
    token = data.admin_token()
    assert len(token) > 40
    assert data.admin_token() == token
    assert (tmp_path / "admin.token").stat().st_mode & 0o077 == 0
