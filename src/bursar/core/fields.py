"""Fields of a configuration: what every section's grammar needs to read one.

Rule 1: every error is a ValueError that begins with the path and names the value and what is possible, in people's words.
Rule 2: a share is written with ``%``. A bare number is taken as a percentage only where it can be nothing else: ``0.8`` and ``1``
        may be meant as parts of the whole, and a budget that is a hundredth of what was meant is expensive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, cast

from .money import parse_decimal

__all__ = ["choice", "duration_ms", "flag", "known_keys", "mapping_of", "share_of", "whole"]

_SHOWN_MAX: Final = 256
_VALUE_SHOWN_MAX: Final = 60
_PART_LEAST: Final = Decimal("0.01")


def mapping_of(value: Any, path: str, way_out: str = "") -> dict[str, Any]:
    """Keys with values. ``way_out`` says what to write where there are none."""
    if not isinstance(value, Mapping):
        hint = f": {way_out}" if way_out else ""
        raise ValueError(f"{path}: expected keys with values, not {_kind(value)}{hint}")
    return {str(key): each for key, each in cast("Mapping[Any, Any]", value).items()}


def known_keys(spec: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for name in spec:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ValueError(f"{path}.{name}: unknown key {name!r}: {hint}")


def choice(value: Any, choices: Sequence[str], path: str) -> str:
    if value not in choices:
        raise ValueError(f"{path}: {_shown(value)} is not possible: use {', '.join(choices)}")
    return str(value)


def flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{path}: {_shown(value)} must be true or false")
    return value


def whole(value: Any, least: int, most: int, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{path}: {_shown(value)} must be a whole number from {least} to {most}")
    return value


def share_of(value: Any, path: str, *, least: int = 1, most: int = 10_000) -> int:
    """Thousandths of ``80%`` or ``80``, from ``least`` to ``most`` thousandths (rule 2)."""
    text = str(value)[:_SHOWN_MAX].strip()
    try:
        number = parse_decimal(text.removesuffix("%")) * 10
    except (ValueError, ArithmeticError):  # too large even to be multiplied
        number = Decimal(-1)
    if not isinstance(value, bool) and _PART_LEAST <= number <= 10 and not text.endswith("%"):
        raise ValueError(
            f"{path}: {text!r} may be meant as {_percent(number)} or as {_percent(number * 100)}: write it with its %"
        )
    if isinstance(value, bool) or not least <= number <= most or number != number.to_integral_value():
        span = f"from {_percent(Decimal(least))} to {_percent(Decimal(most))}"
        raise ValueError(f"{path}: {text!r} is no share: write a percentage {span}, in steps of 0.1%")
    return int(number)


def _percent(thousandths: Decimal) -> str:
    text = f"{thousandths / 10:f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"


def _kind(value: object) -> str:
    return next((words for kind, words in _KINDS if isinstance(value, kind)), type(value).__name__)


def _shown(value: object) -> str:
    """A value in an error, as it is written in a configuration: bounded, because a file may hold anything."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)[:_VALUE_SHOWN_MAX]
    return repr(value[:_VALUE_SHOWN_MAX]) if isinstance(value, str) else _kind(value)


_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (type(None), "nothing"), (bool, "true or false"), (int, "a whole number"), (Decimal, "a number with decimals"),
    (float, "a number with decimals"), (str, "text"), (list, "a list"), (Mapping, "keys with values"),
)  # fmt: skip
_DURATION: Final = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(value: Any, path: str) -> int:
    """Milliseconds of ``500ms``, ``2s``, ``10m``, ``1h`` or ``1d``; above 0."""
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not int(found[1]):
        raise ValueError(f"{path}: {str(value)[:60]!r} is no duration: write 500ms, 2s, 10m, 1h or 1d")
    return int(found[1]) * _MS[found[2]]
