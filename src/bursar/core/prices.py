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
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple, TypeAlias

from .money import NanoUSD, Rate, usd
from .usage import NO_USAGE, UNIT_INDEX, UNITS, Usage, contains
from .values import valueclass

__all__ = [
    "AMOUNT_MAX",
    "BASIS",
    "MODEL_LENGTH_MAX",
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
    "price_row",
    "unpriced",
]

Terms: TypeAlias = tuple[tuple[str, str], ...]
"""What was agreed for one request and changes its price: ``(("service_tier", "flex"),)``. Sorted."""


def _basis(name: str, dimensions: frozenset[str]) -> int:
    if "tokens" in dimensions or "characters" in dimensions:
        return 1_000_000
    if "duration" in dimensions or "machine" in dimensions or "tool_time" in dimensions:
        return 3_600_000
    if "tool_size" in dimensions:
        return 1_000_000
    return 1 if name in ("images", "tool_calls", "tool_units") else 1_000


BASIS: Final[dict[str, int]] = {unit.name: _basis(unit.name, unit.dimensions) for unit in UNITS}
"""How many units a listed price buys: tokens, characters and bytes per million, time per hour, images and tools per
piece, the rest per thousand."""

MODEL_LENGTH_MAX: Final = 1_000
"""A longer name is none: no provider has such a model, and what is remembered per model stays small."""

AMOUNT_MAX: Final = 10**15
"""A million USD in nano-USD. No attempt costs more: beyond it a usage or a price is wrong, and stores count in 64 bits."""

_REQUESTS: Final = UNIT_INDEX["requests"]
# No response states these: they cost only where a price for them exists.
_UNSTATED: Final = frozenset({"requests", "machine_ms"})
_INPUT: Final = UNIT_INDEX["input_tokens"]


@valueclass
class Reading:
    """What the wire read from one response. ``usage`` is None when nothing was stated or it could not be understood.

    ``billed`` is False where the provider refused the request: refusals cost nothing.
    """

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
    billed: bool = True
    parts: tuple[Reading, ...] = ()
    """What the same response was billed for at other models: an advisor, a declined attempt, an image tool."""


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


@valueclass
class Charge:
    """The price of one attempt. ``amount`` is nano-USD, or None with a ``reason``; ``lines`` explain it.

    Where only a fee beside the tokens has no price (a web search), there is no amount, and the lines hold the rest.
    """

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
    """One model of one provider: its standard entries (the last active one applies) and its variants by terms.

    ``since`` is the first date these prices speak for ("" = always); before it the next layer is asked.
    """

    id: str
    source: str
    matches: Callable[[str], bool]
    standard: tuple[PriceEntry, ...]
    variants: tuple[PriceEntry, ...] = ()
    context_window: int | None = None
    output_cap: int | None = None
    since: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ProviderPrices:
    """The models of one provider, in the order they are tried, and whose prices serve for what it resells."""

    id: str
    models: tuple[ModelPrices, ...]
    fallback: tuple[str, ...] = ()


@valueclass
class Multiplier:
    """A factor on every token rate: a surcharge for a place, a negotiated discount. Patterns are globs.

    ``start`` is its first UTC date, ``end`` the first one without it. Of the multipliers of one ``group`` only the
    first that applies counts; those without a group all do.
    """

    provider: str
    model: str
    factor: Decimal
    when: Terms = ()
    start: str = ""
    source: str = ""
    end: str = ""
    group: str = ""

    def names(self, provider: str, model: str) -> bool:
        """Whether it is about this model (in lower case), at whatever time and terms."""
        return fnmatchcase(provider, self.provider) and fnmatchcase(model, self.model)

    def active(self, at: datetime, terms: Terms) -> bool:
        """Whether it is in force at a UTC time under these terms."""
        return (
            all(term in terms for term in self.when)
            and (not self.start or at.date().isoformat() >= self.start)
            and (not self.end or at.date().isoformat() < self.end)
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
    uncovered: tuple[int, ...]
    notes: tuple[str, ...]


_COMPACT_DATE: Final = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
# What providers call their ordinary service: standard rates are what was asked for, no note is needed.
_TERMS_OF_SERVICE: Final = frozenset({"service_tier", "processing", "speed", "inference_geo"})
_ORDINARY: Final = frozenset(
    {"", "default", "standard", "auto", "on_demand", "on-demand", "ondemand", "global", "not_available"}
)


class _Found(NamedTuple):
    """A model by name: in each layer that knows it, whether it is the provider's own there; its multipliers; and whether
    any of its prices depends on the time of day."""

    layers: tuple[tuple[ModelPrices, bool], ...]
    multipliers: tuple[int, ...]
    off_peak: bool


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
        self._models: dict[tuple[str, str], _Found] = {}
        self._cards: dict[tuple[Any, ...], RateCard] = {}
        self._recent: dict[tuple[Any, ...], RateCard | None] = {}

    def providers(self) -> tuple[str, ...]:
        """The ids of every provider with a price."""
        return tuple(dict.fromkeys(name for layer in self._layers for name in layer))

    def models(self, provider: str) -> tuple[ModelPrices, ...]:
        """The models of a provider, over all layers, the deciding layer first."""
        return tuple(model for layer in self._layers if provider in layer for model in layer[provider].models)

    def find(self, provider: str, model: str) -> ModelPrices | None:
        """The model's prices, or None when no layer knows it."""
        found = self._find(provider, model)
        return found.layers[0][0] if found.layers else None

    def multipliers(self, provider: str, model: str) -> tuple[Multiplier, ...]:
        """The factors that this model's token rates may have, at whatever time and terms."""
        return tuple(self._multipliers[index] for index in self._find(provider, model).multipliers)

    def _find(self, provider: str, model: str) -> _Found:
        key = (provider, model)
        if key in self._models:
            return self._models[key]
        text = model.lower()
        layers = self._search(provider, text)
        if not layers:
            dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", text)
            layers = self._search(provider, dashed) if dashed != text else layers
        off_peak = any(entry.daily for prices, _ in layers for entry in (*prices.standard, *prices.variants))
        multipliers = tuple(i for i, m in enumerate(self._multipliers) if m.names(provider, text))
        found = _Found(layers, multipliers, off_peak)
        if len(self._models) < 10_000:  # model names come from strangers: remember them, within bounds
            self._models[key] = found
        return found

    def _search(self, provider: str, text: str) -> tuple[tuple[ModelPrices, bool], ...]:
        found = (_in_layer(layer, provider, text) for layer in self._layers if provider in layer)
        return tuple(one for one in found if one is not None)

    def card(self, provider: str, model: str, at: datetime, terms: Terms = ()) -> RateCard | None:
        """The rate card in force, or None when the model has no price. ``at`` must have a time zone."""
        if len(model) > MODEL_LENGTH_MAX:
            return None
        at = at if at.tzinfo is timezone.utc else at.astimezone(timezone.utc)
        found = self._find(provider, model)
        # Prices change at midnight (UTC) or, where off-peak, within the day: what was found holds until then.
        minute = at.hour * 60 + at.minute if found.off_peak else 0
        asked = (provider, model, terms, at.toordinal(), minute)
        try:
            return self._recent[asked]
        except KeyError:
            pass
        card = self._card(provider, found, at, terms)
        if len(self._recent) >= 1_000:
            self._recent.clear()
        self._recent[asked] = card
        return card

    def _card(self, provider: str, found: _Found, at: datetime, terms: Terms) -> RateCard | None:
        day = at.date().isoformat()
        layer = next((one for one in found.layers if not one[0].since or day >= one[0].since), None)
        if layer is None:
            return None
        prices, own = layer
        active = tuple(i for i, e in enumerate(prices.standard) if e.active(at))
        # A reseller's discounts are its own: another provider's variants do not carry over.
        varied = tuple(i for i, e in enumerate(prices.variants) if own and set(e.when) <= set(terms) and e.active(at))
        times = self._times(found.multipliers, at, terms)
        key = (provider, prices.id, prices.source, active[-1:], varied, times, terms)
        card = self._cards.get(key)
        if card is None:
            card = self._build(provider, prices, active, varied, times, terms)
            if len(self._cards) < 10_000:
                self._cards[key] = card
        return card

    def _times(self, candidates: tuple[int, ...], at: datetime, terms: Terms) -> tuple[int, ...]:
        """The candidates that apply, of each group the first."""
        found: list[int] = []
        groups: set[str] = set()
        for index in candidates:
            multiplier = self._multipliers[index]
            if multiplier.group not in groups and multiplier.active(at, terms):
                found.append(index)
                if multiplier.group:
                    groups.add(multiplier.group)
        return tuple(found)

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
        if standard is not None:
            for unit, tiers in standard.rates.items():
                chosen[unit] = (tiers, price_row(provider, prices, unit, standard))
        used: set[tuple[str, str]] = set()
        overridden: set[str] = set()
        for index in varied:
            variant = prices.variants[index]
            for unit, tiers in variant.rates.items():
                if unit not in overridden:
                    overridden.add(unit)
                    used.update(variant.when)
                    chosen[unit] = (tiers, price_row(provider, prices, unit, variant))
        for index in times:
            multiplier = self._multipliers[index]
            used.update(multiplier.when)
            chosen = {unit: _multiplied(unit, *value, multiplier) for unit, value in chosen.items()}
        notes = tuple(
            f"no price of its own for {term}={value}: standard rates used"
            for term, value in terms
            if (term, value) not in used and not (term in _TERMS_OF_SERVICE and value in _ORDINARY)
        )
        rows = _rows(chosen)
        return RateCard(provider, prices.id, self.version, rows, _uncovered(rows), notes)


def _in_layer(layer: Mapping[str, ProviderPrices], provider: str, text: str) -> tuple[ModelPrices, bool] | None:
    listed = layer[provider]
    for model in listed.models:
        if model.matches(text):
            return model, True
    for other in listed.fallback:
        for model in layer[other].models if other in layer else ():
            if model.matches(text):
                return model, False
    return None


def price_row(provider: str, prices: ModelPrices, unit: str, entry: PriceEntry) -> str:
    """The name of a price row, as charge lines carry it; a tier and multipliers add to it."""
    parts = [f"{prices.source}:{provider}/{prices.id}/{unit}"]
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
    why = [f"{term}={value}" for term, value in multiplier.when]
    if multiplier.group:
        why.append(multiplier.source or multiplier.group)
    name = f"{row};x{multiplier.factor.normalize():f}" + (f"[{','.join(why)}]" if why else "")
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


def _uncovered(rows: tuple[RateRow, ...]) -> tuple[int, ...]:
    """The units these rows cannot charge. A unit they can has exactly one most specific row, so that nothing is charged twice.

    A unit under two rows of which neither contains the other (cached audio, where cached and audio tokens have prices
    but cached audio has none) could only be charged by both or by a guess.
    """
    uncovered: list[int] = []
    for index, unit in enumerate(UNITS):
        above = [UNITS[row.unit] for row in rows if contains(UNITS[row.unit], unit)]
        nearest = max(above, key=lambda other: len(other.dimensions), default=None)
        charged = nearest is not None and all(contains(other, nearest) for other in above)
        if not charged and unit.name not in _UNSTATED:
            uncovered.append(index)
    return tuple(uncovered)


# --- the charge -------------------------------------------------------------------------------------------------


def unpriced(reading: Reading, reason: str, *, provider: str, model: str, price_book: str) -> Charge:
    """A charge whose amount is not known, unless the provider itself stated it."""
    if reading.reported is not None:
        line = Line("provider_reported", 1, None, f"reported:{provider}", reading.reported)
        return Charge(
            reading.reported,
            None,
            reading.usage,
            (line,),
            provider,
            model,
            price_book,
            reading.estimated,
            (reason,),
            reading.reported,
        )
    return Charge(None, reason, reading.usage, (), provider, model, price_book, reading.estimated)


def charge(reading: Reading, book: PriceBook, *, provider: str, model: str, at: datetime) -> Charge:
    """Price a reading. ``at`` must have a time zone.

    ``model`` is the one that was asked for: it counts when the response names none, or only adds to its name
    (``gpt-5`` answered by ``gpt-5-2025-08-07``). What another model than the asked one costs, the asked one does not say.
    What comes to more than ``AMOUNT_MAX`` is not believed, and has no amount.
    """
    found = (_joined if reading.parts else _single)(reading, book, provider, model, at)
    for cost in (found.amount or 0, *[line.cost for line in found.lines]):
        if abs(cost) > AMOUNT_MAX:
            reason = f"{usd(cost)} USD for one attempt is not believed, the most is {usd(AMOUNT_MAX)}"
            return replace(found, amount=None, reason=reason, lines=(), reported=None)
    return found


def _single(reading: Reading, book: PriceBook, provider: str, model: str, at: datetime) -> Charge:
    name = reading.model or model
    if not reading.billed:
        notes = ("the provider refused the request: not billed",)
        return Charge(NanoUSD(0), None, NO_USAGE, (), provider, name, book.version, notes=notes)
    if reading.usage is None:
        reason = reading.reason or "the response states no usage"
        return unpriced(reading, reason, provider=provider, model=name, price_book=book.version)
    card = book.card(provider, name, at, reading.terms) if name else None
    if card is None and model and model != name and name.startswith(model):
        card = book.card(provider, model, at, reading.terms)
    if card is None:
        known = provider in book.providers()
        reason = f"no price for model {name!r} of {provider!r}" if known else f"no prices for provider {provider!r}"
        return unpriced(reading, reason, provider=provider, model=name, price_book=book.version)
    return _priced(reading, reading.usage, card, name)


def _joined(reading: Reading, book: PriceBook, provider: str, model: str, at: datetime) -> Charge:
    """The charge of a reading with parts: every part at its own model, all of them or none."""
    main = charge(replace(reading, parts=(), reported=None), book, provider=provider, model=model, at=at)
    charges = [main, *(charge(part, book, provider=provider, model="", at=at) for part in reading.parts)]
    usages = [each.usage for each in charges if each.usage is not None]
    whole = replace(reading, usage=Usage(*map(sum, zip(*usages, strict=True))) if usages else None)
    lines = tuple(line for each in charges for line in each.lines)
    notes = tuple(dict.fromkeys(note for each in charges for note in each.notes))
    reason = next((each.reason for each in charges if each.amount is None), None)
    if reason is not None:
        return unpriced(whole, reason, provider=provider, model=main.model, price_book=book.version)
    amount = NanoUSD(sum(line.cost for line in lines))
    if reading.reported is not None and reading.reported != amount:
        difference = NanoUSD(reading.reported - amount)
        lines = (*lines, Line("provider_reported", 1, None, f"reported:{provider}", difference))
        amount = reading.reported
    return replace(main, amount=amount, usage=whole.usage, lines=lines, notes=notes, reported=reading.reported)


def _priced(reading: Reading, usage: Usage, card: RateCard, model: str) -> Charge:
    missing = _missing(usage, card, model) if any(map(usage.__getitem__, card.uncovered)) else None
    if missing is not None and missing[1]:
        return unpriced(reading, missing[0], provider=card.provider, model=model, price_book=card.price_book)
    lines: list[Line] = []
    counts: list[int] = []
    total = 0
    for unit, tiers, price_row, inner in card.rows:
        # ``requests`` is the one unit a response never states: every attempt is at least one.
        count = own = usage[unit] if unit != _REQUESTS else max(usage[_REQUESTS], 1)
        for position in inner:
            own -= counts[position]
        if own < 0:
            reason = f"usage contradicts itself: {UNITS[unit].name} is {count}, its parts are {count - own}"
            return unpriced(reading, reason, provider=card.provider, model=model, price_book=card.price_book)
        counts.append(own)
        if own:
            start, rate = tiers[0] if len(tiers) == 1 else _tier(tiers, usage[_INPUT])
            cost = rate.cost(own)
            total += cost
            row = price_row if not start else f"{price_row};over={start}"
            lines.append(Line(UNITS[unit].name, own, rate, row, cost))
    if missing is not None:
        whole = unpriced(reading, missing[0], provider=card.provider, model=model, price_book=card.price_book)
        return whole if whole.lines else replace(whole, lines=tuple(lines))
    amount = NanoUSD(total)
    if reading.reported is not None and reading.reported != amount:
        difference = NanoUSD(reading.reported - amount)
        lines.append(Line("provider_reported", 1, None, f"reported:{card.provider}", difference))
        amount = reading.reported
    return Charge(
        amount,
        None,
        usage,
        tuple(lines),
        card.provider,
        model,
        card.price_book,
        reading.estimated,
        card.notes,
        reading.reported,
    )


def _missing(usage: Usage, card: RateCard, model: str) -> tuple[str, bool]:
    """Why a usage cannot be priced whole, and whether its other lines mean nothing without the missing one."""
    units = [UNITS[index] for index in card.uncovered if usage[index]]
    # What the other tokens cost depends on those without a price.
    worst = next((unit for unit in units if "tokens" in unit.dimensions), units[0])
    reason = f"no price for {usage[UNIT_INDEX[worst.name]]} {worst.name} of {model!r} at {card.provider!r}"
    return reason, "tokens" in worst.dimensions


def _tier(tiers: tuple[tuple[int, Rate], ...], input_tokens: int) -> tuple[int, Rate]:
    return next((tier for tier in reversed(tiers) if input_tokens > tier[0]), tiers[0])
