"""Amounts of money as users of the SDK write them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeAlias

from bursar.core.budget_fields import parse_money
from bursar.core.money import NanoUSD

__all__ = ["Money", "money", "stated_money"]

Money: TypeAlias = str | int | Decimal
"""USD: "0.50", "$0.50", Decimal("0.5"), 2. No float: it is no exact amount."""


def money(value: Money, name: str) -> NanoUSD:
    """Raises ValueError that names the value and the way out."""
    if isinstance(value, float):
        raise ValueError(f"{name}: {value!r} is a float, which is no exact amount: write {str(value)!r}")
    return parse_money(f"{value:f}" if isinstance(value, Decimal) else str(value), name)


def stated_money(value: Any, name: str) -> NanoUSD:
    """An amount that a service stated in JSON, where decimals come as floats: what was written is what counts."""
    return money(Decimal(repr(value)) if isinstance(value, float) else value, name)
