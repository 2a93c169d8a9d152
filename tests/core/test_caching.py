"""What is worth keeping, and what a request may say of the cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.caching import CacheEntry, read_directive, worth

costs = st.one_of(st.none(), st.integers(0, 10**12))
sizes, hits, floors = st.integers(0, 10**8), st.integers(0, 10**6), st.integers(0, 1 << 50)


@given(costs, sizes, hits, floors)
def test_a_hit_makes_it_worth_more_and_size_less(cost: int | None, size: int, count: int, floor: int) -> None:
    found = worth(cost, size, count, floor)
    assert found >= floor
    assert worth(cost, size, count + 1, floor) >= found
    assert worth(cost, size + 1, count, floor) <= found
    assert worth(cost, size, count, floor + 1) == found + 1


@given(sizes, hits, floors)
def test_an_unknown_cost_is_worth_the_least_and_not_nothing(size: int, count: int, floor: int) -> None:
    assert worth(None, size, count, floor) == worth(0, size, count, floor) == worth(1, size, count, floor)


def test_what_is_large_fits_into_a_store() -> None:
    """A column of 64 bits holds it, whatever an answer cost and however often it was asked for."""
    assert worth(10**15, 0, 10**9, 1 << 61) < 1 << 62


def test_what_nobody_asks_for_again_is_worth_less_with_everything_that_goes() -> None:
    """A dear answer of long ago goes before a cheap one that came after the floor has risen past it."""
    dear = worth(1_000_000, 1_000, 0, 0)
    assert worth(1_000, 1_000, 0, dear) > dear


@pytest.mark.parametrize(
    ("said", "expected"),
    [(None, ""), ("", ""), ("  ", ""), ("no-store", "no-store"), (" Refresh ", "refresh"), ("ONLY", "only")],
)
def test_a_request_says_one_of_three_things_or_nothing(said: str | None, expected: str) -> None:
    assert read_directive(said) == expected


@pytest.mark.parametrize("said", ["no-cache", "no-store, only", "x" * 10_000, "onlyy"])
def test_anything_else_is_an_error_that_lists_them(said: str) -> None:
    with pytest.raises(ValueError, match="is none of no-store, refresh, only") as error:
        read_directive(said)
    assert len(str(error.value)) < 120


def test_an_entry_is_fresh_until_its_time_and_counts_what_is_beside_the_body() -> None:
    entry = CacheEntry("k", "t", "r", b"x" * 100, "application/json", False, "p", "m", 5, (), "a", 1_000, 2_000, 3_000)
    assert (entry.is_fresh(1_999), entry.is_fresh(2_000)) == (True, False)
    assert entry.size_bytes > 100
