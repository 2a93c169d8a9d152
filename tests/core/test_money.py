"""Money: exact rates, one rounding, plain text."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.money import NANO_PER_USD, NanoUSD, Rate, decimal_text, nano_usd, parse_decimal, usd

PRICES = st.decimals(min_value=0, max_value=10**6, places=9)
UNITS = st.integers(0, 10**12)
PER = st.sampled_from([1, 1_000, 1_000_000, 3_600_000])


@given(price=PRICES, per=PER, units=UNITS)
def test_cost_is_the_exact_product_rounded_half_up(price: Decimal, per: int, units: int) -> None:
    """``Rate.cost`` equals the rational product, rounded half up to a nano-USD."""
    exact = Fraction(price) * units / per * NANO_PER_USD
    whole, rest = divmod(exact.numerator, exact.denominator)
    assert Rate.of(price, per).cost(units) == whole + (2 * rest >= exact.denominator)


@given(price=PRICES, units=st.integers(0, 10**9))
def test_cost_agrees_with_decimal_arithmetic(price: Decimal, units: int) -> None:
    """The same figure as ``decimal`` gives with enough digits and ROUND_HALF_UP."""
    with localcontext() as context:
        context.prec = 100
        expected = (price * units * 1000).to_integral_value(rounding=ROUND_HALF_UP)
    assert Rate.of(price, 1_000_000).cost(units) == expected


@given(price=PRICES, units=UNITS, more=UNITS)
def test_more_units_never_cost_less_and_a_split_moves_a_nano_at_most(price: Decimal, units: int, more: int) -> None:
    """Cost grows with units; two lines differ from one by the two roundings."""
    rate = Rate.of(price, 1_000_000)
    together = rate.cost(units + more)
    assert together >= rate.cost(units)
    assert abs(together - rate.cost(units) - rate.cost(more)) <= 1


@pytest.mark.parametrize(("nano_per_unit", "units", "expected"), [("0.5", 1, 1), ("0.5", 3, 2), ("0.4999", 1, 0)])
def test_half_a_nano_rounds_up(nano_per_unit: str, units: int, expected: int) -> None:
    """Half up, not half to even: 0.5 is 1 and 1.5 is 2."""
    price = Decimal(nano_per_unit) / NANO_PER_USD
    assert Rate.of(price, 1).cost(units) == expected


@given(amount=st.integers(-(10**20), 10**20))
def test_amounts_survive_usd_and_text(amount: int) -> None:
    """nano -> USD -> nano and nano -> text -> nano lose nothing; the text is plain."""
    assert nano_usd(usd(NanoUSD(amount))) == amount
    text = decimal_text(amount)
    assert nano_usd(parse_decimal(text)) == amount
    assert "e" not in text.lower()
    assert text == "0" or not text.endswith(".")


@given(price=PRICES, factor=st.decimals(min_value=0, max_value=10, places=6), units=UNITS)
def test_a_factor_is_exact(price: Decimal, factor: Decimal, units: int) -> None:
    """Multiplying a rate rounds nothing: the cost is that of the exact product."""
    exact = Fraction(price) * Fraction(factor) * units * 1000
    assert abs(Rate.of(price, 1_000_000).times(factor).cost(units) - exact) <= Fraction(1, 2)


@given(price=PRICES, per=PER)
def test_a_rate_shows_the_price_it_was_made_of(price: Decimal, per: int) -> None:
    """``usd_per`` gives back the listed price."""
    assert Rate.of(price, per).usd_per(per) == price


def test_the_callers_decimal_context_changes_nothing() -> None:
    """A thread with three digits of precision gets the same amounts."""
    with localcontext() as context:
        context.prec = 3
        assert nano_usd(Decimal("1234567.123456789")) == 1_234_567_123_456_789
        assert usd(NanoUSD(1_234_567_123_456_789)) == Decimal("1234567.123456789")
        assert Rate.of(Decimal("1.23456789"), 1).cost(1) == 1_234_567_890


@pytest.mark.parametrize("text", ["", "1,5", "NaN", "Infinity", "-Infinity", "1.2.3", "1 USD"])
def test_what_is_not_a_finite_number_is_refused_by_name(text: str) -> None:
    """The error names the text."""
    with pytest.raises(ValueError, match="number") as caught:
        parse_decimal(text)
    assert repr(text) in str(caught.value)


def test_impossible_prices_are_refused() -> None:
    """Negative, infinite, or per nothing: not a rate. Not finite: not an amount."""
    for price, per in ((Decimal(-1), 1), (Decimal("NaN"), 1), (Decimal("Infinity"), 1), (Decimal(1), 0)):
        with pytest.raises(ValueError):
            Rate.of(price, per)
    with pytest.raises(ValueError, match="not an amount"):
        nano_usd(Decimal("Infinity"))
