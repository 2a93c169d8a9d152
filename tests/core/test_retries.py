"""How much may be tried again, and spent on not waiting: never more than its share, in any order of events."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.retries import HedgeBudget, RetryBudget, Throttle, backoff_s

S = 1_000_000


@given(share=st.integers(0, 1_000), asked=st.lists(st.integers(0, 5), max_size=300))
def test_retries_are_at_most_a_share_of_requests(share: int, asked: list[int]) -> None:
    """After each request any number of retries is asked for: one to begin with, and then no more than the share."""
    budget, made = RetryBudget(share), 0
    for requests, wanted in enumerate(asked, start=1):
        budget.requested()
        made += sum(budget.take() for _ in range(wanted))
        assert made * 1_000 <= requests * share + (1_000 if share else 0)


def test_retries_are_saved_up_to_ten() -> None:
    budget = RetryBudget(100)
    for _ in range(10_000):
        budget.requested()
    assert sum(budget.take() for _ in range(100)) == 10


def test_without_a_share_there_is_no_retry() -> None:
    budget = RetryBudget(0)
    budget.requested()
    assert not budget.take()


@given(
    share=st.integers(0, 1_000), events=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=200)
)
def test_hedges_cost_at_most_a_share_of_what_was_spent(share: int, events: list[tuple[int, int]]) -> None:
    budget, spent, hedged = HedgeBudget(share), 0, 0
    for cost, hedge in events:
        budget.spent(cost)
        spent += cost
        if budget.take(hedge):
            hedged += hedge
        assert hedged * 1_000 <= spent * share


def test_a_hedge_of_unknown_cost_is_not_made() -> None:
    budget = HedgeBudget(1_000)
    budget.spent(10**12)
    assert not budget.take(None)
    assert budget.take(10**12)
    assert not budget.take(1)


def test_what_hedges_may_cost_is_not_saved_up_for_ever() -> None:
    """A thousand calls like the last are paid in for; cheaper calls neither add to a larger sum nor take from it."""
    budget = HedgeBudget(100)
    for _ in range(5_000):
        budget.spent(1_000)
    assert not budget.take(100 * 1_000 + 1)
    budget.spent(10)
    assert budget.take(100 * 1_000)


@given(retry=st.integers(1, 60), draw=st.floats(0, 1))
def test_waiting_grows_and_is_bounded(retry: int, draw: float) -> None:
    assert 0 <= backoff_s(retry, draw) <= min(0.25 * 2 ** (retry - 1), 8)
    assert backoff_s(retry, 0.0) == 0
    assert backoff_s(retry, 1.0) == min(0.25 * 2 ** (retry - 1), 8)


# --- the throttle -----------------------------------------------------------------------------------------------


def test_nothing_is_held_back_while_half_is_answered() -> None:
    it = Throttle()
    for number in range(1_000):
        assert it.admits(S, 0.0)
        it.sent(S)
        if number % 2 == 0:
            it.answered(S)


def test_in_an_outage_few_go_through_and_never_none() -> None:
    """Of 10,000 calls in two minutes without an answer about as many go as the square root of twice that; the last may too."""
    it, draw, sent = Throttle(), random.Random(1), 0
    for number in range(10_000):
        now = number * 120 * S // 10_000
        if it.admits(now, draw.random()):
            it.sent(now)
            sent += 1
    assert 50 < sent < 400
    assert it.admits(120 * S, 0.9999)


def test_it_is_forgotten_after_two_minutes() -> None:
    it = Throttle()
    for _ in range(100):
        it.sent(0)
    assert not it.admits(59 * S, 0.5)
    assert not it.admits(60 * S, 0.5)
    assert it.admits(60 * S + 120 * S, 0.0)


@pytest.mark.parametrize("gap_s", [61, 119])
def test_a_half_of_it_is_forgotten_at_a_time(gap_s: int) -> None:
    it = Throttle()
    for _ in range(100):
        it.sent(60 * S)
    assert not it.admits((60 + gap_s) * S, 0.5)


@given(
    st.lists(st.tuples(st.sampled_from(["sent", "answered", "wait"]), st.integers(0, 200)), max_size=200),
    st.floats(0, 1),
)
def test_it_admits_by_its_formula_whatever_happened(events: list[tuple[str, int]], draw: float) -> None:
    """Once two halves are over nothing is left of what was; a draw of 1 always goes."""
    it, now = Throttle(), 0
    for what, value in events:
        if what == "wait":
            now += value * S
        else:
            getattr(it, what)(now)
        assert it.admits(now, 1.0)
    assert it.admits(now + 300 * S, draw)
