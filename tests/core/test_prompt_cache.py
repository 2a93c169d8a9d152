"""What a mark for a prompt cache is worth, and which marks are chosen."""

from __future__ import annotations

from datetime import datetime, timezone
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.adapters.prices_file import load_book
from bursar.core.money import Rate
from bursar.core.prices import PriceBook, RateCard, RateRow
from bursar.core.prompt_cache import (
    LOOK_BACK_BLOCKS,
    MARKS_MAX,
    CacheRates,
    Candidate,
    Chance,
    Kept,
    cache_rates,
    choose,
    gain,
    minimum_tokens,
)
from bursar.core.usage import UNIT_INDEX

RATES = CacheRates(1_000, 100, 1_250, 2_000, 1)
KINDS = ("tools", "system", "stable", "turn")
AT = datetime(2026, 11, 1, tzinfo=timezone.utc)


def candidate(kind: str, tokens: int, five: int, hour: int, of: int = 100, block: int = 0) -> Candidate:
    return Candidate(kind, tokens, block, Chance(five, hour, of))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    return load_book(tmp_path_factory.mktemp("prices"), None)


@pytest.mark.parametrize(("five", "gains"), [(21, False), (22, True)])
def test_break_even_of_five_minutes(five: int, gains: bool) -> None:
    """A write of 1.25 and reads of a tenth gain where p / (1 - p) reads of 0.9 pay for 0.25: from 22 % on."""
    found = choose([candidate("turn", 5_000, five, five)], RATES, kept=None, least_tokens=1_024)
    assert bool(found.marks) is gains
    assert (found.expected > 0) is gains


@pytest.mark.parametrize(("hour", "gains"), [(52, False), (53, True)])
def test_break_even_of_an_hour(hour: int, gains: bool) -> None:
    """A write of 2.0 gains from 53 % on: more than 1.11 reads."""
    found = choose([candidate("turn", 5_000, 0, hour)], RATES, kept=None, least_tokens=1_024)
    assert [mark.ttl for mark in found.marks] == (["1h"] if gains else [])


def test_gain_is_exact_and_rounded_down() -> None:
    """Seven tokens at three times of eleven: 7 * (3 * 900 - 8 * 250) / 11, and a loss is never made smaller by rounding."""
    assert gain(7, Chance(3, 3, 11), RATES, "5m") == 7 * (3 * 900 - 8 * 250) // 11
    assert gain(1, Chance(0, 0, 3), CacheRates(10, 1, 11, None, 7), "5m") == -1
    assert gain(1, Chance(1, 1, 1), CacheRates(10, 1, 11, None, 7), "1h") is None


def test_what_is_kept_is_not_written_again() -> None:
    """Only the tokens behind the kept prefix are counted as a write; a mark in what is read renews it at no cost."""
    found = choose(
        [candidate("system", 2_000, 90, 90, block=-1), candidate("turn", 9_000, 90, 90, block=2)],
        RATES,
        kept=Kept(8_000, 0),
        least_tokens=1_024,
    )
    assert [(mark.kind, mark.written) for mark in found.marks] == [("system", 0), ("turn", 1_000)]
    assert found.read == 8_000


def test_what_is_kept_is_read_at_any_odds() -> None:
    """Where nothing gains any more, one mark reads what is there, and nothing new is expected to be written."""
    found = choose([candidate("turn", 9_000, 0, 0, block=1)], RATES, kept=Kept(8_000, 0), least_tokens=1_024)
    assert [(mark.kind, mark.written) for mark in found.marks] == [("kept", 0)]
    assert found.expected == 0


@pytest.mark.parametrize(("blocks", "marks"), [(LOOK_BACK_BLOCKS - 1, ["turn"]), (LOOK_BACK_BLOCKS, ["kept", "turn"])])
def test_what_a_mark_cannot_find_has_a_mark_of_its_own(blocks: int, marks: list[str]) -> None:
    """A mark looks back over 20 blocks: from further away, what is kept would be written again."""
    found = choose([candidate("turn", 9_000, 90, 90, block=blocks)], RATES, kept=Kept(8_000, 0), least_tokens=1_024)
    assert [mark.kind for mark in found.marks] == marks


def test_long_lives_stand_before_short_ones() -> None:
    """The system text that comes back within the hour is kept for it, the turn that comes back at once for five minutes."""
    found = choose(
        [candidate("system", 20_000, 40, 95), candidate("turn", 30_000, 39, 40)], RATES, kept=None, least_tokens=1_024
    )
    assert [(mark.kind, mark.ttl) for mark in found.marks] == [("system", "1h"), ("turn", "5m")]


def test_a_short_prefix_is_not_marked() -> None:
    """Below the model's minimum nothing is kept, so no place is spent on it."""
    assert not choose([candidate("turn", 1_023, 99, 99)], RATES, kept=None, least_tokens=1_024).marks


CHANCES = st.integers(0, 100).flatmap(lambda five: st.tuples(st.just(five), st.integers(five, 100)))
CANDIDATES = st.lists(st.tuples(st.integers(1, 50_000), CHANCES), min_size=1, max_size=4)


@given(CANDIDATES, st.one_of(st.none(), st.integers(1_000, 60_000)), st.booleans())
def test_no_other_marks_gain_more(
    made: list[tuple[int, tuple[int, int]]], kept_tokens: int | None, hours: bool
) -> None:
    """Over every subset of places and lives in their order, none is expected to gain more; each mark gains by itself."""
    ends = sorted(tokens for tokens, _ in made)
    fives = sorted((chance[0] for _, chance in made), reverse=True)
    longs = sorted((chance[1] for _, chance in made), reverse=True)
    candidates = [
        candidate(kind, tokens, five, max(five, hour), block=number + 1)
        for number, (kind, tokens, five, hour) in enumerate(zip(KINDS, ends, fives, longs, strict=False))
    ]
    rates = RATES if hours else RATES._replace(write_1h=None)
    kept = None if kept_tokens is None else Kept(kept_tokens, 0)
    found = choose(candidates, rates, kept=kept, least_tokens=1_000)
    assert len(found.marks) <= MARKS_MAX
    assert all(mark.expected > 0 or (kept is not None and mark.written == 0) for mark in found.marks)
    lives = [mark.ttl for mark in found.marks]
    assert lives == sorted(lives)  # "1h" before "5m"
    best = 0
    usable = [each for each in candidates if each.tokens >= 1_000]
    for size in range(1, len(usable) + 1):
        for chosen in combinations(usable, size):
            for split in range(size + 1):
                total, before = 0, kept_tokens or 0
                for number, each in enumerate(chosen):
                    written = max(0, each.tokens - before)
                    worth = gain(written, each.chance, rates, "1h" if number < split else "5m")
                    total += worth if worth is not None else -(10**12)
                    before = max(before, each.tokens)
                best = max(best, total)
    assert found.expected >= best - size_of_rounding(candidates)


def size_of_rounding(candidates: list[Candidate]) -> int:
    """Each mark is rounded down by less than a nano-USD."""
    return len(candidates)


@given(st.integers(0, 100), st.integers(1, 100_000))
def test_gain_never_claims_more_than_there_is(five: int, tokens: int) -> None:
    """The whole number is the floor of the exact fraction."""
    exact = Fraction(tokens * (five * 900 - (100 - five) * 250), 100)
    worth = gain(tokens, Chance(five, five, 100), RATES, "5m")
    assert worth is not None
    assert worth <= exact < worth + 1


def test_prices_of_the_book(book: PriceBook) -> None:
    """Anthropic's reads cost a tenth, writes 1.25 and 2 times the input; past a tier its prices count."""
    card = book.card("anthropic", "claude-sonnet-4-5", AT)
    assert card is not None
    for tokens in (1_000, 300_000):
        found = cache_rates(card, tokens)
        assert found is not None
        assert (found.read * 10, found.write_5m * 4, found.write_1h) == (found.input, found.input * 5, found.input * 2)
    short, long = cache_rates(card, 1_000), cache_rates(card, 300_000)
    assert short is not None
    assert long is not None
    assert Fraction(long.input, long.per) == 2 * Fraction(short.input, short.per)


def test_without_prices_there_are_no_rates(book: PriceBook) -> None:
    """Where a read or a write has no price, nothing can be weighed."""
    rate = ((0, Rate(3_000, 1)),)
    rows = (
        RateRow(UNIT_INDEX["cache_read_tokens"], rate, "r", ()),
        RateRow(UNIT_INDEX["input_tokens"], rate, "r", (0,)),
    )
    assert cache_rates(RateCard("x", "m", "b", rows, (), ()), 10) is None
    card = book.card("deepseek", "deepseek-chat", AT)
    assert card is not None
    assert cache_rates(card, 10) is None


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-4-6", 4_096),
        ("claude-opus-4-5-20251101", 4_096),
        ("claude-opus-4-8", 1_024),
        ("claude-opus-4-1-20250805", 1_024),
        ("claude-opus-4-20250514", 1_024),
        ("claude-sonnet-4-5-20250929", 1_024),
        ("anthropic/claude-sonnet-4.6", 1_024),
        ("claude-haiku-4-5", 4_096),
        ("claude-3-5-haiku-latest", 2_048),
        ("claude-opus-5", 512),
        ("claude-sonnet-5", 1_024),
        ("somebody-else", 4_096),
    ],
)
def test_shortest_prefix_by_model(model: str, tokens: int) -> None:
    """The documented minimum of each model, the largest one for a stranger."""
    assert minimum_tokens(model) == tokens
