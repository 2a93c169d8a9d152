"""The circuit breaker: when it opens, for how long, and who is let through; by example, and under any sequence of events."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bursar.core.breaker import Breaker, BreakerRules
from bursar.core.failures import COUNTED, Cause
from bursar.core.money import NanoUSD, Rate

S = 1_000_000
T = 1_000_000_000 * S


def breaker(**rules: object) -> Breaker:
    return Breaker(BreakerRules(**rules))  # type: ignore[arg-type]  # the test's own keywords


def fail(it: Breaker, at: int, began: int | None = None, cause: Cause = "server", wait: float | None = None) -> None:
    it.failed(at, at if began is None else began, cause, cost=None, retry_after_s=wait, draw=0.5)


def answer(
    it: Breaker, at: int, began: int | None = None, *, first: float | None = None, cost: int | None = 1, tokens: int = 1
) -> None:
    began = at if began is None else began
    it.answered(at, began, first_token_ms=first, cost=cost, tokens=tokens, draw=0.5)


# --- opening ----------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_it_and_an_answer_between_them_does_not() -> None:
    it = breaker(in_a_row=3)
    for at in (0, 1):
        fail(it, T + at)
    answer(it, T + 2)
    for at in (3, 4):
        fail(it, T + at)
    assert it.verdict(T + 5).state == "closed"
    fail(it, T + 5)
    found = it.verdict(T + 6)
    assert (found.state, found.until_us, found.exact) == ("open", T + 5 + 30 * S, False)
    assert found.why == "3 failures in a row, the last: server"


def test_a_share_of_failures_opens_it_once_there_are_enough_calls() -> None:
    """Every second call fails: never two in a row, but half of them; before ``calls_min`` that is no reason."""
    it = breaker(share=500, calls_min=20)
    for number in range(19):
        (fail if number % 2 else answer)(it, T + number)
    assert it.verdict(T + 19).state == "closed"
    fail(it, T + 19)
    assert it.verdict(T + 20).state == "open"
    assert "50% of the calls" in it.verdict(T + 20).why


def test_failures_from_before_the_window_are_forgotten() -> None:
    it = breaker(in_a_row=1_000, share=500, calls_min=2, within_s=60)
    answer(it, T)
    answer(it, T + 30 * S)
    answer(it, T + 31 * S)
    fail(it, T + 32 * S)
    assert it.verdict(T + 33 * S).state == "closed"
    answer(it, T + 80 * S)
    fail(it, T + 92 * S)  # of the last 60 s: one failed before 32, one answer, one failure
    assert it.verdict(T + 92 * S).state == "open"


def test_first_tokens_over_the_limit_open_it() -> None:
    """The 95th percentile counts: one late token among twenty is none, two are."""
    it = breaker(first_token_ms=500)
    for number in range(20):
        answer(it, T + number, first=900 if number == 19 else 100)
    assert it.verdict(T + 20).state == "closed"
    answer(it, T + 20, first=900)
    assert it.verdict(T + 21).state == "open"
    assert it.verdict(T + 21).why == "p95 to the first token is 900 ms, the limit 500 ms"
    assert it.cause == "first_token"


@pytest.mark.parametrize("calls_before", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("over", [1, 5, 10_000])
def test_a_price_over_the_cap_trips_within_three_calls(calls_before: int, over: int) -> None:
    """Also one that is over it by the smallest amount there is, and after any number of calls at the cap itself."""
    for rules, cost in (
        (BreakerRules(cost_per_call=NanoUSD(1_000)), 1_000),
        (BreakerRules(cost_per_token=Rate.of(Decimal(10), 1)), 10_000_000_000 * 1_000),
    ):
        it = Breaker(rules)
        for number in range(calls_before):
            answer(it, T + number, cost=cost, tokens=1_000)
            assert it.verdict(T + number).state == "closed"
        needed = 0
        while it.verdict(T + 100).state == "closed":
            answer(it, T + 50 + needed, cost=cost + over, tokens=1_000)
            needed += 1
        assert needed <= 3
        assert it.cause == "cost"


def test_what_failed_attempts_cost_is_part_of_the_price_of_a_token() -> None:
    it = breaker(cost_per_token=Rate.of(Decimal(10), 1_000_000_000), in_a_row=10)
    answer(it, T, cost=900, tokens=100)
    it.failed(T + 1, T + 1, "invalid", cost=900, retry_after_s=None, draw=0.5)
    answer(it, T + 2, cost=900, tokens=100)
    assert it.verdict(T + 3).state == "open"
    assert "cost_per_mtok" in it.verdict(T + 3).why


def test_an_unknown_cost_is_no_evidence() -> None:
    it = breaker(cost_per_call=NanoUSD(1))
    for number in range(10):
        answer(it, T + number, cost=None)
    assert it.verdict(T + 10).state == "closed"


# --- how long ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [0.0, 0.25, 0.5, 1.0])
def test_it_stays_open_longer_each_time_up_to_a_limit_within_a_tenth(draw: float) -> None:
    it = breaker(in_a_row=1, open_s=10, open_s_max=60)
    at = T
    for expected in (10, 15, 22.5, 33.75, 50.625, 60, 60):
        it.failed(at, at, "server", cost=None, retry_after_s=None, draw=draw)
        until = it.verdict(at).until_us
        assert until - at == pytest.approx(expected * S * (0.9 + 0.2 * draw), abs=1)
        at = until
        assert it.verdict(at).state == "probe"
        it.probing(at)


def test_after_it_was_well_for_long_it_begins_anew() -> None:
    it = breaker(in_a_row=1, open_s=10)
    fail(it, T)
    at = it.verdict(T).until_us
    it.probing(at)
    fail(it, at)
    at = it.verdict(at).until_us
    it.probing(at)
    answer(it, at)
    fail(it, at + 50 * S)
    assert it.verdict(at + 50 * S).until_us == at + 72_500_000, "it has failed again soon: longer"
    at = it.verdict(at + 50 * S).until_us
    it.probing(at)
    answer(it, at)
    fail(it, at + 101 * S)
    assert it.verdict(at + 101 * S).until_us == at + 111 * S


def test_retry_after_is_kept_to_the_microsecond() -> None:
    """Not earlier and not later, whatever the chance; the longest of several counts, and then one call is let through."""
    it = breaker(in_a_row=5)
    it.failed(T, T, "rate_limit", cost=None, retry_after_s=12.345678, draw=0.99)
    assert it.verdict(T + 12_345_677).state == "open"
    assert it.verdict(T + 12_345_677).exact
    assert it.verdict(T + 12_345_678).state == "probe"
    fail(it, T + S, began=T - S, cause="rate_limit", wait=2)
    assert it.verdict(T + 1).until_us == T + 12_345_678
    fail(it, T + S, began=T - S, cause="rate_limit", wait=20)
    assert it.verdict(T + 1).until_us == T + 21 * S
    fail(it, T + 2 * S, began=T - S)
    assert it.verdict(T + 2 * S).until_us == T + 21 * S, "another failure does not shorten it, nor lengthen it"


def test_what_the_provider_asked_for_makes_no_later_opening_longer() -> None:
    """Ten times it asked for a second, and was well again: two failures then leave it alone for the base time."""
    it = breaker()
    for number in range(10):
        at = T + number * 20 * S
        fail(it, at, cause="rate_limit", wait=1.0)
        answer(it, at + 2 * S)
    at = T + 210 * S
    fail(it, at)
    fail(it, at + 1)
    assert it.verdict(at + 2).until_us == at + 1 + 30 * S


def test_every_opening_is_counted_also_after_it_was_well_for_long() -> None:
    """Whoever is told of openings compares counts."""
    it = breaker()
    counts = [it.opened]
    for at in (T, T + 10_000 * S, T + 20_000 * S):
        fail(it, at)
        fail(it, at)
        answer(it, at + 60 * S)
        counts.append(it.opened)
    assert counts == [0, 1, 2, 3]


def test_many_refusals_at_once_are_one_opening() -> None:
    """A hundred calls under way are all told to wait: that is one time, and the next time of its own is its first."""
    it = breaker(in_a_row=1, open_s=10, open_s_max=600)
    for _ in range(100):
        fail(it, T, began=T - S, cause="rate_limit", wait=1)
    assert it.opened == 1
    it.probing(T + S)
    fail(it, T + S)
    assert it.verdict(T + S).until_us == T + S + 10 * S


def test_dear_answers_that_come_after_it_opened_do_not_open_it_again() -> None:
    it = breaker(cost_per_call=NanoUSD(10))
    for number in range(30):
        answer(it, T + number, began=T - S, cost=100)
    assert it.opened == 1
    assert it.verdict(T + 30).until_us == T + 1 + 30 * S


# --- probes -----------------------------------------------------------------------------------------------------


def opened(at: int = T, **rules: object) -> tuple[Breaker, int]:
    """An open breaker, and when it will be probed."""
    it = breaker(in_a_row=1, **rules)
    fail(it, at)
    return it, it.verdict(at).until_us


def test_one_probe_and_only_one() -> None:
    it, at = opened()
    assert it.verdict(at - 1).state == "open"
    assert it.verdict(at).state == "probe"
    it.probing(at)
    assert it.verdict(at + S).state == "open"
    assert "it is being probed" in it.verdict(at + S).why
    answer(it, at + 2 * S, began=at)
    assert it.verdict(at + 2 * S).state == "closed"
    assert it.cause is None


def test_a_probe_that_is_never_heard_of_frees_its_place() -> None:
    it, at = opened()
    it.probing(at)
    assert it.verdict(at + 119 * S).state == "open"
    assert it.verdict(at + 120 * S).state == "probe"


def test_a_probe_that_tells_nothing_frees_its_place_at_once() -> None:
    it, at = opened()
    it.probing(at)
    it.unknown(at)
    assert it.verdict(at + 1).state == "probe"


def test_another_that_tells_nothing_does_not_free_the_probes_place() -> None:
    """A client that left an attempt from before the outage lets no second probe in."""
    it, at = opened()
    it.probing(at)
    it.unknown(T - S)
    assert it.verdict(at + 1).state == "open"


@pytest.mark.parametrize("when", ["open", "probed", "closed"])
def test_what_began_before_it_opened_neither_opens_nor_closes_it(when: str) -> None:
    it, at = opened()
    now = at - S
    if when != "open":
        it.probing(at)
        now = at + S
    if when == "closed":
        answer(it, at + S, began=at)
    before = (it.verdict(now).state, it.verdict(now).until_us, it.opened)
    answer(it, now, began=T - 1)
    fail(it, now, began=T - 1)
    fail(it, now, began=T - 1)
    assert (it.verdict(now).state, it.verdict(now).until_us, it.opened) == before


def test_a_good_answer_of_one_that_was_sent_there_for_want_of_any_other_closes_it() -> None:
    it, at = opened()
    answer(it, at - S, began=at - 2 * S)
    assert it.verdict(at - S).state == "closed"


def test_a_dear_probe_opens_it_again_and_a_cheap_one_closes_it() -> None:
    it = breaker(cost_per_call=NanoUSD(10))
    for _ in range(2):
        answer(it, T, cost=11)
    at = it.verdict(T).until_us
    it.probing(at)
    answer(it, at + 1, began=at, cost=11)
    again = it.verdict(at + 1)
    assert (again.state, again.until_us) == ("open", at + 1 + 45 * S)
    it.probing(again.until_us)
    answer(it, again.until_us, cost=10)
    assert it.verdict(again.until_us).state == "closed"


# --- under any sequence -----------------------------------------------------------------------------------------

OPEN_S, OPEN_MAX_S, LEASE_S = 2, 16, 120


class Machine(RuleBasedStateMachine):
    """Attempts that begin, and end in any order, against what is known of when the breaker may be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T
        self.it = breaker(
            in_a_row=2, share=500, calls_min=6, open_s=OPEN_S, open_s_max=OPEN_MAX_S, cost_per_call=NanoUSD(100)
        )
        self.under_way: list[tuple[int, bool]] = []
        self.not_before = 0
        self.opened_at = -1

    def began(self, index: int) -> tuple[int, bool]:
        return self.under_way.pop(index % len(self.under_way))

    def opens(self, before: int) -> None:
        if self.it.opened != before:
            self.opened_at = self.now

    @rule(seconds=st.sampled_from([0.001, 0.5, 2, 15, 130]))
    def time_passes(self, seconds: float) -> None:
        self.now += round(seconds * S)

    @rule(panic=st.booleans())
    def begin(self, panic: bool) -> None:
        found = self.it.verdict(self.now)
        if found.state == "open" and (found.exact or not panic):
            return
        assert self.now >= self.not_before, "it asked to be left alone"
        if found.state == "probe":
            self.it.probing(self.now)
        self.under_way.append((self.now, found.state == "probe"))
        self.now += 1

    @precondition(lambda self: self.under_way)
    @rule(index=st.integers(0, 50), cause=st.sampled_from(sorted(COUNTED)), draw=st.floats(0, 1))
    def fails(self, index: int, cause: Cause, draw: float) -> None:
        began, _ = self.began(index)
        before, was = self.it.opened, self.it.verdict(self.now)
        self.it.failed(self.now, began, cause, cost=None, retry_after_s=None, draw=draw)
        if began < self.opened_at:
            assert self.it.verdict(self.now) == was
        if self.it.opened > before:
            seconds = min(OPEN_S * 1.5 ** (self.it._times - 1), OPEN_MAX_S)
            assert 0.9 * seconds * S - 1 <= self.it.verdict(self.now).until_us - self.now <= 1.1 * seconds * S + 1
        self.opens(before)

    @precondition(lambda self: self.under_way)
    @rule(index=st.integers(0, 50), wait=st.sampled_from([0.25, 3, 40]))
    def told_to_wait(self, index: int, wait: float) -> None:
        began, _ = self.began(index)
        before = self.it.opened
        self.it.failed(self.now, began, "rate_limit", cost=None, retry_after_s=wait, draw=0.0)
        self.not_before = max(self.not_before, self.now + round(wait * S))
        found = self.it.verdict(self.now)
        assert (found.state, found.exact, found.until_us) == ("open", True, self.not_before)
        self.opens(before)
        self.opened_at = self.now

    @precondition(lambda self: self.under_way)
    @rule(index=st.integers(0, 50), cost=st.sampled_from([None, 1, 100, 101, 5_000]), draw=st.floats(0, 1))
    def is_answered(self, index: int, cost: int | None, draw: float) -> None:
        began, probe = self.began(index)
        before, was = self.it.opened, self.it.verdict(self.now)
        self.it.answered(self.now, began, first_token_ms=1.0, cost=cost, tokens=1, draw=draw)
        now = self.it.verdict(self.now)
        if began < self.opened_at:
            assert now == was
        elif probe and (cost is None or cost <= 100):
            assert now.state == "closed"
        assert now.state == "closed" or self.now >= began
        self.opens(before)

    @precondition(lambda self: self.under_way)
    @rule(index=st.integers(0, 50))
    def tells_nothing(self, index: int) -> None:
        began, probe = self.began(index)
        was = self.it.verdict(self.now)
        self.it.unknown(began)
        if not probe:
            assert self.it.verdict(self.now) == was

    @invariant()
    def one_probe_at_a_time(self) -> None:
        """Of the probes sent since it last opened, within their lease, there is at most one."""
        live = [
            began
            for began, probe in self.under_way
            if probe and began >= self.opened_at and self.now - began < LEASE_S * S
        ]
        assert len(live) <= 1
        if live and self.it.verdict(self.now).state == "probe":
            raise AssertionError("a second probe would be let in")

    @invariant()
    def it_ends_some_time(self) -> None:
        assert self.it.verdict(self.now).until_us <= max(
            self.not_before, self.now + max(round(1.1 * OPEN_MAX_S), LEASE_S) * S
        )


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestMachine = Machine.TestCase
