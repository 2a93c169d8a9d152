"""Any order of what can be done to books under budgets keeps every account within its limit; a failing order is made short."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from budget_asks import UTC_2026, Ask, a_budget, nano
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from sim_model import Model, fingerprint

from bursar.adapters.books_file import BooksFile
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.adapters.retention import compact_books
from bursar.adapters.verify import verify
from bursar.core.admission import Crowded
from bursar.core.budgets import TaskLimit
from bursar.core.call import Held, NeedsMore
from bursar.core.money import NanoUSD, Rate
from bursar.core.scopes import Scope
from bursar.engine.claims import observed_claim
from bursar.engine.ship import ship

SECOND = 1_000_000
TTL = 100 * SECOND
LIMIT = 30_000
BUDGETS = (
    a_budget("org", limit=nano(100_000), streams="extend", floor_tokens=256),
    a_budget("hour", limit=nano(LIMIT), per="hour", tz="Europe/Berlin", streams="extend", floor_tokens=256),
    a_budget("user", limit="9000 tokens", each="user", streams="extend", floor_tokens=256),
    a_budget("calls", limit="6 calls", per="day", each="user", streams="extend", floor_tokens=256),
    a_budget("watch", limit=nano(10), enforce=False, streams="extend", floor_tokens=256),
)
TASKS = ("root", "child", "leaf", "other")

tasks = st.sampled_from(TASKS)
shares = st.sampled_from([0, 50, 100])


class BudgetMachine(RuleBasedStateMachine):
    """Two connections, one clock. What the books must say is worked out by ``sim_model``."""

    attempts: Bundle[Any] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.now = UTC_2026
        self.folder = TemporaryDirectory()
        self.files = [self._open(), self._open()]
        self.model = Model(BUDGETS)
        self.ledger = DuckLedger(None)
        self.compacted = False
        self.number = 0
        self.moved_back = False

    def _open(self) -> BooksFile:
        return BooksFile(Path(self.folder.name) / "books.sqlite3", clock_us=lambda: self.now, hold_ttl_us=TTL)

    def teardown(self) -> None:
        try:
            self._end()
        finally:
            for store in (*self.files, self.ledger):
                store.close()
            self.folder.cleanup()

    def _end(self) -> None:
        """After the time that a hold may live nothing is held, and the books add up."""
        self.now += 400 * 86_400 * SECOND
        self.files[0].expire(before_us=self.now)
        self.model.check(self.files[0], self.now)
        assert self.files[0].open_holds() == 0
        assert all(sums[0] == sums[3] == sums[5] == 0 for sums in self.model.sums.values())
        assert verify(self.files[0], self.ledger).differences == ()

    # --- calls ------------------------------------------------------------------------------------------------

    @rule(
        target=attempts,
        which=st.integers(0, 1),
        user=st.sampled_from(["", "ann", "bob"]),
        task=st.none() | tasks,
        parent=st.none() | tasks,
        limit=st.none() | st.sampled_from([5_000, 20_000, 10**9]),
        money=st.tuples(
            st.sampled_from([0, 1_000, 9_000, None]), st.sampled_from([Rate(0, 1), Rate(10, 1), Rate(7, 3)])
        ),
        cap=st.sampled_from([0, 100, 1_000, 5_000]),
        kind=st.sampled_from(["whole", "stream", "uncapped", "final"]),
        twice=st.booleans(),
    )
    def hold(
        self, which: int, user: str, task: str | None, parent: str | None, limit: int | None, money: Any, cap: int,
        kind: str, twice: bool,
    ) -> Any:  # fmt: skip
        self.number += 1
        stated = None
        if task and (parent or limit is not None):
            stated = TaskLimit(task, parent or "", None if limit is None else NanoUSD(limit))
        ask = Ask(
            f"c{self.number}", self.now, Scope(user=user, task=task or ""), money[0], 50, money[1], cap,
            likely=300, clampable=kind != "uncapped", stream=kind == "stream", final=kind == "final", task=stated,
        )  # fmt: skip
        outcome = self.files[which].apply([ask.need(BUDGETS)] * (1 + twice))[0]
        self.model.place(ask)
        if not isinstance(outcome, Held):
            assert outcome is not None
            assert outcome.refusal is not None
            self.model.check_refused(ask, "crowded" if isinstance(outcome, Crowded) else outcome.refusal.code)
            return multiple()
        one = self.model.track(ask, outcome, self.model.groups_of(ask))
        self.model.read(self.files[0])
        self.model.check_held(one, final=ask.final)
        return one

    @rule(which=st.integers(0, 1), one=attempts, more=st.sampled_from([1, 200, 5_000]))
    def extend(self, which: int, one: Any, more: int) -> None:
        admitted = one.held.admitted
        to = min(one.output + more, one.ask.cap)
        if admitted is None or not admitted.extend or to <= one.output:
            return
        amount = admitted.offer.cost(to) - admitted.offer.cost(one.output)
        need = NeedsMore(one.ask.opening, one.held, amount, to - one.output)
        if self.files[which].apply([need]) == [None]:
            assert one.state == "open"
            self.model.extended(one, amount, to - one.output)
            one.output = to

    @rule(which=st.integers(0, 1), one=attempts, given_=shares, output=shares, times=st.integers(1, 3))
    def settle(self, which: int, one: Any, given_: int, output: int, times: int) -> None:
        if one.compacted:
            return
        if one.ending is None:
            tokens = one.output * output // 100
            amount = None if one.ask.input is None else one.ask.input * given_ // 100 + one.ask.rate.cost(tokens)
            one.ending = one.ask.ended(one.held, amount, tokens)
        self.files[which].apply([one.ending] * times)

    @rule(which=st.integers(0, 1), one=attempts)
    def void(self, which: int, one: Any) -> None:
        if not one.compacted and one.state == "open":
            one.ending = one.ask.voided(one.held)
            self.files[which].apply([one.ending])

    @rule(which=st.integers(0, 1), one=attempts)
    def say_again(self, which: int, one: Any) -> None:
        before = fingerprint(self.files[0])
        if not one.compacted:
            self.files[which].apply([one.ask.need(BUDGETS)])
            if one.state in ("ended", "corrected") and one.ending is not None:
                self.files[which].apply([one.ending])
        assert fingerprint(self.files[0]) == before

    @rule(target=attempts, amount=st.sampled_from([0, 5_000, 200_000]), user=st.sampled_from(["", "ann"]))
    def observe(self, amount: int, user: str) -> Any:
        """What happened elsewhere is booked whatever is left: it explains itself, and is never refused."""
        self.number += 1
        ask = Ask(f"o{self.number}", self.now, Scope(user=user))
        attempt = ask.ended(None, amount, 10).attempt
        assert attempt is not None
        one = self.model.track(ask, Held(None), self.model.groups_of(ask))
        one.ending = ask.ended(None, amount, 10)
        for group in one.groups:
            group.explained += {"usd": amount, "tokens": 60 + ask.input_tokens, "calls": 1}[group.unit]
        for times in (1, 0):
            assert self.files[0].observe([attempt], budgets=lambda a: observed_claim(BUDGETS, a)) == times
        return one

    # --- trouble ----------------------------------------------------------------------------------------------

    @rule(all_of_them=st.booleans(), alive=st.booleans())
    def expire(self, all_of_them: bool, alive: bool) -> None:
        keep = (lambda _: alive) if not all_of_them else (lambda _: False)
        self.files[0].expire(before_us=None if all_of_them else self.now, keep=keep)

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.files[which].close()
        self.files[which] = self._open()

    @rule(jump=st.sampled_from([1, SECOND, TTL + 1, 3_600 * SECOND, 86_400 * SECOND]))
    def clock(self, jump: int) -> None:
        self.now += jump

    @rule(jump=st.sampled_from([1, TTL, 3_600 * SECOND]))
    def clock_back(self, jump: int) -> None:
        self.now -= jump
        self.moved_back = True

    @rule()
    def compact(self) -> None:
        self.compacted = True
        ship(self.files[0], self.ledger)
        self.model.read(self.files[0])
        compact_books(self.files[0], before_us=self.now - SECOND, shipped=self.ledger.last_sequence(), batch=2)
        self.model.compacted(self.files[0])

    # --- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def everything_is_within_its_limit(self) -> None:
        self.model.check(self.files[0], self.now)


BudgetMachine.TestCase.settings = settings(max_examples=75, stateful_step_count=30, deadline=None)
TestBudgetMachine = BudgetMachine.TestCase
