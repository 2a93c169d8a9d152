"""Quantiles of what was seen lately: never too low, near enough, and soon forgotten."""

from __future__ import annotations

import random
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.learn.latencies import EVIDENCE_MIN, Latencies


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=EVIDENCE_MIN, max_size=400), st.integers(1, 999))
def test_a_quantile_is_at_most_a_bucket_too_high_and_never_too_low(seen: list[float], thousandths: int) -> None:
    it = Latencies()
    for each in seen:
        it.add(each)
    true = max(sorted(seen)[ceil(len(seen) * thousandths / 1_000) - 1], 1.0)
    found = it.quantile(thousandths)
    assert found is not None
    assert true * (1 - 1e-9) <= found <= true * 2 ** (1 / 8) * (1 + 1e-9)


def test_nothing_is_said_without_evidence() -> None:
    it = Latencies()
    for _ in range(EVIDENCE_MIN - 1):
        it.add(5)
    assert it.quantile(500) is None
    it.add(5)
    assert it.quantile(500) == pytest.approx(5, rel=0.1)


def test_old_evidence_fades() -> None:
    """A target that has become ten times as slow is known to be before as many calls were seen again."""
    it, draw = Latencies(), random.Random(1)
    for _ in range(5_000):
        it.add(draw.uniform(90, 110))
    for _ in range(1_000):
        it.add(draw.uniform(900, 1_100))
    assert it.quantile(500) is not None
    assert (it.quantile(500) or 0) > 800
    assert it.total < 1_000


@pytest.mark.parametrize("odd", [0.0, -5.0, 1e300])
def test_odd_times_do_no_harm(odd: float) -> None:
    it = Latencies()
    for _ in range(EVIDENCE_MIN):
        it.add(odd)
    assert it.quantile(950) is not None


def test_fading_does_not_lose_what_is_rare() -> None:
    """Halving rounds down: the sum stays that of the counts, and a quantile is always found."""
    it = Latencies()
    for number in range(3_000):
        it.add(2.0 ** (number % 20))
        if it.total >= EVIDENCE_MIN:
            assert it.quantile(999) is not None
            assert it.quantile(1_000) is not None


@pytest.mark.parametrize("milliseconds", [7.0 * 1.09**step for step in range(60)])
def test_what_is_given_up_at_a_quantile_does_not_raise_it(milliseconds: float) -> None:
    """Whatever rounding it went through between the two."""
    seen = Latencies()
    for _ in range(EVIDENCE_MIN):
        seen.add(milliseconds)
    limit = seen.quantile(950)
    assert limit is not None
    for start_s in (0.0, 1_234.567, 28_112.337, 98_765.4):
        seen.add((start_s + limit / 1_000 - start_s) * 1_000)
    assert seen.quantile(950) == limit
