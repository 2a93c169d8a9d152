"""What goes wrong, and when: faults by schedule, or by the header ``x-sim-fault`` of one request.

Rule 1: a fault is a word, with a number where it has one: ``429=2`` (Retry-After in seconds), ``cut=3`` (events sent
        before the break), ``slow=1500`` (milliseconds before the first token).
Rule 2: a schedule is a list of rules; the first that fits a request decides. Conditions of one rule must all hold.
Rule 3: chance comes from the seed, the rule and the request's index; the same run meets the same faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple, cast

import msgspec

from ._draw import Draw

__all__ = ["Fault", "FaultRule", "parse_fault", "parse_rules", "pick", "spoil_with"]

_DEFAULTS: Final = {
    "400": 0,
    "401": 0,
    "429": 1,
    "500": 0,
    "503": 0,
    "529": 0,
    "hang": 0,
    "cut": 3,
    "slow": 1000,
    "wrong-json": 0,
    "no-usage": 0,
    "usage-negative": 0,
    "usage-strings": 0,
}


class Fault(NamedTuple):
    kind: str
    value: int


class FaultRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``first`` and ``last`` are indexes of requests, from 0, both included; times are seconds since the start.

    ``path`` and ``model`` may hold ``*``; ``key`` is the caller's API key.
    """

    fault: str
    first: int = 0
    last: int | None = None
    every: int = 1
    after_s: float = 0.0
    until_s: float | None = None
    path: str = "*"
    model: str = "*"
    key: str | None = None
    probability: float = 1.0


_decoder: Final[Any] = msgspec.json.Decoder(FaultRule | list[FaultRule])


def parse_fault(text: str) -> Fault:
    """Raises ``ValueError`` that lists the known faults."""
    kind, given, value = text.strip().partition("=")
    if kind not in _DEFAULTS:
        raise ValueError(f"unknown fault {kind!r}; known: {', '.join(_DEFAULTS)}")
    if not given:
        return Fault(kind, _DEFAULTS[kind])
    if not value.isdecimal():
        raise ValueError(f"fault {text!r}: the part after '=' must be a whole number")
    return Fault(kind, int(value))


def parse_rules(text: str | bytes) -> tuple[FaultRule, ...]:
    """A schedule from JSON: one rule or a list of them. Raises ``ValueError`` that names the field."""
    try:
        given: FaultRule | list[FaultRule] = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(f"fault schedule: {error}") from error
    rules = (given,) if isinstance(given, FaultRule) else tuple(given)
    for number, rule in enumerate(rules):
        parse_fault(rule.fault)
        if rule.every < 1:
            raise ValueError(f"fault schedule: rule {number}: 'every' must be at least 1, it is {rule.every}")
        if not 0.0 <= rule.probability <= 1.0:
            raise ValueError(f"fault schedule: rule {number}: 'probability' must be 0..1, it is {rule.probability}")
    return rules


def pick(
    rules: Sequence[FaultRule], *, seed: int, index: int, elapsed_s: float, path: str, model: str, key: str
) -> Fault | None:
    """The fault that this request meets."""
    for number, rule in enumerate(rules):
        if (
            rule.first <= index
            and (rule.last is None or index <= rule.last)
            and (index - rule.first) % rule.every == 0
            and rule.after_s <= elapsed_s
            and (rule.until_s is None or elapsed_s < rule.until_s)
            and fnmatchcase(path, rule.path)
            and fnmatchcase(model, rule.model)
            and rule.key in (None, key)
            and (rule.probability >= 1.0 or Draw(seed, f"fault/{number}/{index}").chance() < rule.probability)
        ):
            return parse_fault(rule.fault)
    return None


def spoil_with(fault: Fault | None, usage: dict[str, Any]) -> Any:
    """``usage`` as the fault lets it through: as it is, missing (None), or with wrong values."""
    match fault.kind if fault is not None else "":
        case "no-usage":
            return None
        case "usage-negative":
            return _mapped(usage, negative=True)
        case "usage-strings":
            return _mapped(usage, negative=False)
        case _:
            return usage


def _mapped(value: Any, *, negative: bool) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _mapped(item, negative=negative) for name, item in fields.items()}
    if isinstance(value, list):
        return [_mapped(item, negative=negative) for item in cast("list[Any]", value)]
    if isinstance(value, int):
        return -max(value, 1) if negative else f"{value} tokens"
    return value
