"""Where budgets are easily got wrong: the edges of windows, and orders of events that seldom happen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from budget_asks import UTC_2026, Ask, a_budget, at_us, nano

from bursar.adapters.books_async import AsyncBooks
from bursar.adapters.books_file import BooksFile
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.adapters.prices_file import bundled_book
from bursar.adapters.retention import compact_books
from bursar.adapters.verify import verify
from bursar.core.budgets import TASK_DEPTH_MAX, TaskLimit
from bursar.core.call import Arrived, Held, NeedsHold, NeedsMore, NotHeld, Refused, Reply
from bursar.core.money import NanoUSD, Rate
from bursar.core.policy import estimate
from bursar.core.prices import Reading
from bursar.core.scopes import Scope
from bursar.engine.claims import Asking, Claims
from bursar.engine.drive import drive
from bursar.engine.rulebook import Rulebook
from bursar.engine.ship import ship
from bursar.learn.sizes import Sizes
from bursar.wire.dialect import RequestFacts

SECOND = 1_000_000
HOUR = 3_600 * SECOND


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.us = UTC_2026

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(tmp_path: Path, clock: Clock) -> Iterator[BooksFile]:
    file = BooksFile(tmp_path / "books.sqlite3", clock_us=clock, hold_ttl_us=900 * SECOND)
    yield file
    file.close()


def totals(books: BooksFile, account: str) -> tuple[int, int]:
    """What is held and spent."""
    return next(((int(b.held), int(b.spent)) for b in books.balances() if b.account == account), (0, 0))


def hold(books: BooksFile, ask: Ask, *budgets: Any) -> Any:
    return books.apply([ask.need(budgets)])[0]


def task_ask(name: str, task: str, limit: int | None = None, parent: str = "", **more: Any) -> Ask:
    """A call of a task that says what it opens and where it stands."""
    stated = TaskLimit(task, parent, None if limit is None else NanoUSD(limit)) if limit is not None or parent else None
    return Ask(name, scope=Scope(task=task, parent_task=parent), task=stated, **more)


# --- windows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per", "zone", "before", "after", "edge"),
    [
        ("day", "Europe/Berlin", "2026-03-28T23:59:58+01:00", "2026-03-29T00:00:00+01:00", "the day before it is short"),
        ("day", "Europe/Berlin", "2026-03-29T23:59:58+02:00", "2026-03-30T00:00:00+02:00", "a day of 23 hours"),
        ("day", "Europe/Berlin", "2026-10-25T23:59:58+01:00", "2026-10-26T00:00:00+01:00", "a day of 25 hours"),
        ("day", "America/Santiago", "2026-09-05T23:59:58-04:00", "2026-09-06T01:00:00-03:00", "no midnight"),
        ("hour", "Europe/Berlin", "2026-10-25T02:59:58+02:00", "2026-10-25T02:00:00+01:00", "an hour shown twice"),
        ("hour", "Asia/Kathmandu", "2026-05-05T10:59:58+05:45", "2026-05-05T11:00:00+05:45", "a crooked offset"),
        ("month", "America/New_York", "2026-01-31T23:59:58-05:00", "2026-02-01T00:00:00-05:00", "the end of a month"),
        ("day", "UTC", "2028-02-28T23:59:58+00:00", "2028-02-29T00:00:00+00:00", "into a leap day"),
        ("month", "UTC", "2028-02-29T23:59:58+00:00", "2028-03-01T00:00:00+00:00", "a leap day ends its month"),
        ("week", "Europe/Berlin", "2026-12-27T23:59:58+01:00", "2026-12-28T00:00:00+01:00", "a week over a year's end"),
        ("quarter", "UTC", "2026-06-30T23:59:58+00:00", "2026-07-01T00:00:00+00:00", "a quarter"),
        ("year", "Asia/Tokyo", "2026-12-31T23:59:58+09:00", "2027-01-01T00:00:00+09:00", "a year"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and ":" not in value else "",
)  # fmt: skip
def test_an_edge_between_hold_and_settlement(
    books: BooksFile, clock: Clock, per: str, zone: str, before: str, after: str, edge: str
) -> None:
    """A call held before the edge and settled after it is in the window it was held in; the next one begins at zero."""
    assert edge
    purse = a_budget(limit=nano(11_000), per=per, tz=zone)
    clock.us = at_us(before)
    early = Ask("early", at=clock.us)
    held = hold(books, early, purse)
    assert isinstance(held, Held)
    assert held.amount == 11_000
    (old,) = (account for account in held.accounts if account.startswith("budget:"))
    clock.us = at_us(after)
    late = hold(books, Ask("late", at=clock.us), purse)
    assert isinstance(late, Held)
    assert late.amount == 11_000
    (new,) = (account for account in late.accounts if account.startswith("budget:"))
    assert new != old
    clock.us += HOUR // 4
    books.apply([early.ended(held, 9_000, 800)])
    assert totals(books, old) == (0, 9_000)
    assert totals(books, new) == (11_000, 0)
    books.expire(before_us=None)
    assert totals(books, old) == (0, 9_000)
    assert totals(books, new) == (0, 5_500)


def test_an_expiry_and_its_correction_stay_in_their_window(books: BooksFile, clock: Clock) -> None:
    """A hold that expires a day late, and a settlement later still, change only the day of the hold."""
    purse = a_budget(limit=nano(11_000), per="day", tz="Europe/Berlin")
    clock.us = at_us("2026-10-25T23:59:59+01:00")
    ask = Ask("late", at=clock.us)
    held = hold(books, ask, purse)
    assert isinstance(held, Held)
    (day,) = (account for account in held.accounts if account.startswith("budget:"))
    clock.us += 30 * HOUR
    assert books.expire(before_us=clock.us) == 1
    assert totals(books, day) == (0, 5_500)
    clock.us += 30 * HOUR
    for _ in range(2):
        books.apply([ask.ended(held, 10_000, 900)])
    assert totals(books, day) == (0, 10_000)
    assert [b.account for b in books.balances() if b.account.startswith("budget:")] == [day]
    assert isinstance(hold(books, Ask("now", at=clock.us), purse), Held)


# --- a batch of calls -------------------------------------------------------------------------------------------


def test_a_task_opened_in_a_batch_leaves_the_others_their_limits(books: BooksFile) -> None:
    """Calls that are committed together are each under the limit of their own task, whatever the others open."""
    assert isinstance(hold(books, task_ask("a", "old", 11_000)), Held)
    outcomes = books.apply([task_ask("b", "new", 50_000).need(), task_ask("c", "old").need()])
    assert isinstance(outcomes[0], Held)
    assert not isinstance(outcomes[1], Held)
    assert totals(books, "task:old") == (11_000, 0)


def test_a_task_opened_in_a_batch_lets_no_other_raise_its_limit(books: BooksFile) -> None:
    """A request cannot raise its own limit by coming together with one that opens another task."""
    assert isinstance(hold(books, task_ask("a", "old", 11_000)), Held)
    books.apply([task_ask("b", "new", 50_000).need(), task_ask("c", "old", 10**9).need()])
    (limit,) = books.connection.execute("SELECT limit_nanousd FROM task WHERE task = 'old'").fetchone()
    assert limit == 11_000


def test_a_task_opened_in_a_batch_leaves_children_below_their_parent(books: BooksFile) -> None:
    """A child whose call comes together with a new task still draws from its parent."""
    assert isinstance(hold(books, task_ask("a", "root", 11_000)), Held)
    assert not isinstance(hold(books, task_ask("b", "child", parent="root")), Held)
    outcomes = books.apply([task_ask("c", "new", 50_000).need(), task_ask("d", "child").need()])
    assert not isinstance(outcomes[1], Held)


# --- orders of events -------------------------------------------------------------------------------------------


def test_a_rolling_window_sees_what_was_held_after_a_call_came(books: BooksFile, clock: Clock) -> None:
    """A call that waited in line (or a clock that was put back) does not overlook what was held in later parts."""
    purse = a_budget(limit=nano(11_000), per="1m")
    waited = Ask("waited", at=clock.us)
    later = Ask("later", at=clock.us + 10 * SECOND)
    clock.us = later.at
    assert isinstance(hold(books, later, purse), Held)
    assert not isinstance(hold(books, waited, purse), Held)
    spent_in_a_minute = sum(b.held + b.spent for b in books.balances() if b.account.startswith("budget:purse"))
    assert spent_in_a_minute <= 11_000


def test_a_rolling_window_sees_what_was_held_while_a_stream_ran(books: BooksFile, clock: Clock) -> None:
    """A stream that asks for more later does not overlook what others have been given since it began."""
    purse = a_budget(limit=nano(20_000), per="1m", streams="extend")
    stream = Ask("s", at=clock.us, stream=True, cap=10_000)
    held = hold(books, stream, purse)
    assert isinstance(held, Held)
    clock.us += 10 * SECOND
    assert isinstance(hold(books, Ask("later", at=clock.us), purse), Held)
    (more,) = books.apply([NeedsMore(stream.opening, held, 8_000, 800)])
    assert isinstance(more, NotHeld)


def test_a_tree_that_is_too_deep_is_refused(books: BooksFile) -> None:
    """From above or from below: a task whose limits could not all be kept is told so, and stands nowhere."""
    names = [f"t{number}" for number in range(40)]
    down = [
        books.apply([task_ask(f"d{n}", names[n], parent=names[n - 1], cap=0, input=0).need()])[0] for n in range(1, 40)
    ]
    refused = [outcome.refusal.code for outcome in down if isinstance(outcome, NotHeld) and outcome.refusal]
    assert refused == ["too_deep"] + ["too_deep"] * (len(refused) - 1)
    assert isinstance(down[TASK_DEPTH_MAX - 2], Held)
    assert isinstance(down[TASK_DEPTH_MAX - 1], NotHeld)
    names = [f"u{number}" for number in range(40)]
    up = [
        books.apply([task_ask(f"u{n}", names[n], parent=names[n - 1], cap=0, input=0).need()])[0]
        for n in range(39, 0, -1)
    ]
    assert isinstance(up[TASK_DEPTH_MAX - 2], Held)
    assert isinstance(up[TASK_DEPTH_MAX - 1], NotHeld)


def test_a_stream_that_asks_for_more_leaves_the_reserve(books: BooksFile) -> None:
    """What is kept for the last call is not given to a running stream that is not it."""
    purse = a_budget(limit=nano(20_000), reserve=nano(8_000), streams="extend")
    held = hold(books, Ask("s", stream=True, cap=10_000, likely=500), purse)
    assert isinstance(held, Held)
    assert held.admitted is not None
    assert held.admitted.extend
    (more,) = books.apply([NeedsMore(Ask("s").opening, held, 20_000 - (held.amount or 0), 100)])
    assert isinstance(more, NotHeld)


def test_a_stream_that_cannot_be_capped_waits_for_others(books: BooksFile) -> None:
    """Where its least answer fits if others give back, it is crowded and not told that the budget is exceeded."""
    purse = a_budget(limit=nano(10_000))
    first = Ask("first", cap=800)
    held = hold(books, first, purse)
    assert isinstance(held, Held)
    books.apply([first.ended(held, 1_000)])
    assert isinstance(hold(books, Ask("other", cap=800), purse), Held)
    # Its likely answer would cost 11,000 of the 9,000 that are not spent, its least answer 1,160.
    outcome = hold(books, Ask("s", stream=True, clampable=False, cap=5_000, likely=1_000, patient=False), purse)
    assert isinstance(outcome, NotHeld)
    assert outcome.refusal is not None
    assert outcome.refusal.code == "budget_held"


def test_two_floors_and_others_holds(books: BooksFile) -> None:
    """Of two budgets the larger floor counts; a call that it keeps out only for now is not told that it is for good."""
    small, large = a_budget("small", limit=nano(10_000), floor_tokens=16), a_budget("large", floor_tokens=400)
    assert isinstance(hold(books, Ask("other", input=1_000, cap=500), small, large), Held)
    # 4,000 are free now: 300 tokens. With everything released 900 fit, which is above the floor of 400.
    outcome = hold(books, Ask("s", cap=5_000, likely=1_000, patient=False), small, large)
    assert isinstance(outcome, NotHeld)
    assert outcome.refusal is not None
    assert outcome.refusal.code == "budget_held"


def test_an_unpriced_call_holds_the_same_in_each_budget_and_fits_there(books: BooksFile) -> None:
    """What is held is one amount, the most that any of its budgets assumes: it must fit in all of them."""
    dear = a_budget("dear", limit=nano(100_000), on_unpriced="assume-$0.00005")
    cheap = a_budget("cheap", limit=nano(60_000), on_unpriced="assume-$0.000002")
    assert isinstance(hold(books, Ask("a", input=None), dear, cheap), Held)
    assert sum(totals(books, "budget:cheap")) == 50_000
    assert not isinstance(hold(books, Ask("b", input=None), dear, cheap), Held)
    assert isinstance(hold(books, Ask("c", input=None), cheap), Held)


def test_an_answer_without_usage_is_not_free(books: BooksFile) -> None:
    """A priced call whose answer states no usage has a charge that nobody knows: its budget counts what was held."""
    purse = a_budget(limit=nano(11_000))
    for number in range(3):
        ask = Ask(f"c{number}")
        held = hold(books, ask, purse)
        if isinstance(held, Held):
            ended = ask.ended(held, None)
            assert ended.attempt is not None
            unknown = replace(ended.attempt, charge=replace(ended.attempt.charge, usage=None))
            books.apply([replace(ended, attempt=unknown)])
    (unpriced,) = (b.unpriced for b in books.balances() if b.account == "budget:purse")
    assert unpriced == 1, f"{unpriced} calls of up to $0.000011 on a budget of that much"


def test_an_expiry_charges_no_more_than_was_held(books: BooksFile) -> None:
    """A stream that holds a chunk at a time and is never heard of again is charged at most what it held."""
    purse = a_budget(limit=nano(800_000), streams="extend")
    rulebook = Rulebook({}, bundled_book(), False, 1, 1, budgets=(purse,))
    opening = Ask("s", stream=True).opening
    facts = RequestFacts("chat_completions", "gpt-5-mini", stream=True, text_bytes=400, input_tokens_estimate=100)
    at = datetime.fromtimestamp(UTC_2026 // SECOND, timezone.utc)
    estimated = estimate(
        rulebook.book, provider="openai", model="gpt-5-mini", at=at, terms=(), input_tokens=100, output_cap=None
    )
    opening = replace(opening, model_asked="gpt-5-mini", estimate=estimated)
    claim = Claims(Sizes()).claim(rulebook, opening, Asking(facts, "openai", at, True), task=None, final=False)
    held = books.apply([NeedsHold(opening, replace(claim, patient=False))])[0]
    assert isinstance(held, Held)
    assert held.amount is not None
    books.expire(before_us=None)
    assert totals(books, "budget:purse")[1] <= held.amount


# --- retention --------------------------------------------------------------------------------------------------


def test_sums_find_a_place(books: BooksFile, clock: Clock) -> None:
    """However many accounts are summed up, each sum has a sequence of its own before the entries that stay."""
    assert isinstance(hold(books, Ask("open")), Held)
    for number in range(5):
        ask = task_ask(f"c{number}", f"t{number}", 50_000)
        books.apply([ask.ended(hold(books, ask), 1_000)])
    clock.us += 1
    assert compact_books(books, before_us=clock.us, shipped=books.last_sequence()).deleted == 8


def test_extensions_are_summed_up_with_their_holds(books: BooksFile, clock: Clock) -> None:
    """After an attempt that was extended is summed up, its balances are still the sums of the entries."""
    leave_room(books)
    ask = Ask("s", stream=True, cap=10_000)
    purse = a_budget(limit=nano(20_000), streams="extend")
    held = hold(books, ask, purse)
    assert books.apply([NeedsMore(ask.opening, held, 1_000, 100)]) == [None]
    books.apply([ask.ended(held, 3_000, 200)])
    last = Ask("last")
    books.apply([last.ended(hold(books, last), 1_000)])
    clock.us += 1
    assert differences(books, compact_before=clock.us) == ()


@pytest.mark.parametrize("what", ["a late settlement", "a clock that was put back"])
def test_an_order_of_endings_that_is_not_that_of_time(books: BooksFile, clock: Clock, what: str) -> None:
    """What is kept longer because of its correction, or by the clock, makes no difference of what was summed up after it."""
    leave_room(books)
    purse = a_budget(limit=nano(500_000))
    asks = [Ask(f"c{number}") for number in range(4)]
    held = [hold(books, ask, purse) for ask in asks]
    if what == "a late settlement":
        books.expire(before_us=None)
        clock.us += HOUR
        books.apply([asks[0].ended(held[0], 9_000)])
    else:
        clock.us += HOUR
        books.apply([asks[0].ended(held[0], 9_000)])
        clock.us -= HOUR
        books.apply([ask.ended(one, 5_000) for ask, one in zip(asks[1:], held[1:], strict=True)])
    last = Ask("last")
    books.apply([last.ended(hold(books, last), 1_000)])
    assert differences(books, compact_before=UTC_2026 + HOUR // 2) == ()


def leave_room(books: BooksFile) -> None:
    """Sequences that sums can take: what happens without is ``test_sums_find_a_place``."""
    books.connection.execute(
        "INSERT INTO entry (sequence, attempt_id, stage, kind, at_us, accounts, held_nanousd, spent_nanousd, unpriced)"
        " VALUES (1000, 'first', 1, 'void', 0, '[]', 0, 0, 0)"
    )


def differences(books: BooksFile, *, compact_before: int) -> Any:
    """What verify finds after everything was shipped and what is older was summed up."""
    ledger = DuckLedger(None)
    ship(books, ledger)
    assert compact_books(books, before_us=compact_before, shipped=ledger.last_sequence()).deleted
    found = verify(books, ledger).differences
    ledger.close()
    return found


# --- on a loop --------------------------------------------------------------------------------------------------


class NeverSent:
    """A provider that nothing must reach."""

    async def send(self, need: Any, /) -> Reply:
        raise AssertionError("sent")

    def interrupted(self) -> Reply:
        return Reply(Reading(), "error", left=False)


async def test_who_left_the_line_is_not_held_for(books: BooksFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that hangs up while it waits behind another leaves nothing held, also when the time to wait is over."""
    monkeypatch.setattr("bursar.adapters.books_async._LOOK_AGAIN_S", 0.02)
    purse = a_budget(limit=nano(11_000))
    shared = AsyncBooks(books, wait_s=0.2)
    first, other = Ask("first", cap=500), Ask("other", cap=400)
    held = await shared.hold(first.need([purse]))
    assert isinstance(held, Held)
    assert isinstance(await shared.hold(other.need([purse])), Held)
    head, second = (
        asyncio.create_task(drive(Arrived(*_parts(ask, purse)), shared, NeverSent(), lambda o, r: o.estimate))
        for ask in (Ask("head", clampable=False, cap=900), Ask("second", clampable=False, cap=450))
    )
    await asyncio.sleep(0.01)
    assert shared.waiting == 2
    second.cancel()
    await asyncio.sleep(0.01)
    # What is released now is not enough for the head (10,000), and would be for the second (5,500).
    await shared.settle(first.voided(held))
    await asyncio.wait([head, second], timeout=1)
    await asyncio.sleep(0.1)
    assert isinstance(head.result(), Refused)
    assert second.cancelled()
    assert books.open_holds() == 1


def _parts(ask: Ask, *budgets: Any) -> tuple[Any, Any]:
    need = ask.need(budgets)
    return need.opening, need.claim


def test_nothing_of_this_left_a_difference(books: BooksFile, clock: Clock) -> None:
    """Balances are sums of entries after holds, extensions, expiries and corrections over two windows."""
    purse = a_budget(limit=nano(50_000), per=["hour", "day"], streams="extend")
    asks = [Ask(f"c{number}", stream=True, cap=5_000) for number in range(6)]
    held = [hold(books, ask, purse) for ask in asks]
    books.apply([NeedsMore(asks[0].opening, held[0], 1_000, 100)])
    books.apply([asks[0].ended(held[0], 3_000, 200)])
    clock.us += 2 * HOUR
    books.expire(before_us=clock.us)
    books.apply([ask.ended(one, 2_500, 100) for ask, one in zip(asks, held, strict=True) if isinstance(one, Held)])
    ledger = DuckLedger(None)
    assert verify(books, ledger).differences == ()
    ledger.close()


async def test_ten_thousand_dimes_on_five_dollars(books: BooksFile) -> None:
    """At once, in process: exactly fifty are admitted, nothing is over, nothing stays held, nobody waits for ever."""
    shared = AsyncBooks(books, wait_s=30)
    purse = a_budget(limit="$5")
    admitted = refused = 0

    async def call(number: int) -> None:
        nonlocal admitted, refused
        ask = Ask(f"d{number}", input=0, rate=Rate(100_000, 1), cap=1_000)
        held = await shared.hold(ask.need([purse]))
        if isinstance(held, NotHeld):
            refused += 1
            return
        admitted += 1
        assert held.amount is not None
        await asyncio.sleep(0.001 * (number % 20))
        await shared.settle(ask.ended(held, held.amount, 1_000))

    await asyncio.gather(*(call(number) for number in range(10_000)))
    assert (admitted, refused, shared.waiting, books.open_holds()) == (50, 9_950, 0, 0)
    assert totals(books, "budget:purse") == (0, 5_000_000_000)
