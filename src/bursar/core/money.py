"""Amounts of money.

Rule 1: an amount is an ``int`` of nano-USD (10^-9 USD). No float ever touches money.
Rule 2: a rate is an exact fraction, nano-USD per unit; a decimal price in a file loses nothing on the way in.
Rule 3: one rounding per charge line, half up, in ``Rate.cost``.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Final, NamedTuple, NewType

__all__ = ["NANO_PER_USD", "NanoUSD", "Rate", "decimal_text", "nano_usd", "parse_decimal", "usd"]

NanoUSD = NewType("NanoUSD", int)

NANO_PER_USD: Final = 1_000_000_000

# A fixed context: the caller's thread-local decimal precision must not change an amount.
_CONTEXT: Final = Context(prec=60, rounding=ROUND_HALF_UP)


def nano_usd(amount: Decimal) -> NanoUSD:
    """The nearest nano-USD of a USD amount, half up. Raises ValueError when it is not finite."""
    if not amount.is_finite():
        raise ValueError(f"{amount} is not an amount of money")
    scaled = _CONTEXT.multiply(amount, Decimal(NANO_PER_USD))
    return NanoUSD(int(scaled.to_integral_value(rounding=ROUND_HALF_UP, context=_CONTEXT)))


def usd(amount: NanoUSD | int) -> Decimal:
    """The exact USD decimal of a nano-USD amount, without trailing zeros."""
    return Decimal(decimal_text(amount))


def decimal_text(amount: NanoUSD | int) -> str:
    """Exact, plain decimal text in USD without an exponent or trailing zeros: ``0.0000042``, ``12.5``, ``0``."""
    whole, nano = divmod(abs(int(amount)), NANO_PER_USD)
    sign = "-" if amount < 0 else ""
    return f"{sign}{whole}.{nano:09d}".rstrip("0").rstrip(".") if nano else f"{sign}{whole}"


def parse_decimal(text: str) -> Decimal:
    """A finite decimal from text. Raises ValueError that names the text."""
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a decimal number") from None
    if not value.is_finite():
        raise ValueError(f"{text!r} is not a finite number")
    return value


class Rate(NamedTuple):
    """An exact price: ``numerator / denominator`` nano-USD per unit."""

    numerator: int
    denominator: int

    @classmethod
    def of(cls, price_usd: Decimal, per: int) -> Rate:
        """The rate of ``price_usd`` USD for every ``per`` units. Raises ValueError when negative or not finite."""
        if not price_usd.is_finite() or price_usd < 0:
            raise ValueError(f"{price_usd} is not a price: it must be finite and not negative")
        if per <= 0:
            raise ValueError(f"a price per {per} units has no meaning")
        top, bottom = price_usd.as_integer_ratio()
        return cls(top * NANO_PER_USD, bottom * per)

    def times(self, factor: Decimal) -> Rate:
        """This rate multiplied by an exact factor (a geographic surcharge, a negotiated discount)."""
        top, bottom = factor.as_integer_ratio()
        return Rate(self.numerator * top, self.denominator * bottom)

    def cost(self, units: int) -> NanoUSD:
        """The charge for ``units`` (not negative), rounded once, half up."""
        return NanoUSD((2 * units * self.numerator + self.denominator) // (2 * self.denominator))

    def usd_per(self, units: int) -> Decimal:
        """USD for ``units`` units, for people: exact where a decimal can be."""
        top = _CONTEXT.multiply(Decimal(self.numerator), Decimal(units))
        price = _CONTEXT.divide(top, Decimal(self.denominator * NANO_PER_USD)).normalize(_CONTEXT)
        return price.quantize(Decimal(1)) if price == price.to_integral_value() else price
