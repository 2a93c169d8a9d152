"""What may happen to a call, decided before any money moves.

Rule 1: the estimate is the charge that is booked if the attempt is never heard of again; it is marked estimated. It uses
        what the request says: its size, and its own cap on the output.
Rule 2: the worst case is the most a request can cost: every input token at the dearest class it can land in, every output
        token it allows at the dearest rate, every fee it can cause. What is held can only be too much.
Rule 3: what a request leaves open has a bound all the same: ``OUTPUT_TOKENS_MAX`` tokens, the window of the model.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final, NamedTuple

from .money import NanoUSD, Rate
from .prices import Charge, PriceBook, RateCard, Reading, Terms, charge
from .usage import UNIT_INDEX, UNITS, Usage
from .values import valueclass

__all__ = [
    "OUTPUT_TOKENS_ASSUMED",
    "OUTPUT_TOKENS_MAX",
    "SEARCHES_ASSUMED",
    "Bounds",
    "WorstCase",
    "estimate",
    "worst_case",
]

OUTPUT_TOKENS_ASSUMED: Final = 1_000
"""For a request without a cap, and the most for one with. Of 28,185 production answers half had at most 90 tokens and
99 % at most 581 (Azure LLM inference trace 2023, CC-BY-4.0)."""

OUTPUT_TOKENS_MAX: Final = 131_072
"""The most output tokens of a request without a cap: the largest cap that a provider documents for a model is 128k."""

SEARCHES_ASSUMED: Final = 10
"""Searches of the provider's own that are held for where the request sets no limit to them: the one cost without a bound."""

_CHARACTERS_PER_TOKEN: Final = 4
_OUTPUT_UNITS: Final = ("output_tokens", "reasoning_tokens", "citation_tokens")
_FEES: Final = frozenset({"web_searches", "social_searches", "file_searches", "code_executions"})


@valueclass
class Bounds:
    """The most a request can use. ``output_tokens`` is for each of its ``choices``; ``writes_cache`` names the units it can
    be billed for beside plain input, ``modalities`` what is in it beside text. ``searches`` and ``machine_ms`` are fees.
    ``cached_tokens`` is the part of the input that a prompt cache should still hold."""

    input_tokens: int
    output_tokens: int
    choices: int = 1
    writes_cache: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    searches: int = 0
    machine_ms: int = 0
    cached_tokens: int = 0


class WorstCase(NamedTuple):
    """``input`` is everything but the output, None without a price; ``output`` nano-USD per token of all choices.

    ``likely_input`` is the input if the prompt cache holds what it should, None where that is no less.
    """

    input: NanoUSD | None
    output: Rate
    likely_input: NanoUSD | None = None


def estimate(
    book: PriceBook, *, provider: str, model: str, at: datetime, terms: Terms, input_tokens: int, output_cap: int | None
) -> Charge:
    """The estimated charge of a request that has not been sent. ``output_cap`` None: the request has none."""
    output = OUTPUT_TOKENS_ASSUMED if output_cap is None else min(output_cap, OUTPUT_TOKENS_ASSUMED)
    usage = Usage(input_tokens=input_tokens, output_tokens=output)
    return charge(Reading(usage, model=model, terms=terms, estimated=True), book, provider=provider, model=model, at=at)


def worst_case(book: PriceBook, *, provider: str, model: str, at: datetime, terms: Terms, bounds: Bounds) -> WorstCase:
    """The most that a request within these bounds costs."""
    card = book.card(provider, model, at, terms) if model else None
    if card is None or _has_no_price(card, bounds):
        return WorstCase(None, Rate(0, 1))
    rates = _rates(card, bounds)
    tokens = bounds.input_tokens
    total = rates.rounding + _most(rates.input, tokens) + _most(rates.request, 1)
    if rates.machine.numerator:
        total += _most(rates.machine, bounds.machine_ms)
    if rates.characters.numerator:
        total += _most(rates.characters, tokens * _CHARACTERS_PER_TOKEN)
    if bounds.searches:
        total += _most(rates.fee, bounds.searches)
    output = (
        rates.output if bounds.choices == 1 else Rate(rates.output.numerator * bounds.choices, rates.output.denominator)
    )
    likely = None
    cached = min(bounds.cached_tokens, tokens)
    if cached and rates.cached.numerator:
        likely = NanoUSD(
            total - _most(rates.input, tokens) + _most(rates.input, tokens - cached) + _most(rates.cached, cached)
        )
    return WorstCase(NanoUSD(total), output, likely)


class _Rates(NamedTuple):
    """The dearest rates of a rate card for one kind of request."""

    input: Rate
    output: Rate
    cached: Rate
    request: Rate
    machine: Rate
    characters: Rate
    fee: Rate
    rounding: int


_KNOWN_RATES: Final[dict[tuple[int, tuple[str, ...], tuple[str, ...], int], tuple[RateCard, _Rates]]] = {}
_RATES_MAX: Final = 1_000


def _rates(card: RateCard, bounds: Bounds) -> _Rates:
    """Worked out once for a card, what is in the request, and the tiers that its input can reach."""
    reached = sum(start < bounds.input_tokens for row in card.rows if len(row.tiers) > 1 for start, _ in row.tiers)
    key = (id(card), bounds.writes_cache, bounds.modalities, reached)
    known = _KNOWN_RATES.get(key)
    if known is not None and known[0] is card:
        return known[1]
    tokens = bounds.input_tokens
    inputs = {"input_tokens", *bounds.writes_cache, *(f"input_{m}_tokens" for m in bounds.modalities)}
    outputs = {*_OUTPUT_UNITS, *(f"output_{m}_tokens" for m in bounds.modalities)}
    rates = _Rates(
        input=_dearest(card, inputs, tokens),
        output=_dearest(card, outputs, tokens),
        cached=_dearest(card, {"cache_read_tokens"}, tokens),
        request=_dearest(card, {"requests"}, tokens),
        machine=_dearest(card, {"machine_ms"}, tokens),
        characters=_dearest(card, {"input_characters"}, tokens),
        fee=_dearest(card, _FEES, tokens),
        rounding=_rounding(card, "input") + _rounding(card, "output"),
    )
    if len(_KNOWN_RATES) >= _RATES_MAX:
        _KNOWN_RATES.clear()
    _KNOWN_RATES[key] = (card, rates)
    return rates


def _most(rate: Rate, units: int) -> int:
    """The cost, rounded up."""
    return -(-rate.numerator * units // rate.denominator)


def _rounding(card: RateCard, direction: str) -> int:
    """What rounding each of several charge lines half up can come to above the whole, rounded up once: half a nano-USD for
    every line. One line alone is never rounded above that."""
    lines = sum(
        direction in UNITS[row.unit].dimensions and any(rate.numerator for _, rate in row.tiers) for row in card.rows
    )
    return lines // 2


def _has_no_price(card: RateCard, bounds: Bounds) -> bool:
    needed = ["input_tokens"] if bounds.input_tokens else []
    if bounds.output_tokens:
        needed.append("output_tokens")
    return any(UNIT_INDEX[unit] in card.uncovered for unit in needed)


def _dearest(card: RateCard, wanted: AbstractSet[str], input_tokens: int) -> Rate:
    """The highest rate that one of these units can land at, in any tier that so much input can reach."""
    best = Rate(0, 1)
    for row in card.rows:
        if UNITS[row.unit].name in wanted:
            for start, rate in row.tiers:
                if (
                    start < max(input_tokens, 1)
                    and rate.numerator * best.denominator > best.numerator * rate.denominator
                ):
                    best = rate
    return best
