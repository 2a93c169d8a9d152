"""What every store of the books must do. Today there is one, SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bursar.adapters.books_async import AsyncBooks
from bursar.adapters.books_file import BooksFile
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.adapters.retention import compact_books, compact_ledger
from bursar.adapters.rows import decode_row
from bursar.adapters.verify import verify
from bursar.core.call import Held, NeedsHold, NeedsSettlement, NotHeld
from bursar.core.errors import BooksBusyError, BooksFailedError, LedgerError
from bursar.core.ledger import Attempt
from bursar.core.money import NanoUSD
from bursar.engine.ship import ship
from making import an_attempt, an_opening


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(tmp_path: Path, clock: Clock) -> Iterator[BooksFile]:
    file = BooksFile(tmp_path / "books.sqlite3", clock_us=clock, hold_ttl_us=1_000)
    yield file
    file.close()


@pytest.fixture
def ledger() -> Iterator[DuckLedger]:
    made = DuckLedger(None)
    yield made
    made.close()


def balance(books: BooksFile, account: str = "all") -> tuple[int, int, int]:
    return next(((int(b.held), int(b.spent), b.unpriced) for b in books.balances() if b.account == account), (0, 0, 0))


def held(task: str = "", amount: int = 2_000) -> Held:
    """A hold that no budget looked at, and where it is entered."""
    return Held(NanoUSD(amount), accounts=("all", f"task:{task}") if task else ("all",))


def settle(attempt: Attempt) -> NeedsSettlement:
    return NeedsSettlement(attempt.opening, attempt)


def test_hold_then_settle_moves_money_from_held_to_spent(books: BooksFile) -> None:
    """A hold is held, its settlement spends the real amount, and nothing stays held."""
    assert books.apply([NeedsHold(an_opening(estimate=2_000))]) == [held()]
    assert balance(books) == (2_000, 0, 0)
    books.apply([settle(an_attempt(amount=1_500))])
    assert balance(books) == (0, 1_500, 0)
    assert books.open_holds() == 0


def test_an_overrun_is_booked_in_full(books: BooksFile) -> None:
    """Settlement is never refused: what was spent above the hold is in the books."""
    books.apply([NeedsHold(an_opening(estimate=10)), settle(an_attempt(amount=99_000))])
    assert balance(books) == (0, 99_000, 0)


def test_a_void_gives_everything_back(books: BooksFile) -> None:
    """An attempt that never left costs nothing and leaves no ledger row."""
    opening = an_opening()
    books.apply([NeedsHold(opening), NeedsSettlement(opening, None)])
    assert balance(books) == (0, 0, 0)
    assert books.endings_after(0, 10) == []


def test_unpriced_is_counted_and_not_zero(books: BooksFile) -> None:
    """An unknown price adds nothing to spent and one to the count of unpriced attempts."""
    books.apply([NeedsHold(an_opening(estimate=None)), settle(an_attempt(amount=None, estimate=None))])
    assert balance(books) == (0, 0, 1)
    (entry,) = books.endings_after(0, 10)
    row = decode_row(entry.row)
    assert row.cost_nanousd is None
    assert row.unpriced_reason


@pytest.mark.parametrize("times", [2, 3])
def test_saying_it_again_changes_nothing(books: BooksFile, times: int) -> None:
    """Replayed holds, settlements and observations leave the books as they were."""
    need, settlement = NeedsHold(an_opening(task="t")), settle(an_attempt(task="t"))
    for _ in range(times):
        assert books.apply([need]) == [held("t")]
    for _ in range(times):
        books.apply([settlement])
    assert isinstance(books.apply([need])[0], NotHeld)
    assert balance(books) == balance(books, "task:t") == (0, 1_500, 0)
    assert books.observe([an_attempt(task="t")]) == 0
    assert len(books.endings_after(0, 10)) == 1


def test_an_import_of_a_booked_response_is_passed_over(books: BooksFile) -> None:
    """The same provider response, seen by the gateway and found in a transcript, is charged once."""
    books.apply([settle(an_attempt("live", response_id="resp_1"))])
    assert books.observe([an_attempt("file", response_id="resp_1", door="import")]) == 0
    assert books.observe([an_attempt("file", response_id="resp_1", door="import", provider="azure")]) == 1
    assert balance(books) == (0, 3_000, 0)


def test_expiry_charges_the_estimate(books: BooksFile, clock: Clock) -> None:
    """A hold past its time is ended with its estimate as the charge, marked so."""
    books.apply([NeedsHold(an_opening(estimate=2_000))])
    assert books.expire(before_us=clock.us) == 0
    clock.us += 1_001
    assert books.expire(before_us=clock.us) == 1
    assert balance(books) == (0, 2_000, 0)
    (entry,) = books.endings_after(0, 10)
    assert b'"status":"expired"' in entry.row
    assert b'"estimated":true' in entry.row


def test_a_living_attempt_is_not_expired(books: BooksFile, clock: Clock) -> None:
    """The sweeper extends the holds of attempts that are under way."""
    books.apply([NeedsHold(an_opening("a")), NeedsHold(an_opening("b"))])
    clock.us += 1_001
    assert books.expire(before_us=clock.us, keep=lambda attempt: attempt == "a.1") == 1
    assert balance(books) == (2_000, 2_000, 0)


def test_settling_after_expiry_books_the_difference_once(books: BooksFile, ledger: DuckLedger) -> None:
    """A late settlement corrects the estimate by an entry of its own; the sum is the truth, in both stores."""
    books.apply([NeedsHold(an_opening(estimate=2_000))])
    books.expire(before_us=None)
    for _ in range(2):
        books.apply([settle(an_attempt(amount=1_500))])
    assert balance(books) == (0, 1_500, 0)
    ship(books, ledger)
    assert ledger.rows(
        "SELECT sum(cost_nanousd)::BIGINT AS cost, count(*) FILTER (number = 1) AS calls FROM attempt"
    ) == [{"cost": 1_500, "calls": 1}]
    assert verify(books, ledger).differences == ()


def test_shipping_is_exactly_once(books: BooksFile, ledger: DuckLedger) -> None:
    """However often and in whatever batches rows are shipped, each arrives once and in order."""
    books.observe(an_attempt(f"c{i:03}", door="import") for i in range(50))
    assert ship(books, ledger, batch=7, batches_max=2) == 14
    assert ledger.append(books.endings_after(0, 5)) == 0
    assert ship(books, ledger, batch=7) == 36
    assert ship(books, ledger) == 0
    assert ledger.rows("SELECT count(*) AS n, count(DISTINCT attempt_id) AS ids FROM attempt") == [{"n": 50, "ids": 50}]


def test_a_foreign_ledger_is_refused(books: BooksFile, ledger: DuckLedger, tmp_path: Path, clock: Clock) -> None:
    """A ledger that is ahead of the books belongs to other books; it is left alone."""
    books.observe([an_attempt("a"), an_attempt("b")])
    ship(books, ledger)
    other = BooksFile(tmp_path / "other.sqlite3", clock_us=clock, hold_ttl_us=1)
    with pytest.raises(LedgerError, match="do not belong together"):
        ship(other, ledger)
    other.close()


def test_verify_finds_every_kind_of_difference(books: BooksFile, ledger: DuckLedger) -> None:
    """A changed balance, entry, hold or ledger row is named."""
    books.apply([NeedsHold(an_opening("held")), settle(an_attempt("a")), settle(an_attempt("b", amount=None))])
    ship(books, ledger)
    assert verify(books, ledger).differences == ()
    books.connection.execute("UPDATE balance SET spent_nanousd = spent_nanousd + 1")
    assert any("spent of account all" in d.about for d in verify(books, ledger).differences)
    books.connection.execute("UPDATE balance SET spent_nanousd = spent_nanousd - 1")
    books.connection.execute("DELETE FROM open_hold")
    assert any("held.1" in d.about for d in verify(books, ledger).differences)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE attempt SET cost_nanousd = cost_nanousd + 1",
        "DELETE FROM attempt WHERE attempt_id = 'a.1'",
        "INSERT INTO attempt SELECT * FROM attempt WHERE attempt_id = 'a.1'",
        "UPDATE attempt SET cost_nanousd = 0 WHERE attempt_id = 'b.1'",
    ],
)
def test_verify_finds_a_damaged_ledger(books: BooksFile, ledger: DuckLedger, damage: str) -> None:
    """A ledger row that is changed, missing, doubled, or zero where the books say unpriced, is a difference."""
    books.apply([settle(an_attempt("a")), settle(an_attempt("b", amount=None))])
    ship(books, ledger)
    ledger.rows(damage)
    assert verify(books, ledger).differences


def test_compaction_keeps_every_sum(books: BooksFile, ledger: DuckLedger, clock: Clock) -> None:
    """Rolling up old entries and rows changes no balance and no total, and an old import still adds nothing."""
    imported = [an_attempt(f"i{i}", task="old", door="import") for i in range(25)]
    books.observe(imported)
    books.apply([NeedsHold(an_opening("open", task="old"))])
    before = balance(books)
    ship(books, ledger)
    totals = ledger.rows("SELECT sum(calls) AS calls, sum(cost_nanousd) AS cost FROM spend")
    done = compact_books(books, before_us=clock.us + 1, shipped=ledger.last_sequence(), batch=4)
    assert done.deleted == 24  # the newest ending stays
    assert balance(books) == before
    assert compact_ledger(ledger, before_us=1_790_000_000_000_000).deleted == 25
    assert ledger.rows("SELECT sum(calls) AS calls, sum(cost_nanousd) AS cost FROM spend") == totals
    assert verify(books, ledger).differences == ()
    assert books.observe(imported) == 0
    assert balance(books) == before


def test_compaction_forgets_the_accounts_of_old_tasks(books: BooksFile, clock: Clock) -> None:
    """Tasks that ended long ago leave no row behind; what was spent on everything stays."""
    books.observe(an_attempt(f"c{i}", task=f"t{i}") for i in range(10))
    books.observe([an_attempt("last")])
    clock.us += 1
    compact_books(books, before_us=clock.us, shipped=100)
    assert [b.account for b in books.balances()] == ["all"]
    assert balance(books) == (0, 16_500, 0)


def test_damaged_books_say_what_to_do(tmp_path: Path, clock: Clock) -> None:
    """A file that is no database is refused in one sentence with the way out, and left as it was."""
    path = tmp_path / "books.sqlite3"
    path.write_text("something else entirely, and long enough to be read as a header " * 10, encoding="ascii")
    before = path.read_bytes()
    with pytest.raises(BooksFailedError, match="--data"):
        BooksFile(path, clock_us=clock, hold_ttl_us=1)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(books: BooksFile, tmp_path: Path, clock: Clock) -> None:
    """An older Bursar does not touch the books of a newer one."""
    books.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(BooksFailedError, match="newer Bursar"):
        BooksFile(tmp_path / "books.sqlite3", clock_us=clock, hold_ttl_us=1)


def test_a_full_disk_changes_nothing_and_says_so(books: BooksFile) -> None:
    """When the file cannot grow the operation fails whole, with words that name the cause."""
    (pages,) = books.connection.execute("PRAGMA page_count").fetchone()
    books.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(BooksFailedError, match="full"):
        books.observe((an_attempt(f"c{i}") for i in range(500)), batch=500)
    assert balance(books) == (0, 0, 0)
    assert books.last_sequence() == 0


class TestOnALoop:
    """The books as the gateway uses them."""

    async def test_many_at_once_are_all_committed(self, books: BooksFile) -> None:
        """Calls that arrive together share commits, and each is there."""
        shared = AsyncBooks(books)

        async def call(name: str) -> None:
            assert await shared.hold(NeedsHold(an_opening(name))) == held()
            await shared.settle(settle(an_attempt(name)))

        await asyncio.gather(*(call(f"c{i}") for i in range(1_000)))
        assert balance(books) == (0, 1_500_000, 0)
        assert shared.pending == 0

    async def test_a_busy_database_is_waited_for_without_blocking(self, books: BooksFile, tmp_path: Path) -> None:
        """While another process writes, the loop goes on; the operation is committed when its turn comes."""
        shared = AsyncBooks(books)
        other = sqlite3.connect(tmp_path / "books.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        holding = asyncio.ensure_future(shared.hold(NeedsHold(an_opening())))
        for _ in range(10):
            await asyncio.sleep(0.002)
        assert not holding.done()
        other.execute("COMMIT")
        other.close()
        assert await holding == held()

    async def test_failing_books_refuse_holds_and_keep_settlements(self, books: BooksFile) -> None:
        """With a full disk new calls are refused with the reason; what ran is settled when there is room again."""
        shared = AsyncBooks(books)
        await shared.hold(NeedsHold(an_opening("running")))
        (pages,) = books.connection.execute("PRAGMA page_count").fetchone()
        books.connection.execute(f"PRAGMA max_page_count = {pages}")
        refused = None
        for i in range(200):
            outcome = await shared.hold(NeedsHold(an_opening(f"more-{i}")))
            if isinstance(outcome, NotHeld):
                refused = outcome
                break
        assert refused is not None
        assert "full" in refused.reason
        long = replace(an_attempt("running"), error="x" * 20_000)
        await shared.settle(settle(long))
        assert shared.pending == 1
        books.connection.execute(f"PRAGMA max_page_count = {pages + 1_000}")
        shared._commit()
        assert shared.pending == 0
        assert balance(books)[1] == 1_500

    async def test_endless_waiting_is_a_failure(
        self, books: BooksFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Books that another process never lets go of refuse calls and let the server stop, like a full disk."""
        monkeypatch.setattr("bursar.adapters.books_async._BUSY_MAX_S", 0.01)
        shared = AsyncBooks(books)
        await shared.hold(NeedsHold(an_opening("running")))
        other = sqlite3.connect(tmp_path / "books.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = await shared.hold(NeedsHold(an_opening()))
        assert isinstance(refused, NotHeld)
        assert "another process" in refused.reason
        await shared.settle(settle(an_attempt("running")))
        await shared.drain()
        assert (shared.pending, shared.failure is None) == (1, False)
        other.execute("COMMIT")
        other.close()
        shared._commit()
        assert (shared.pending, shared.failure) == (0, None)
        assert balance(books) == (0, 1_500, 0)

    @pytest.mark.parametrize("amount", [1 << 70, (1 << 63) - 1])
    async def test_what_cannot_be_written_stops_nobody_else(self, books: BooksFile, amount: int) -> None:
        """An amount that the file cannot hold is left out: its hold stands for the sweeper, other calls go on."""
        shared = AsyncBooks(books)
        names = ("a", "poison", "b")
        assert await asyncio.gather(*(shared.hold(NeedsHold(an_opening(n))) for n in names)) == [held()] * 3
        amounts = {"a": 1_500, "poison": amount, "b": 1_500}
        await asyncio.gather(*(shared.settle(settle(an_attempt(n, amount=amounts[n]))) for n in names))
        assert isinstance(await shared.hold(NeedsHold(an_opening("c", estimate=1 << 70))), NotHeld)
        assert (shared.pending, shared.failure) == (0, None)
        assert balance(books) == (2_000, 3_000, 0)
        assert books.expire(before_us=None) == 1
        assert balance(books) == (0, 5_000, 0)

    async def test_busy_is_an_error_only_for_those_who_do_not_wait(self, books: BooksFile, tmp_path: Path) -> None:
        """A caller that must not block gets BooksBusyError at once."""
        books.never_wait()
        other = sqlite3.connect(tmp_path / "books.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BooksBusyError):
            books.apply([NeedsHold(an_opening())])
        other.close()


def test_the_log_does_not_grow_without_end(books: BooksFile, tmp_path: Path, clock: Clock) -> None:
    """Commits that never wait leave the log to a checkpoint from elsewhere, which lets it begin again."""
    books.never_wait()
    other = BooksFile(tmp_path / "books.sqlite3", clock_us=clock, hold_ttl_us=1_000)
    log = tmp_path / "books.sqlite3-wal"
    books.observe((replace(an_attempt(f"a{i}"), error="x" * 4_000) for i in range(5_000)), batch=100)
    grown = log.stat().st_size
    assert grown > 17_000_000
    other.checkpoint()
    books.observe((an_attempt(f"b{i}") for i in range(1_000)), batch=100)
    assert log.stat().st_size == grown
    assert balance(books) == (0, 1_500 * 6_000, 0)
    other.close()


names = st.sampled_from([f"c{i}" for i in range(6)])
amounts = st.one_of(st.none(), st.integers(0, 10**12))


class BooksMachine(RuleBasedStateMachine):
    """Any order of holds, endings, replays, expiries and shipments keeps the rules of the money."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.folder = TemporaryDirectory()
        self.books = BooksFile(Path(self.folder.name) / "books.sqlite3", clock_us=self.clock, hold_ttl_us=10)
        self.ledger = DuckLedger(None)
        self.held: dict[str, int] = {}
        self.spent: dict[str, int | None] = {}

    def teardown(self) -> None:
        self.books.close()
        self.ledger.close()
        self.folder.cleanup()

    @rule(name=names, estimate=amounts)
    def hold(self, name: str, estimate: int | None) -> None:
        outcome = self.books.apply([NeedsHold(an_opening(name, estimate=estimate, task="t"))])[0]
        if name in self.spent:
            assert isinstance(outcome, NotHeld)
        else:
            self.held.setdefault(name, estimate or 0)

    @rule(name=names, amount=amounts)
    def settle(self, name: str, amount: int | None) -> None:
        self.books.apply([settle(an_attempt(name, amount=amount, task="t"))])
        if name not in self.spent:
            self.held.pop(name, None)
            self.spent[name] = amount

    @precondition(lambda self: self.held)
    @rule()
    def expire(self) -> None:
        rows = self.books.connection.execute("SELECT attempt_id, payload FROM entry WHERE stage = 0").fetchall()
        self.books.expire(before_us=None)
        for attempt_id, payload in rows:
            name = attempt_id.removesuffix(".1")
            if name in self.held:
                from bursar.adapters.rows import decode_opening

                self.spent[name] = decode_opening(payload).estimate.amount
                del self.held[name]
        self.expired_once = True

    @rule()
    def ship(self) -> None:
        ship(self.books, self.ledger)
        assert verify(self.books, self.ledger).differences == ()

    @invariant()
    def balances_are_sums(self) -> None:
        held, spent, unpriced = balance(self.books)
        assert held == sum(self.held.values())
        assert held >= 0
        if not getattr(self, "expired_once", False):
            assert spent == sum(v or 0 for v in self.spent.values())
            assert unpriced == sum(v is None for v in self.spent.values())


BooksMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestBooksMachine = BooksMachine.TestCase


def test_books_of_the_first_schema_are_taken_over(tmp_path: Path, clock: Clock, ledger: DuckLedger) -> None:
    """A file from before budgets opens, its open hold is settled, its balances stay the sums of their entries."""
    path = tmp_path / "old.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(
        """
        CREATE TABLE entry (sequence INTEGER PRIMARY KEY, attempt_id TEXT NOT NULL, stage INTEGER NOT NULL,
            kind TEXT NOT NULL, at_us INTEGER NOT NULL, held_nanousd INTEGER NOT NULL, spent_nanousd INTEGER NOT NULL,
            unpriced INTEGER NOT NULL, accounts TEXT NOT NULL, payload BLOB, response_key TEXT) STRICT;
        CREATE UNIQUE INDEX entry_once ON entry (attempt_id, stage);
        CREATE TABLE open_hold (attempt_id TEXT PRIMARY KEY, amount_nanousd INTEGER NOT NULL,
            expires_us INTEGER NOT NULL, accounts TEXT NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE balance (account TEXT PRIMARY KEY, held_nanousd INTEGER NOT NULL, spent_nanousd INTEGER NOT NULL,
            unpriced INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        INSERT INTO entry VALUES (1, 'call-1.1', 0, 'hold', 1, 2000, 0, 0, '["all"]', NULL, NULL);
        INSERT INTO open_hold VALUES ('call-1.1', 2000, 99, '["all"]');
        INSERT INTO balance VALUES ('all', 2000, 0, 0);
        PRAGMA user_version = 1;
        """
    )
    old.close()
    books = BooksFile(path, clock_us=clock, hold_ttl_us=1_000)
    assert balance(books) == (2_000, 0, 0)
    books.apply([settle(an_attempt())])
    assert balance(books) == (0, 1_500, 0)
    books.close()
    again = BooksFile(path, clock_us=clock, hold_ttl_us=1_000)
    # The old hold counted no call; its ending gives back one. Money is what it must be.
    assert [d.about for d in verify(again, ledger).differences] == ["held_calls of account all"]
    again.close()


def test_many_may_open_new_books_in_one_moment(tmp_path: Path) -> None:
    """Whoever comes first makes them; nobody is turned away because another is just doing so."""
    for round_number in range(10):
        path = tmp_path / f"books-{round_number}.sqlite3"
        start = threading.Barrier(6)

        def open_and_close(path: Path = path, start: threading.Barrier = start) -> None:
            start.wait()
            BooksFile(path, clock_us=lambda: 1, hold_ttl_us=1).close()

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(open_and_close) for _ in range(6)]:
                done.result()


def test_what_is_kept_at_a_sweep_of_everything_does_not_hold_it_up(tmp_path: Path) -> None:
    """A server that starts ends what it left; calls of other processes, however many, live on."""
    with closing(BooksFile(tmp_path / "books.sqlite3", clock_us=lambda: 1, hold_ttl_us=1)) as books:
        books.apply([NeedsHold(an_opening(f"sdk-{number}")) for number in range(7)])
        books.apply([NeedsHold(an_opening(f"gone-{number}")) for number in range(3)])
        assert books.expire(before_us=None, keep=lambda attempt_id: attempt_id.startswith("sdk-"), batch=2) == 3
        assert books.open_holds() == 7
