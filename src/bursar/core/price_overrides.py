"""The ``prices:`` section of a configuration: contract discounts, and models at the user's own prices.

Rule 1: what cannot be read exactly is refused; the error names the field and the value.
Rule 2: a model stated here replaces the listed prices of that name whole, from its first date on.
Rule 3: a discount is a factor on every token rate. The first listed one that applies counts, they do not add up.
Rule 4: free is stated, as 0. A price that is left out is unknown, and a call that needs it is unpriced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from fnmatch import translate
from typing import Any, Final, cast

from .money import parse_decimal
from .price_fields import Tiers, clock_minutes, day_text, known_keys, parse_rate
from .prices import BASIS, ModelPrices, Multiplier, PriceEntry, ProviderPrices, Terms

__all__ = ["overrides_layer"]

_SECTIONS: Final = frozenset({"discounts", "models"})
_DISCOUNT_KEYS: Final = frozenset({"provider", "model", "percent", "from", "until", "when", "source"})
_MODEL_KEYS: Final = frozenset({"provider", "model", "from", "daily", "when", "source", "context_window", "output_cap"})
# A float shows what was typed only up to this many digits; past it, digits may have been lost.
_FLOAT_DIGITS: Final = 15


def overrides_layer(spec: Mapping[str, Any]) -> tuple[Mapping[str, ProviderPrices], Sequence[Multiplier]]:
    """The price layer and the discounts of a ``prices:`` section, for ``adapters.prices_file.load_book``.

    Raises ValueError naming the field and the value.
    """
    known_keys(spec, _SECTIONS, "prices")
    discounts = [_discount(item, where) for item, where in _items(spec, "discounts")]
    stated = [_stated(item, where) for item, where in _items(spec, "models")]
    return _layer(stated), _without_overlap(discounts)


# --- discounts --------------------------------------------------------------------------------------------------


def _discount(item: Mapping[str, Any], where: str) -> tuple[Multiplier, str]:
    known_keys(item, _DISCOUNT_KEYS, where)
    percent = parse_decimal(_number(item.get("percent"), f"{where}.percent"))
    if not 0 < percent <= 100:
        raise ValueError(f"{where}.percent: {percent} is not above 0 and at most 100")
    start, end = _day(item, "from", where), _day(item, "until", where)
    if start and end and end <= start:
        raise ValueError(f"{where}.until: {end} is not after from: {start}")
    return Multiplier(
        _text(item, "provider", where),
        _text(item, "model", where, "*").lower(),
        (100 - percent) / Decimal(100),
        _terms(item, where),
        start,
        _text(item, "source", where, "discount"),
        end,
        "discount",
    ), where


def _without_overlap(discounts: list[tuple[Multiplier, str]]) -> tuple[Multiplier, ...]:
    """The discounts, each ending where the next one for the same models begins."""
    found: list[Multiplier] = []
    for discount, where in discounts:
        same = [d for d, _ in discounts if _about(d) == _about(discount) and d is not discount]
        if any(d.start == discount.start for d in same):
            raise ValueError(f"{where}.from: {discount.start or 'always'} is stated twice for these models")
        following = min((d.start for d in same if d.start > discount.start), default="")
        if following and discount.end and discount.end > following:
            raise ValueError(f"{where}.until: {discount.end} overlaps the discount for these models from {following}")
        found.append(replace(discount, end=discount.end or following))
    return tuple(found)


def _about(discount: Multiplier) -> tuple[str, str, Terms]:
    return discount.provider, discount.model, discount.when


# --- models -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stated:
    provider: str
    model: str
    source: str
    entry: PriceEntry
    context_window: int | None
    output_cap: int | None
    where: str


def _stated(item: Mapping[str, Any], where: str) -> _Stated:
    rates: dict[str, Tiers] = {}
    for key, value in item.items():
        if key in _MODEL_KEYS:
            continue
        unit = _unit(key, where)
        if unit in rates:
            raise ValueError(f"{where}.{key}: {unit} has two prices")
        rates.update({unit: parse_rate(unit, _exact(value, f"{where}.{key}"), where)})
    if "machine_ms" in rates and not any(unit.endswith("_tokens") for unit in rates):
        # Whoever pays for the machine pays nothing for the tokens: said here, so that they are priced, at 0.
        rates |= {unit: parse_rate(unit, "0", where) for unit in ("input_tokens", "output_tokens")}
    if not rates:
        raise ValueError(f"{where}: no price is given; for a free model write input: 0 and output: 0")
    daily = item.get("daily")
    return _Stated(
        _text(item, "provider", where),
        _text(item, "model", where).lower(),
        _text(item, "source", where, ""),
        PriceEntry(
            _day(item, "from", where),
            None if daily is None else clock_minutes(daily, f"{where}.daily"),
            _terms(item, where),
            rates,
        ),
        _count(item, "context_window", where),
        _count(item, "output_cap", where),
        where,
    )


def _unit(key: str, where: str) -> str:
    for unit in (key, f"{key}_tokens", f"{key.removesuffix('_per_hour')}_ms" if key.endswith("_per_hour") else ""):
        if unit in BASIS:
            return unit
    raise ValueError(
        f"{where}: unknown key {key!r}; known are {', '.join(sorted(_MODEL_KEYS))}, input, output, cache_read, "
        f"cache_write, cache_write_1h, machine_per_hour, and the units {', '.join(BASIS)}"
    )


def _layer(stated: list[_Stated]) -> dict[str, ProviderPrices]:
    models: dict[tuple[str, str], list[_Stated]] = {}
    for one in stated:
        models.setdefault((one.provider, one.model), []).append(one)
    layer: dict[str, list[ModelPrices]] = {}
    for (provider, _), group in models.items():
        layer.setdefault(provider, []).append(_model(group))
    return {provider: ProviderPrices(provider, tuple(found)) for provider, found in layer.items()}


def _model(group: list[_Stated]) -> ModelPrices:
    first = group[0]
    _check_overlap(group)
    # The last active standard entry applies: dates ascend, and on one date the hours come after the whole day.
    standard = sorted((s for s in group if not s.entry.when), key=_order)
    if not standard or standard[0].entry.daily is not None:
        raise ValueError(
            f"{first.where}: {first.model!r} has prices only for some hours or terms; add one with neither"
            " 'daily' nor 'when'" + (", no later than them" if standard else "")
        )
    # Of the variants the first active one applies: the other way around.
    variants = sorted((s for s in group if s.entry.when), key=_order, reverse=True)
    pattern = re.compile(translate(first.model))
    return ModelPrices(
        first.model,
        next((s.source for s in group if s.source), "custom"),
        lambda name: pattern.match(name) is not None,
        tuple(s.entry for s in standard),
        tuple(s.entry for s in variants),
        next((s.context_window for s in group if s.context_window), None),
        next((s.output_cap for s in group if s.output_cap), None),
        standard[0].entry.start,
    )


def _order(stated: _Stated) -> tuple[str, bool]:
    return stated.entry.start, stated.entry.daily is not None


def _check_overlap(group: list[_Stated]) -> None:
    for index, one in enumerate(group):
        for other in group[:index]:
            if one.entry.when != other.entry.when or one.entry.start != other.entry.start:
                continue
            if one.entry.daily is None and other.entry.daily is None:
                raise ValueError(
                    f"{one.where}.from: {one.entry.start or 'always'} is stated twice for {one.model!r}:"
                    f" see {other.where}"
                )
            if one.entry.daily and other.entry.daily and _minutes(one.entry.daily) & _minutes(other.entry.daily):
                raise ValueError(f"{one.where}.daily: these hours overlap those of {other.where}")


def _minutes(daily: tuple[int, int]) -> set[int]:
    begin, end = daily
    return set(range(begin, end)) if begin < end else set(range(begin, 1440)) | set(range(end))


# --- fields -----------------------------------------------------------------------------------------------------


def _items(spec: Mapping[str, Any], field: str) -> list[tuple[Mapping[str, Any], str]]:
    raw: Any = spec.get(field)
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise ValueError(f"prices.{field}: {raw!r} is not a list")
    found: list[tuple[Mapping[str, Any], str]] = []
    for number, item in enumerate(cast("list[Any]", raw)):
        where = f"prices.{field}[{number}]"
        if not isinstance(item, Mapping):
            raise ValueError(f"{where}: {item!r} is not a mapping")
        found.append((cast("Mapping[str, Any]", item), where))
    return found


def _text(raw: Mapping[str, Any], field: str, where: str, default: str | None = None) -> str:
    value = raw.get(field, default)
    if not isinstance(value, str) or (default is None and not value):
        raise ValueError(f"{where}.{field}: " + ("is missing" if value is None else f"{value!r} is not text"))
    return value


def _count(raw: Mapping[str, Any], field: str, where: str) -> int | None:
    value = raw.get(field)
    if value is None or (type(value) is int and value > 0):
        return value
    raise ValueError(f"{where}.{field}: {value!r} is not a whole number above 0")


def _day(raw: Mapping[str, Any], field: str, where: str) -> str:
    value = raw.get(field)
    if value is None:
        return ""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = value.isoformat()
    return day_text(value, f"{where}.{field}")


def _terms(raw: Mapping[str, Any], where: str) -> Terms:
    value: Any = raw.get("when")
    if value is None:
        return ()
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{where}.when: {value!r} is not a mapping of terms, such as service_tier: flex")
    for term, wanted in cast("Mapping[Any, Any]", value).items():
        if not isinstance(term, str) or not isinstance(wanted, str):
            raise ValueError(f"{where}.when: {term!r}: {wanted!r} is not text")
    return tuple(sorted(cast("Mapping[str, str]", value).items()))


def _exact(value: object, where: str) -> object:
    """A price as ``parse_rate`` takes it: every number as the decimal text that was typed."""
    if isinstance(value, Mapping):
        raw = dict(cast("Mapping[str, Any]", value))
        if "base" in raw:
            raw["base"] = _number(raw["base"], f"{where}.base")
        steps: Any = raw.get("tiers")
        if isinstance(steps, list):
            raw["tiers"] = [_step(step, f"{where}.tiers") for step in cast("list[Any]", steps)]
        return raw
    return _number(value, where)


def _step(step: Any, where: str) -> Any:
    if isinstance(step, list) and len(cast("list[Any]", step)) == 2:
        start, price = cast("list[Any]", step)
        return [start, _number(price, where)]
    return cast("Any", step)


def _number(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        digits = Decimal(repr(value))
        if not digits.is_finite() or len(digits.as_tuple().digits) > _FLOAT_DIGITS:
            raise ValueError(f"{where}: {value!r} may have lost digits; write it in quotes")
        return f"{digits:f}"
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{where}: {value!r} is not a number")
    return f"{Decimal(value):f}"
