"""Prices of an agent's tools, and the charge of one tool call.

Rule 1: a tool costs what its owner says. One that nobody priced is taken as free, and its charge says so.
Rule 2: a charge has one line per component (call, units, megabytes, seconds), each rounded once, half up.
Rule 3: unknown is never zero. A component whose quantity nobody stated, or stated as something else than a number, leaves
        the whole charge without an amount; the reason names the field.
Rule 4: what the service itself says it charged is the amount; the lines of our prices stay beside it, a last line holds
        the difference.
Rule 5: a field is a path into a JSON answer: ``usage.credits``, ``results[0].cost``; ``[*]`` at the end counts a list,
        before the end it adds up. A number counts as the decimal that was written.
Rule 6: a fraction of a unit is charged exactly, to nine decimals: its line counts the parts, and the name of its price
        row says how many make one unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Context, Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

from .money import NanoUSD, Rate, decimal_text, nano_usd, parse_decimal, usd
from .prices import AMOUNT_MAX, Charge, Line
from .usage import Usage
from .values import valueclass

__all__ = [
    "FREE",
    "TOOL_LABEL",
    "TOOL_PROVIDER",
    "ToolPrice",
    "ToolPrices",
    "field_steps",
    "tool_charge",
    "tool_estimate",
    "tool_worst",
]

TOOL_PROVIDER: Final = "tools"
"""The provider that tool calls are entered under."""

TOOL_LABEL: Final = "tool"
"""The label that holds a tool's name, so that budgets and reports can be about it."""

FREE: Final = "no price is stated for this tool: it is taken as free"

_UNITS_MAX: Final = 10**15
_PARTS_MAX: Final = 1 << 62  # stores count in 64 bits
_LAST_PLACE: Final = Decimal("1e-9")  # as many digits behind the point as an amount has
# A fixed context: the caller's thread-local decimal precision must not change a count.
_CONTEXT: Final = Context(prec=60, rounding=ROUND_HALF_UP)
_NUMBER_LENGTH_MAX: Final = 64
_FIELD_LENGTH_MAX: Final = 256
_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d{1,6}|\*)\]")
_Step: TypeAlias = str | int | None
"""A key, a position, or (None) every element."""


@valueclass
class ToolPrice:
    """What calls of a tool cost. ``name`` is the name or the pattern that it was stated under.

    ``per_call`` is nano-USD per call, ``per_unit`` per unit, ``per_mb`` per byte of the answer, ``per_second`` per
    millisecond. ``units_field`` says where in the answer the units are, ``cost_field`` where the USD that the service says it
    charged. ``most`` is the most that one call can cost, None where nobody said.
    """

    name: str
    per_call: Rate | None = None
    per_unit: Rate | None = None
    per_mb: Rate | None = None
    per_second: Rate | None = None
    units_field: str = ""
    cost_field: str = ""
    most: NanoUSD | None = None


class ToolPrices:
    """The tools' prices in force. A tool's own name goes before patterns, patterns in the order they were stated."""

    def __init__(self, prices: Iterable[ToolPrice] = ()) -> None:
        self._patterns: list[ToolPrice] = []
        self._names: dict[str, ToolPrice] = {}
        for price in prices:
            if any(sign in price.name for sign in "*?["):
                self._patterns.append(price)
            self._names.setdefault(price.name, price)

    def find(self, tool: str) -> ToolPrice | None:
        """The price of a tool, None when nobody stated one."""
        found = self._names.get(tool)
        if found is not None or not self._patterns:
            return found
        return next((price for price in self._patterns if fnmatchcase(tool, price.name)), None)


# --- before a call ----------------------------------------------------------------------------------------------


def tool_worst(price: ToolPrice | None) -> NanoUSD | None:
    """The most that one call costs, to be held before it; None when nobody knows. Without a price it is nothing."""
    if price is None:
        return NanoUSD(0)
    if price.most is not None:
        return price.most
    if price.per_unit or price.per_mb or price.per_second or price.cost_field:
        return None
    return price.per_call.cost(1) if price.per_call else NanoUSD(0)


def tool_estimate(tool: str, price: ToolPrice | None) -> Charge:
    """The charge that is booked if a call is never heard of again: the most it can cost."""
    worst = tool_worst(price)
    if price is None or (worst is not None and price.most is None):
        charge = tool_charge(tool, price, units=None, size_bytes=None, duration_ms=None, stated=None, answer=None)
        return replace(charge, estimated=True)
    usage = Usage(tool_calls=1)
    if worst is None:
        reason = f"nobody said what a call of tool {tool!r} costs at most"
        return Charge(None, reason, usage, (), TOOL_PROVIDER, tool, estimated=True)
    line = Line("tool_calls", 1, None, f"{_row(price)};most", worst)
    return Charge(worst, None, usage, (line,), TOOL_PROVIDER, tool, estimated=True)


# --- after it ---------------------------------------------------------------------------------------------------


def tool_charge(
    tool: str,
    price: ToolPrice | None,
    *,
    calls: int = 1,
    units: int | Decimal | None,
    size_bytes: int | None,
    duration_ms: int | None,
    stated: NanoUSD | None,
    answer: Any | None,
) -> Charge:
    """The charge of a tool call that ended. ``answer`` is its decoded JSON, None where there is none.

    ``units`` is what the caller counted, else ``units_field`` is looked up; ``stated`` is what the caller says it cost,
    else ``cost_field`` is looked up. Raises ValueError for counts that cannot be.
    """
    for name, count in (("calls", calls), ("size_bytes", size_bytes), ("duration_ms", duration_ms)):
        if count is not None and not 0 <= count <= _UNITS_MAX:
            raise ValueError(f"{name} is {count}: it must be from 0 to {_UNITS_MAX}")
    if units is not None:
        units = _quantity(units, "units")
    if stated is not None and not 0 <= stated <= AMOUNT_MAX:
        raise ValueError(f"{usd(stated)} USD for tool {tool!r}: it must be from 0 to {usd(AMOUNT_MAX)}")
    reasons: list[str] = []
    if units is None and price and price.units_field:
        units = _asked(answer, price.units_field, "units", reasons)
    whole = None if units is None else _rounded(units)
    usage = Usage(tool_calls=calls, tool_units=whole or 0, tool_bytes=size_bytes or 0, tool_ms=duration_ms or 0)
    lines = _lines(tool, price, calls, units, size_bytes, duration_ms, reasons) if price else []
    reported = stated
    if reported is None and price and price.cost_field:
        cost = _asked(answer, price.cost_field, "cost", reasons)
        reported = None if cost is None else nano_usd(Decimal(cost))
    notes = () if price or stated is not None else (FREE,)
    if units is not None and units != whole:
        notes = (*notes, f"{Decimal(units).normalize(_CONTEXT):f} units")
    charge = Charge(None, None, usage, tuple(lines), TOOL_PROVIDER, tool, notes=notes, reported=reported)
    amount = NanoUSD(sum(line.cost for line in lines)) if reported is None else reported
    if reported is None and reasons:
        return replace(charge, reason=reasons[0], lines=())
    if amount > AMOUNT_MAX:
        reason = f"{usd(amount)} USD for one call of tool {tool!r} is not believed, the most is {usd(AMOUNT_MAX)}"
        return replace(charge, reason=reason, lines=(), reported=None)
    return _ended(charge, amount, price, calls, reasons)


def _ended(charge: Charge, amount: NanoUSD, price: ToolPrice | None, calls: int, reasons: Sequence[str]) -> Charge:
    """The charge with its amount, and beside it what of our lines differs and what was more than expected."""
    lines, notes = charge.lines, charge.notes
    difference = NanoUSD(amount - sum(line.cost for line in lines))
    if reasons:  # what is missing was only needed for lines that are not what counts
        lines, difference = (), amount
    if charge.reported is not None and (difference or not lines):
        lines = (*lines, Line("provider_reported", 1, None, f"reported:{TOOL_PROVIDER}", difference))
    if price and price.most is not None and amount > price.most * max(calls, 1):
        notes = (*notes, f"more than the most that is stated for one call, {decimal_text(price.most)} USD")
    return replace(charge, amount=amount, lines=lines, notes=notes)


def _lines(
    tool: str,
    price: ToolPrice,
    calls: int,
    units: int | Decimal | None,
    size_bytes: int | None,
    duration_ms: int | None,
    reasons: list[str],
) -> list[Line]:
    """A line for every component whose quantity is known; for the others a reason."""
    lines: list[Line] = []
    if price.per_call and calls:
        lines.append(Line("tool_calls", calls, price.per_call, _row(price), price.per_call.cost(calls)))
    if price.per_unit and units is None and not price.units_field:
        reasons.append(f"tool {tool!r} is paid per unit, and nobody stated its units")
    if price.per_unit and units:
        parts, whole = units.as_integer_ratio()
        rate = Rate(price.per_unit.numerator, price.per_unit.denominator * whole)
        row = _row(price) if whole == 1 else f"{_row(price)};parts={whole}"
        lines.append(Line("tool_units", parts, rate, row, rate.cost(parts)))
    for unit, rate, count, field in (
        ("tool_bytes", price.per_mb, size_bytes, "size_bytes"),
        ("tool_ms", price.per_second, duration_ms, "duration_ms"),
    ):
        if rate and count is None:
            reasons.append(f"the price of tool {tool!r} needs {field}, which is not known")
        elif rate and count:
            lines.append(Line(unit, count, rate, _row(price), rate.cost(count)))
    return lines


def _row(price: ToolPrice) -> str:
    return f"{TOOL_PROVIDER}:{price.name}"


def _rounded(units: int | Decimal) -> int:
    """Whole units, half up."""
    parts, whole = units.as_integer_ratio()
    return (2 * parts + whole) // (2 * whole)


# --- fields of an answer ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def field_steps(field: str) -> tuple[_Step, ...]:
    """The steps of a path such as ``data[*].pages``. Raises ValueError that names it."""
    found = list(_STEP.finditer(field)) if len(field) <= _FIELD_LENGTH_MAX else []
    if not found or "".join(match[0] for match in found) != field or field.startswith("."):
        raise ValueError(f"{field[:60]!r} is no path into an answer: write usage.credits, data[0].cost or data[*]")
    return tuple(_step(match) for match in found)


def _step(match: re.Match[str]) -> _Step:
    key, position = match.groups()
    if position is None:
        return str(key)
    return None if position == "*" else int(position)


def _asked(answer: Any, field: str, what: str, reasons: list[str]) -> int | Decimal | None:
    """The number at a path, or None with one more reason."""
    try:
        return _at(answer, field_steps(field), field, what)
    except ValueError as error:
        reasons.append(str(error))
        return None


def _at(value: Any, steps: Sequence[_Step], field: str, what: str) -> int | Decimal:
    for index, step in enumerate(steps):
        if step is None:
            elements = _elements(value, field, what)
            rest = steps[index + 1 :]
            if not rest:
                return len(elements)
            total = Decimal(0)
            for element in elements:
                total = _CONTEXT.add(total, Decimal(_at(element, rest, field, what)))
            return _quantity(total, field)
        found: Any = None
        if isinstance(step, str) and isinstance(value, Mapping):
            found = cast("Mapping[str, Any]", value).get(step)
        elif isinstance(step, int) and isinstance(value, list):
            listed = cast("list[Any]", value)
            found = listed[step] if step < len(listed) else None
        if found is None:
            raise ValueError(f"the answer has no {field!r}, which says its {what}")
        value = found
    return _quantity(value, field)


def _elements(value: Any, field: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"the answer has no list at {field!r}, which says its {what}")
    return cast("list[Any]", value)


def _quantity(value: Any, field: str) -> int | Decimal:
    """A count or an amount as it was written, to nine decimals. Raises ValueError that names the field and the value."""
    if isinstance(value, list):
        raise ValueError(f"{field!r} is a list: to count its elements write {field}[*]")
    # The text of a binary number is the shortest that reads back as it: what the answer's JSON said.
    plain = isinstance(value, int | str | Decimal | float) and not isinstance(value, bool)
    text = str(value) if plain else type(value).__name__
    if plain and len(text) <= _NUMBER_LENGTH_MAX:
        try:
            number = parse_decimal(text)
            if 0 <= number <= _UNITS_MAX:
                number = number.quantize(_LAST_PLACE, context=_CONTEXT)
                whole = number == number.to_integral_value()
                if whole or number.as_integer_ratio()[0] <= _PARTS_MAX:
                    return int(number) if whole else number
        except ValueError:
            pass
    raise ValueError(f"{field!r} is {text[:40]!r}: it must be a number from 0 to {_UNITS_MAX}")
