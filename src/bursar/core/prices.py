"""Prices, and the charge of a usage.

Rule 1: charge = usage x price, line by line; each line is rounded once, half up, to a nano-USD.
Rule 2: a price is dated and never overwritten. The entry in force at the time of the call applies.
Rule 3: a count is charged once, at its most specific price: where a model prices cache reads, they are taken out of
        the input; where it does not, they are charged as input.
Rule 4: a tier is a cliff: past its start in total input tokens, all tokens of the request cost the tier's rate.
Rule 5: unknown is never zero. No model, no price for a unit, or usage that contradicts itself: the amount is None
        and ``reason`` says why.
Rule 6: what a provider itself says it charged (``Reading.reported``) is the amount; our lines stay beside it and a
        last line holds the difference.
Rule 7: every line names its price row, and a row's name is enough to find it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple, TypeAlias

from .money import NanoUSD, Rate, usd
from .usage import UNIT_INDEX, UNITS, Usage, contains

__all__ = [
    "BASIS",
    "Charge",
    "Line",
    "ModelPrices",
    "Multiplier",
    "PriceBook",
    "PriceEntry",
    "ProviderPrices",
    "RateCard",
    "RateRow",
    "Reading",
    "Terms",
    "charge",
    "unpriced",
]

Terms: TypeAlias = tuple[tuple[str, str], ...]
"""What was agreed for one request and changes its price: ``(("service_tier", "flex"),)``. Sorted."""


def _basis(name: str, dimensions: frozenset[str]) -> int:
    if "tokens" in dimensions or "characters" in dimensions:
        return 1_000_000
    if "duration" in dimensions or "machine" in dimensions:
        return 3_600_000
    return 1 if name == "images" else 1_000


BASIS: Final[dict[str, int]] = {unit.name: _basis(unit.name, unit.dimensions) for unit in UNITS}
"""How many units a listed price buys: tokens and characters per million, time per hour, the rest per thousand."""

_REQUESTS: Final = UNIT_INDEX["requests"]
_INPUT: Final = UNIT_INDEX["input_tokens"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the wire read from one response. ``usage`` is None when nothing was stated or it could not be understood."""

    usage: Usage | None = None
    reason: str = ""
    model: str = ""
    response_id: str = ""
    terms: Terms = ()
    reported: NanoUSD | None = None
    estimated: bool = False
    finish: str = ""
    error: str = ""
    tools: tuple[str, ...] = ()


class Line(NamedTuple):
    """One line of a charge: ``units`` of ``unit`` at ``rate``, from ``price_row``."""

    unit: str
    units: int
    rate: Rate | None
    price_row: str
    cost: NanoUSD

    @property
    def cost_usd(self) -> Decimal:
        return usd(self.cost)

    @property
    def rate_usd(self) -> Decimal | None:
        """The rate in USD for ``BASIS[unit]`` units (a million tokens, a thousand searches, an hour)."""
        return None if self.rate is None else self.rate.usd_per(BASIS[self.unit])


@dataclass(frozen=True, slots=True)
class Charge:
    """The price of one attempt. ``amount`` is nano-USD, or None with a ``reason``; ``lines`` explain it."""

    amount: NanoUSD | None
    reason: str | None
    usage: Usage | None
    lines: tuple[Line, ...] = ()
    provider: str = ""
    model: str = ""
    price_book: str = ""
    estimated: bool = False
    notes: tuple[str, ...] = ()
    reported: NanoUSD | None = None

    @property
    def cost_usd(self) -> Decimal | None:
        """The exact cost in USD; None when it is not known, and then ``reason`` says why."""
        return None if self.amount is None else usd(self.amount)

    @property
    def price_rows(self) -> tuple[str, ...]:
        """The price rows the lines used, in order."""
        return tuple(dict.fromkeys(line.price_row for line in self.lines))


# --- the book ---------------------------------------------------------------------------------------------------


class PriceEntry(NamedTuple):
    """Rates that hold from a date, on some hours of the day, under some terms.

    ``rates`` maps a unit to tiers ``((0, rate), (200_000, rate), ...)``. ``start`` is a UTC date ("" = always);
    ``daily`` is a UTC interval in minutes of the day, which may cross midnight; ``when`` are the terms it needs.
    """

    start: str
    daily: tuple[int, int] | None
    when: Terms
    rates: Mapping[str, tuple[tuple[int, Rate], ...]]

    def active(self, at: datetime) -> bool:
        if self.start and at.date().isoformat() < self.start:
            return False
        if self.daily is None:
            return True
        minute, (begin, end) = at.hour * 60 + at.minute, self.daily
        return begin <= minute < end if begin <= end else minute >= begin or minute < end


@dataclass(frozen=True, slots=True, eq=False)
class ModelPrices:
    """One model of one provider: its standard entries (the last active one applies) and its variants by terms."""

    id: str
    source: str
    matches: Callable[[str], bool]
    standard: tuple[PriceEntry, ...]
    variants: tuple[PriceEntry, ...] = ()
    context_window: int | None = None
    output_cap: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ProviderPrices:
    """The models of one provider, in the order they are tried, and whose prices serve for what it resells."""

    id: str
    models: tuple[ModelPrices, ...]
    fallback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Multiplier:
    """A factor on every token rate: a surcharge for a place, a negotiated discount. Patterns are globs."""

    provider: str
    model: str
    factor: Decimal
    when: Terms = ()
    start: str = ""
    source: str = ""

    def applies(self, provider: str, model: str, at: datetime, terms: Terms) -> bool:
        return (
            fnmatchcase(provider, self.provider)
            and fnmatchcase(model, self.model)
            and set(self.when) <= set(terms)
            and (not self.start or at.date().isoformat() >= self.start)
        )


class RateRow(NamedTuple):
    """One priced unit of a rate card. ``inner`` are the positions of the rows whose counts it contains."""

    unit: int
    tiers: tuple[tuple[int, Rate], ...]
    price_row: str
    inner: tuple[int, ...]


class RateCard(NamedTuple):
    """Everything needed to price a usage of one model at one time under one set of terms."""

    provider: str
    model: str
    price_book: str
    rows: tuple[RateRow, ...]
    covered: frozenset[int]
    notes: tuple[str, ...]


_COMPACT_DATE: Final = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_DATED_TERMS: Final = frozenset({"service_tier", "processing", "speed"})
# What providers call their ordinary service; asking for it changes nothing.
_ORDINARY: Final = frozenset({"default", "standard", "auto", "on_demand", "on-demand"})


class PriceBook:
    """Prices in layers, the first that knows the model wins: contract, then custom, then the pinned snapshot.

    Immutable but for its memory of what it has resolved; a change of prices is a new book.
    """

    def __init__(
        self,
        layers: Sequence[Mapping[str, ProviderPrices]],
        *,
        version: str,
        multipliers: Sequence[Multiplier] = (),
    ) -> None:
        self.version = version
        self._layers = tuple(layers)
        self._multipliers = tuple(multipliers)
        self._models: dict[tuple[str, str], tuple[ModelPrices, bool] | None] = {}
        self._cards: dict[tuple[Any, ...], RateCard] = {}

    def providers(self) -> tuple[str, ...]:
        """The ids of every provider with a price."""
        return tuple(dict.fromkeys(name for layer in self._layers for name in layer))

    def models(self, provider: str) -> tuple[ModelPrices, ...]:
        """The models of a provider, over all layers, the deciding layer first."""
        return tuple(model for layer in self._layers if provider in layer for model in layer[provider].models)

    def find(self, provider: str, model: str) -> ModelPrices | None:
        """The model's prices, or None when no layer knows it."""
        found = self._find(provider, model)
        return found[0] if found else None

    def _find(self, provider: str, model: str) -> tuple[ModelPrices, bool] | None:
        key = (provider, model)
        if key in self._models:
            return self._models[key]
        text = model.lower()
        found = self._search(provider, text)
        if found is None:
            dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", text)
            found = self._search(provider, dashed) if dashed != text else None
        if len(self._models) < 10_000:  # model names come from clients: remember them, within bounds
            self._models[key] = found
        return found

    def _search(self, provider: str, text: str) -> tuple[ModelPrices, bool] | None:
        for layer in self._layers:
            listed = layer.get(provider)
            if listed is None:
                continue
            for model in listed.models:
                if model.matches(text):
                    return model, True
            for other in listed.fallback:
                for model in layer[other].models if other in layer else ():
                    if model.matches(text):
                        return model, False
        return None

    def card(self, provider: str, model: str, at: datetime, terms: Terms = ()) -> RateCard | None:
        """The rate card in force, or None when the model has no price. ``at`` must have a time zone."""
        found = self._find(provider, model)
        if found is None:
            return None
        prices, own = found
        at = at.astimezone(timezone.utc)
        terms = tuple(t for t in terms if t[1] not in _ORDINARY or t[0] not in _DATED_TERMS)
        active = tuple(i for i, e in enumerate(prices.standard) if e.active(at))
        # A reseller's discounts are its own: another provider's variants do not carry over.
        varied = tuple(
            i for i, e in enumerate(prices.variants) if own and set(e.when) <= set(terms) and e.active(at)
        )
        times = tuple(
            i for i, m in enumerate(self._multipliers) if m.applies(provider, model.lower(), at, terms)
        )
        key = (provider, prices.id, prices.source, active[-1:], varied, times, terms)
        card = self._cards.get(key)
        if card is None:
            card = self._build(provider, prices, active, varied, times, terms)
            if len(self._cards) < 10_000:
                self._cards[key] = card
        return card

    def _build(
        self,
        provider: str,
        prices: ModelPrices,
        active: tuple[int, ...],
        varied: tuple[int, ...],
        times: tuple[int, ...],
        terms: Terms,
    ) -> RateCard:
        standard = prices.standard[active[-1] if active else 0] if prices.standard else None
        chosen: dict[str, tuple[tuple[tuple[int, Rate], ...], str]] = {}
        name = f"{prices.source}:{provider}/{prices.id}"
        if standard is not None:
            for unit, tiers in standard.rates.items():
                chosen[unit] = (tiers, _row_name(name, unit, standard))
        used: set[tuple[str, str]] = set()
        overridden: set[str] = set()
        for index in varied:
            variant = prices.variants[index]
            for unit, tiers in variant.rates.items():
                if unit not in overridden:
                    overridden.add(unit)
                    used.update(variant.when)
                    chosen[unit] = (tiers, _row_name(name, unit, variant))
        for index in times:
            multiplier = self._multipliers[index]
            used.update(multiplier.when)
            chosen = {unit: _multiplied(unit, *value, multiplier) for unit, value in chosen.items()}
        notes = tuple(
            f"no price of its own for {term}={value}: standard rates used"
            for term, value in terms
            if (term, value) not in used
        )
        rows = _rows(chosen)
        covered = frozenset(
            index for index, unit in enumerate(UNITS) if any(contains(UNITS[row.unit], unit) for row in rows)
        )
        return RateCard(provider, prices.id, self.version, rows, covered, notes)


def _row_name(model: str, unit: str, entry: PriceEntry) -> str:
    parts = [f"{model}/{unit}"]
    if entry.start:
        parts.append(f"from={entry.start}")
    if entry.daily:
        parts.append("daily=" + "-".join(f"{m // 60:02d}:{m % 60:02d}Z" for m in entry.daily))
    parts.extend(f"{term}={value}" for term, value in entry.when)
    return ";".join(parts)


def _multiplied(
    unit: str, tiers: tuple[tuple[int, Rate], ...], row: str, multiplier: Multiplier
) -> tuple[tuple[tuple[int, Rate], ...], str]:
    if "tokens" not in UNITS[UNIT_INDEX[unit]].dimensions:
        return tiers, row
    when = ",".join(f"{term}={value}" for term, value in multiplier.when)
    name = f"{row};x{multiplier.factor.normalize():f}" + (f"[{when}]" if when else "")
    return tuple((start, rate.times(multiplier.factor)) for start, rate in tiers), name


def _rows(chosen: Mapping[str, tuple[tuple[tuple[int, Rate], ...], str]]) -> tuple[RateRow, ...]:
    order = sorted(chosen, key=lambda unit: (-len(UNITS[UNIT_INDEX[unit]].dimensions), UNIT_INDEX[unit]))
    rows: list[RateRow] = []
    for unit in order:
        index = UNIT_INDEX[unit]
        inner = tuple(i for i, row in enumerate(rows) if contains(UNITS[index], UNITS[row.unit]))
        tiers, price_row = chosen[unit]
        rows.append(RateRow(index, tiers, price_row, inner))
    return tuple(rows)


# --- the charge -------------------------------------------------------------------------------------------------


def unpriced(reading: Reading, reason: str, *, provider: str, model: str, price_book: str) -> Charge:
    """A charge whose amount is not known, unless the provider itself stated it."""
    if reading.reported is not None:
        line = Line("provider_reported", 1, None, f"reported:{provider}", reading.reported)
        return Charge(
            reading.reported, None, reading.usage, (line,), provider, model, price_book,
            reading.estimated, (reason,), reading.reported,
        )
    return Charge(None, reason, reading.usage, (), provider, model, price_book, reading.estimated)


def charge(reading: Reading, book: PriceBook, *, provider: str, model: str, at: datetime) -> Charge:
    """Price a reading. ``model`` is used when the response names none. ``at`` must have a time zone."""
    name = reading.model or model
    if reading.usage is None:
        reason = reading.reason or "the response states no usage"
        return unpriced(reading, reason, provider=provider, model=name, price_book=book.version)
    card = book.card(provider, name, at, reading.terms) if name else None
    if card is None and model and model != name:
        card = book.card(provider, model, at, reading.terms)
    if card is None:
        known = provider in book.providers()
        reason = f"no price for model {name!r} of {provider!r}" if known else f"no prices for provider {provider!r}"
        return unpriced(reading, reason, provider=provider, model=name, price_book=book.version)
    return _priced(reading, reading.usage, card, name)


def _priced(reading: Reading, usage: Usage, card: RateCard, model: str) -> Charge:
    for index, count in enumerate(usage):
        if count and index not in card.covered and index != _REQUESTS:
            reason = f"no price for {count} {UNITS[index].name} of {model!r} at {card.provider!r}"
            return unpriced(reading, reason, provider=card.provider, model=model, price_book=card.price_book)
    lines: list[Line] = []
    counts: list[int] = []
    total = 0
    for row in card.rows:
        # ``requests`` is the one unit a response never states: every attempt is at least one.
        count = usage[row.unit] if row.unit != _REQUESTS else max(usage[_REQUESTS], 1)
        own = count - sum(counts[i] for i in row.inner)
        if own < 0:
            reason = f"usage contradicts itself: {UNITS[row.unit].name} is {count}, its parts are {count - own}"
            return unpriced(reading, reason, provider=card.provider, model=model, price_book=card.price_book)
        counts.append(own)
        if own:
            rate, price_row = _tier(row, usage[_INPUT])
            cost = rate.cost(own)
            total += cost
            lines.append(Line(UNITS[row.unit].name, own, rate, price_row, cost))
    amount = NanoUSD(total)
    if reading.reported is not None and reading.reported != amount:
        difference = NanoUSD(reading.reported - amount)
        lines.append(Line("provider_reported", 1, None, f"reported:{card.provider}", difference))
        amount = reading.reported
    return Charge(
        amount, None, usage, tuple(lines), card.provider, model, card.price_book,
        reading.estimated, card.notes, reading.reported,
    )


def _tier(row: RateRow, input_tokens: int) -> tuple[Rate, str]:
    start, rate = row.tiers[0]
    for tier in row.tiers[1:]:
        if input_tokens > tier[0]:
            start, rate = tier
    return rate, row.price_row if not start else f"{row.price_row};over={start}"


