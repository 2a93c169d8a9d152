"""Budgets as people write them: in bursar.yaml, by command, over the API. One grammar for all.

Rule 1: every error is a ValueError that names the path, the value and what is possible.
Rule 2: an amount says its unit: ``$5`` (or a bare number), ``2M tokens``, ``100 calls``. Money is exact.
Rule 3: what is written is kept as it was written (``spec``): reading it again gives the same budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone, tzinfo
from difflib import get_close_matches
from typing import Any, Final, Literal, cast

from .budgets import DEFAULT_THRESHOLDS, FLOOR_TOKENS, LABEL_PREFIX, TASK_RULES, Budget, Limit, Raise, Unit
from .fields import choice, flag, known_keys, mapping_of, share_of, whole
from .ladder import ACTIONS, EFFORTS, Action, Rung
from .money import NanoUSD, decimal_text, nano_usd, parse_decimal
from .scopes import SCOPE_COLUMNS, VALUE_LENGTH_MAX
from .windows import Window, parse_window

__all__ = ["BUDGETS_MAX", "FIELDS", "amount_text", "parse_amount", "parse_budget", "parse_budgets", "parse_money"]

BUDGETS_MAX: Final = 1_000
FIELDS: Final = (
    "limit", "per", "tz", "match", "each", "on_unpriced", "on_store_failure", "alert_at", "forecast", "ladder", "reserve",
    "floor_tokens", "streams", "input", "enforce", "raise",
)  # fmt: skip

_TASK_FIELDS: Final = (
    "on_unpriced", "on_store_failure", "alert_at", "forecast", "ladder", "floor_tokens", "streams", "input",
)  # fmt: skip
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAKEN: Final = frozenset({"books"})
_AMOUNT: Final = re.compile(
    r"\$?\s*(?P<number>(?:\d{1,3}(?:,\d{3})+|[\d_]+)?(?:\.\d*)?(?:e[+-]?\d{1,3})?)\s*(?P<scale>[kmb])?\s*(?P<unit>[a-z]*)",
    re.IGNORECASE,
)
_SCALE: Final = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_UNITS: Final[Mapping[str, Unit]] = {
    "usd": "usd", "token": "tokens", "tokens": "tokens", "call": "calls", "calls": "calls",
}  # fmt: skip
_AMOUNT_MAX: Final = 1 << 60
_LADDER_MAX: Final = 32
_VALUES_MAX: Final = 100
_TEXT_MAX: Final = 1_000
_EACH: Final = tuple(column for column in SCOPE_COLUMNS if column != "parent_task")


def parse_budgets(raw: Mapping[str, Any], zone: Callable[[str], tzinfo], path: str = "budgets") -> tuple[Budget, ...]:
    """All budgets of a mapping from names to specs. Raises ValueError."""
    if len(raw) > BUDGETS_MAX:
        raise ValueError(f"{path}: {len(raw)} budgets: at most {BUDGETS_MAX} are possible")
    return tuple(parse_budget(name, spec, zone, f"{path}.{name}") for name, spec in raw.items())


def parse_budget(name: str, raw: Any, zone: Callable[[str], tzinfo], path: str = "") -> Budget:
    """One budget. ``zone`` gives the time zone of an IANA name or raises ValueError. Raises ValueError."""
    path = path or f"budget {name}"
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{path}: budget name {name!r}: use up to 64 of a-z, 0-9, . _ and -, beginning with one of the first"
        )
    if name in _TAKEN:
        raise ValueError(f"{path}: the name {name!r} is taken by Bursar itself; choose another")
    spec = mapping_of(raw, path)
    if name == TASK_RULES.name:
        return _task_rules(spec, path)
    known_keys(spec, FIELDS, path)
    if "limit" not in spec:
        raise ValueError(f"{path}.limit: a budget needs a limit, such as limit: $50 with per: month")
    tz = _zone(spec.get("tz", "UTC"), zone, f"{path}.tz")
    unit, limits = _limits(spec, tz, path)
    on_unpriced, assume = _on_unpriced(spec.get("on_unpriced", "deny"), f"{path}.on_unpriced")
    streams = choice(spec.get("streams", "clamp"), ("clamp", "extend"), f"{path}.streams")
    held_input = choice(spec.get("input", "dearest"), ("dearest", "likely"), f"{path}.input")
    return Budget(
        name=name,
        unit=unit,
        limits=limits,
        match=_match(spec.get("match", {}), f"{path}.match"),
        each=_each(spec.get("each", ""), f"{path}.each"),
        on_unpriced=on_unpriced,
        assume=assume,
        open_up_to=_store_failure(spec.get("on_store_failure", "closed"), f"{path}.on_store_failure"),
        thresholds=_thresholds(spec.get("alert_at"), f"{path}.alert_at"),
        forecast=flag(spec.get("forecast", True), f"{path}.forecast"),
        ladder=_ladder(spec.get("ladder", []), f"{path}.ladder"),
        reserve=_part(spec.get("reserve"), unit, limits, f"{path}.reserve"),
        floor_tokens=whole(spec.get("floor_tokens", FLOOR_TOKENS), 1, 1_000_000, f"{path}.floor_tokens"),
        streams=cast("Literal['clamp', 'extend']", streams),
        input=cast("Literal['dearest', 'likely']", held_input),
        enforce=flag(spec.get("enforce", True), f"{path}.enforce"),
        raised=_raise(spec.get("raise"), unit, tz, f"{path}.raise"),
    )


def _task_rules(spec: Mapping[str, Any], path: str) -> Budget:
    """How the limits behave that tasks open themselves: everything but what a task itself states."""
    for field in ("limit", "per", "each", "match", "reserve", "raise", "enforce"):
        if field in spec:
            raise ValueError(
                f"{path}.{field}: this budget says how the limits behave that tasks open at run time; a task states its own. "
                "For a limit on every task choose another name with each: task"
            )
    known_keys(spec, _TASK_FIELDS, path)
    whole = parse_budget("any", {"limit": 0, "alert_at": [], **spec}, lambda _: timezone.utc, path)
    return replace(whole, name=TASK_RULES.name, limits=(), each="task")


# --- amounts ----------------------------------------------------------------------------------------------------


def parse_amount(value: Any, path: str) -> tuple[Unit, int]:
    """The unit and the amount (nano-USD, tokens or calls) of ``$5``, ``0.50``, ``2M tokens``, ``100 calls``."""
    text = str(value)[:VALUE_LENGTH_MAX]
    found = _AMOUNT.fullmatch(text.strip()) if not isinstance(value, bool) else None
    unit = _UNITS.get((found["unit"] or "usd").lower()) if found else None
    if found is None or unit is None or ("$" in text and unit != "usd"):
        raise ValueError(f"{path}: {text!r} is no amount: write $5, 2M tokens or 100 calls")
    try:
        number = parse_decimal(found["number"].replace("_", "").replace(",", ""))
    except ValueError:
        raise ValueError(f"{path}: {text!r} is no amount: write $5, 2M tokens or 100 calls") from None
    number *= _SCALE[(found["scale"] or "").lower()]
    if unit != "usd" and number != number.to_integral_value():
        raise ValueError(f"{path}: {text!r}: {unit} come in whole numbers")
    amount = int(nano_usd(number)) if unit == "usd" else int(number)
    if not 0 <= amount <= _AMOUNT_MAX:
        raise ValueError(f"{path}: {text!r} is more than can be counted; the most is {amount_text(unit, _AMOUNT_MAX)}")
    return unit, amount


def parse_money(value: Any, path: str) -> NanoUSD:
    """An amount that must be money."""
    unit, amount = parse_amount(value, path)
    if unit != "usd":
        raise ValueError(f"{path}: {value!r} must be money, such as $5")
    return NanoUSD(amount)


def amount_text(unit: Unit, amount: int) -> str:
    """An amount for people: ``$1.25``, ``2000 tokens``, ``1 call``."""
    if unit == "usd":
        sign, text = ("-" if amount < 0 else ""), decimal_text(abs(amount))
        whole, _, part = text.partition(".")
        return f"{sign}${whole}.{part.ljust(2, '0')}" if part else f"{sign}${whole}"
    return f"{amount} {unit if amount != 1 else unit[:-1]}"


# --- fields -----------------------------------------------------------------------------------------------------


def _limits(spec: Mapping[str, Any], tz: tzinfo, path: str) -> tuple[Unit, tuple[Limit, ...]]:
    raw, per = spec["limit"], spec.get("per")
    pairs: list[tuple[Window, Any]]
    if isinstance(raw, Mapping):
        if per is not None:
            raise ValueError(f"{path}.per: the limits name their windows already; leave per out")
        pairs = [
            (_window(name, tz, f"{path}.limit"), value) for name, value in mapping_of(raw, f"{path}.limit").items()
        ]
    else:
        windows = cast("list[Any]", per) if isinstance(per, list) else [per or "lifetime"]
        pairs = [(_window(name, tz, f"{path}.per"), raw) for name in windows]
    if not pairs:
        raise ValueError(
            f"{path}.limit: no window has a limit; write limit: $50 with per: month, or limit: {{day: $5}}"
        )
    units: dict[Unit, None] = {}
    limits: list[Limit] = []
    for window, value in pairs:
        unit, amount = parse_amount(value, f"{path}.limit")
        units[unit] = None
        limits.append(Limit(window, amount))
    if len(units) > 1:
        raise ValueError(f"{path}.limit: one budget counts one thing, not {' and '.join(units)}; make two budgets")
    if len({limit.window.text for limit in limits}) < len(limits):
        raise ValueError(f"{path}.per: a window is there twice")
    return next(iter(units)), tuple(limits)


def _window(value: Any, tz: tzinfo, path: str) -> Window:
    try:
        return parse_window(str(value), tz)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _zone(value: Any, zone: Callable[[str], tzinfo], path: str) -> tzinfo:
    if value in ("UTC", "utc"):
        return timezone.utc
    try:
        return zone(str(value))
    except ValueError:
        raise ValueError(f"{path}: {value!r} is no time zone: use an IANA name such as Europe/Berlin") from None


def _match(raw: Any, path: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for column, value in mapping_of(raw, path).items():
        _column(column, SCOPE_COLUMNS, f"{path}.{column}")
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not values or len(values) > _VALUES_MAX:
            raise ValueError(f"{path}.{column}: give from 1 to {_VALUES_MAX} values")
        found.append((column, tuple(_text(one, f"{path}.{column}") for one in values)))
    return tuple(found)


def _each(value: Any, path: str) -> str:
    if value == "":
        return ""
    _column(value, _EACH, path)
    return str(value)


def _column(value: Any, columns: Sequence[str], path: str) -> None:
    text = str(value)
    if text in columns or (text.startswith(LABEL_PREFIX) and text != LABEL_PREFIX):
        return
    near = get_close_matches(text, columns, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(columns)} or label:NAME"
    raise ValueError(f"{path}: {text!r} is not something calls are told apart by: {hint}")


def _on_unpriced(value: Any, path: str) -> tuple[Literal["deny", "assume", "allow"], NanoUSD]:
    text = str(value)
    if text in ("deny", "allow"):
        return text, NanoUSD(0)
    if text.startswith("assume-"):
        return "assume", parse_money(text.removeprefix("assume-"), path)
    raise ValueError(f"{path}: {text!r} is not possible: use deny, allow, or assume-AMOUNT such as assume-$0.05")


def _store_failure(value: Any, path: str) -> NanoUSD | None:
    text = str(value)
    if text == "closed":
        return None
    if text.startswith("open-up-to-"):
        return parse_money(text.removeprefix("open-up-to-"), path)
    raise ValueError(f"{path}: {text!r} is not possible: use closed, or open-up-to-AMOUNT such as open-up-to-$5")


def _thresholds(raw: Any, path: str) -> tuple[int, ...]:
    if raw is None:
        return DEFAULT_THRESHOLDS
    values = cast("list[Any]", raw) if isinstance(raw, list) else [raw]
    return tuple(sorted({share_of(value, path) for value in values}))


def _ladder(raw: Any, path: str) -> tuple[Rung, ...]:
    if not isinstance(raw, list):
        raise ValueError(f"{path}: write a list of rungs, such as - {{at: 90%, effort: low}}")
    steps = cast("list[Any]", raw)
    if len(steps) > _LADDER_MAX:
        raise ValueError(f"{path}: {len(steps)} rungs: at most {_LADDER_MAX} are possible")
    rungs = [_rung(step, f"{path}[{index}]") for index, step in enumerate(steps)]
    return tuple(sorted(rungs, key=lambda rung: rung.at))


def _rung(raw: Any, path: str) -> Rung:
    step = mapping_of(raw, path)
    known_keys(step, ("at", *ACTIONS), path)
    if "at" not in step:
        raise ValueError(f"{path}.at: say from which share on, such as at: 80%")
    at = share_of(step["at"], f"{path}.at")
    actions = [name for name in step if name != "at"]
    if len(actions) != 1:
        raise ValueError(f"{path}: a rung does one thing, this one has {len(actions)}: use one of {', '.join(ACTIONS)}")
    action, value, where = cast("Action", actions[0]), step[actions[0]], f"{path}.{actions[0]}"
    match action:
        case "note":
            return Rung(at, action, text=_text(value, where))
        case "output_cap":
            return Rung(at, action, number=whole(value, 1, 10_000_000, where))
        case "effort":
            return Rung(at, action, text=choice(value, EFFORTS, where))
        case "tier":
            return Rung(at, action, text=_text(value, where))
        case "model":
            models = mapping_of(value, where)
            if not models:
                raise ValueError(f"{where}: say which model takes the place of which, such as {{gpt-5: gpt-5-mini}}")
            return Rung(at, action, models=tuple((name, _text(to, where)) for name, to in models.items()))
        case "tools":
            names = cast("list[Any]", value) if isinstance(value, list) else [value]
            return Rung(at, action, patterns=tuple(_text(name, where) for name in names))
        case "cached" | "approve" | "refuse":
            if value is not True:
                raise ValueError(f"{where}: write {action}: true, or leave the rung out")
            return Rung(at, action)


def _part(raw: Any, unit: Unit, limits: Sequence[Limit], path: str) -> int:
    """An amount in the budget's unit that is not above any of its limits."""
    if raw is None:
        return 0
    found, amount = parse_amount(raw, path)
    if found != unit:
        raise ValueError(f"{path}: {raw!r} is in {found}, the budget counts {unit}")
    least = min(limit.amount for limit in limits)
    if amount > least:
        raise ValueError(f"{path}: {raw!r} is more than the limit of {amount_text(unit, least)}")
    return amount


def _raise(raw: Any, unit: Unit, tz: tzinfo, path: str) -> Raise | None:
    if raw is None:
        return None
    spec = mapping_of(raw, path)
    known_keys(spec, ("by", "until"), path)
    for name in ("by", "until"):
        if name not in spec:
            raise ValueError(f"{path}.{name}: a raise needs both, such as {{by: $30, until: 2026-12-01}}")
    found, by = parse_amount(spec["by"], f"{path}.by")
    if found != unit:
        raise ValueError(f"{path}.by: {spec['by']!r} is in {found}, the budget counts {unit}")
    text = str(spec["until"])
    try:
        until = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{path}.until: {text!r} is no date or time: write 2026-12-01 or 2026-12-01T18:00") from None
    until = until.replace(tzinfo=tz) if until.tzinfo is None else until
    if not 1970 < until.year < 9999:
        raise ValueError(f"{path}.until: {text!r} is not within the years 1971 to 9998")
    return Raise(by, int(until.timestamp()) * 1_000_000)


# --- values -----------------------------------------------------------------------------------------------------


def _text(value: Any, path: str) -> str:
    text = str(value)
    if isinstance(value, Mapping | list) or len(text) > (_TEXT_MAX if "note" in path else VALUE_LENGTH_MAX):
        raise ValueError(f"{path}: expected a short text, not {text[:60]!r}")
    return text
