"""Fields of a configuration: what every section's grammar needs to read one.

Rule 1: every error is a ValueError that begins with the path and names the value and what is possible.
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


def mapping_of(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: expected keys with values, not {type(value).__name__}")
    return {str(key): each for key, each in cast("Mapping[Any, Any]", value).items()}


def known_keys(spec: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for name in spec:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ValueError(f"{path}.{name}: unknown key {name!r}: {hint}")


def choice(value: Any, choices: Sequence[str], path: str) -> str:
    if value not in choices:
        raise ValueError(f"{path}: {value!r} is not possible: use {', '.join(choices)}")
    return str(value)


def flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{path}: {value!r} must be true or false")
    return value


def whole(value: Any, least: int, most: int, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{path}: {value!r} must be a whole number from {least} to {most}")
    return value


def share_of(value: Any, path: str) -> int:
    """Thousandths of ``80%`` or ``80``."""
    text = str(value)[:_SHOWN_MAX]
    try:
        number = parse_decimal(text.strip().removesuffix("%")) * 10
    except (ValueError, ArithmeticError):  # too large even to be multiplied
        number = Decimal(-1)
    if isinstance(value, bool) or not 0 < number <= 10_000 or number != number.to_integral_value():
        raise ValueError(f"{path}: {text!r} is no share: write a percentage such as 80%, above 0% and up to 1000%")
    return int(number)


_DURATION: Final = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(value: Any, path: str) -> int:
    """Milliseconds of ``500ms``, ``2s``, ``10m``, ``1h`` or ``1d``; above 0."""
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not int(found[1]):
        raise ValueError(f"{path}: {str(value)[:60]!r} is no duration: write 500ms, 2s, 10m, 1h or 1d")
    return int(found[1]) * _MS[found[2]]
