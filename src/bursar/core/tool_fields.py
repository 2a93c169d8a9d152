"""The ``tools:`` section of a configuration: what calls of the agents' own tools cost.

Rule 1: every error is a ValueError that names the path, the value and what is possible.
Rule 2: amounts are written as in budgets (``0.005``, ``$0.005``) and are exact, also below a nano-USD.
Rule 3: a price says at least one thing. What a service itself states (``cost``) takes the place of all rates.
Rule 4: free is stated, as 0, or left out: a tool without a row is taken as free.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, cast

from .budget_fields import parse_money
from .money import Rate, parse_decimal
from .tool_prices import ToolPrice, ToolPrices, field_steps

__all__ = ["TOOLS_MAX", "TOOL_FIELDS", "parse_rate_amount", "parse_tool", "parse_tools"]

TOOLS_MAX: Final = 1_000
TOOL_FIELDS: Final = ("per_call", "per_unit", "units", "per_mb", "per_second", "cost", "most")

_RATES: Final[Mapping[str, int]] = {"per_call": 1, "per_unit": 1, "per_mb": 1_000_000, "per_second": 1_000}
_NAME_LENGTH_MAX: Final = 256
_RATE_MAX: Final = 1_000_000
_PLACES_MAX: Final = 30


def parse_tools(raw: Mapping[str, Any], path: str = "tools") -> ToolPrices:
    """The prices of a mapping from tools, or patterns of them, to what a call costs. Raises ValueError."""
    if len(raw) > TOOLS_MAX:
        raise ValueError(
            f"{path}: {len(raw)} tools: at most {TOOLS_MAX} are possible; a pattern such as search.* is one"
        )
    return ToolPrices([parse_tool(name, spec, f"{path}.{name}") for name, spec in raw.items()])


def parse_tool(name: str, raw: Any, path: str) -> ToolPrice:
    """One price. Raises ValueError."""
    if not name.strip() or len(name) > _NAME_LENGTH_MAX:
        raise ValueError(f"{path}: a tool's name, or a pattern of names, has from 1 to {_NAME_LENGTH_MAX} characters")
    if not isinstance(raw, Mapping):
        raise ValueError(f"{path}: {str(raw)[:60]!r} says no price: write {{per_call: 0.005}}")
    spec = cast("Mapping[str, Any]", raw)
    for key in spec:
        if key not in TOOL_FIELDS:
            near = get_close_matches(key, TOOL_FIELDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(TOOL_FIELDS)}"
            raise ValueError(f"{path}.{key}: unknown key {key!r}: {hint}")
    rates = {key: parse_rate_amount(spec[key], per, f"{path}.{key}") for key, per in _RATES.items() if key in spec}
    cost, units = (_field(spec[key], f"{path}.{key}") if key in spec else "" for key in ("cost", "units"))
    if not rates and not cost:
        raise ValueError(f"{path}: it says no price: use one or more of {', '.join(_RATES)}, or cost")
    if rates and cost:
        raise ValueError(f"{path}.cost: the service states the whole cost; leave {', '.join(rates)} out")
    if units and "per_unit" not in rates:
        raise ValueError(f"{path}.units: units without a price: say what one costs with per_unit")
    most = parse_money(spec["most"], f"{path}.most") if "most" in spec else None
    return ToolPrice(name, **rates, units_field=units, cost_field=cost, most=most)


def parse_rate_amount(value: Any, per: int, path: str) -> Rate:
    """The rate of an amount of USD for so many units. Raises ValueError."""
    number = Decimal(-1)
    if isinstance(value, int | str | Decimal) and not isinstance(value, bool) and len(str(value)) <= _NAME_LENGTH_MAX:
        try:
            number = parse_decimal(str(value).strip().removeprefix("$"))
        except ValueError:
            number = Decimal(-1)
    if not 0 <= number <= _RATE_MAX or not _short(number):
        raise ValueError(f"{path}: {str(value)[:60]!r} is no price: write USD from 0 to {_RATE_MAX}, such as 0.005")
    return Rate.of(number, per)


def _short(number: Decimal) -> bool:
    """Whether it can be made a fraction without one of unheard-of size."""
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_PLACES_MAX


def _field(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}: {str(value)[:60]!r} is no path into an answer: write usage.credits")
    try:
        field_steps(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return value
