"""Prices and charges: equal to an independent implementation for every model, and right by hand where it matters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.data import providers as genai_providers
from genai_prices.types import ClauseEquals, ClauseOr, ClauseStartsWith, StartDateConstraint, TimeOfDateConstraint
from genai_prices.types import Usage as GenaiUsage
from hypothesis import given
from hypothesis import strategies as st

from bursar.adapters.prices_file import bundled_book
from bursar.adapters.prices_genai import UNITS_OF
from bursar.core.money import NanoUSD, Rate, nano_usd
from bursar.core.prices import (
    AMOUNT_MAX,
    BASIS,
    MODEL_LENGTH_MAX,
    ModelPrices,
    Multiplier,
    PriceBook,
    PriceEntry,
    ProviderPrices,
    Reading,
    Terms,
    charge,
)
from bursar.core.usage import UNIT_INDEX, UNITS, Usage, contains

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)

# Our units by the names the other implementation counts them under.
COUNTED_AS = {
    "input_tokens": "input_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_5m_tokens": "cache_write_5m_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "input_audio_tokens": "input_audio_tokens",
    "input_image_tokens": "input_image_tokens",
    "input_video_tokens": "input_video_tokens",
    "cache_read_audio_tokens": "cache_audio_read_tokens",
    "cache_read_image_tokens": "cache_image_read_tokens",
    "cache_read_video_tokens": "cache_video_read_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
    "output_audio_tokens": "output_audio_tokens",
    "output_image_tokens": "output_image_tokens",
    "output_video_tokens": "output_video_tokens",
    "citation_tokens": "output_citation_tokens",
    "input_characters": "input_characters",
    "input_messages": "input_text_messages",
    "audio_ms": "audio_seconds",
    "input_audio_ms": "input_audio_seconds",
    "output_audio_ms": "output_audio_seconds",
    "document_pages": "input_document_pages",
    "annotated_document_pages": "input_annotated_document_pages",
    "web_searches": "web_searches",
    "social_searches": "social_searches",
    "file_searches": "storage_searches",
    "code_executions": "code_executions",
    "rerank_searches": "rerank_searches",
}

SMALL = Usage(input_tokens=1_234, cache_read_tokens=321, output_tokens=567, reasoning_tokens=123)
LARGE = Usage(
    input_tokens=500_001,
    cache_read_tokens=200_003,
    cache_write_tokens=100_007,
    cache_write_5m_tokens=40_003,
    cache_write_1h_tokens=60_004,
    output_tokens=4_099,
    reasoning_tokens=2_003,
    web_searches=3,
    file_searches=2,
)
MIXED = Usage(
    input_tokens=100_000,
    cache_read_tokens=30_000,
    input_audio_tokens=21_001,
    input_image_tokens=11_003,
    input_video_tokens=9_001,
    cache_read_audio_tokens=7_003,
    cache_read_image_tokens=1_009,
    cache_read_video_tokens=501,
    output_tokens=40_000,
    reasoning_tokens=1_001,
    output_audio_tokens=3_001,
    output_image_tokens=2_003,
    output_video_tokens=777,
    citation_tokens=99,
    audio_ms=754_321,
    input_audio_ms=700_321,
    output_audio_ms=54_000,
    input_characters=98_765,
    input_messages=17,
    document_pages=31,
    annotated_document_pages=7,
    rerank_searches=5,
    code_executions=4,
    social_searches=6,
)


def moments(model: Any) -> Iterator[datetime]:
    """Before and on every date at which the model's prices change, and through a day where hours matter."""
    yield NOW
    entries = [*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ())]
    days: set[date] = set()
    hours: set[time] = set()
    for entry in entries:
        if isinstance(entry.constraint, StartDateConstraint):
            days.add(entry.constraint.start_date)
        elif isinstance(entry.constraint, TimeOfDateConstraint):
            hours |= {entry.constraint.start_time, entry.constraint.end_time}
    for day in days:
        midnight = datetime.combine(day, time(), timezone.utc)
        yield midnight
        yield midnight - timedelta(seconds=1)
    for hour in hours:
        moment = datetime.combine(NOW.date(), hour)
        yield moment
        yield moment - timedelta(seconds=1)
        yield moment.astimezone(timezone(timedelta(hours=-9)))


def contexts(model: Any) -> list[dict[str, str]]:
    """No terms, every set of terms the model has prices for, and terms nobody has prices for."""
    seen = {tuple(sorted(variant.when.items())) for variant in model.price_variants or ()}
    return [{}, {"service_tier": "nonesuch"}, {"service_tier": "default"}, *map(dict, sorted(seen))]


def their_usage(usage: Usage) -> GenaiUsage:
    values = {COUNTED_AS[unit]: count for unit, count in usage.counts().items()}
    return GenaiUsage(**{k: Decimal(v) / 1000 if k.endswith("_seconds") else v for k, v in values.items()})


def priced_part(usage: Usage, priced: set[str]) -> Usage:
    """The counts that some price of theirs can charge; they silently drop the others, we refuse to."""
    kept = {
        unit.name: count
        for unit, count in zip(UNITS, usage, strict=True)
        if count and any(contains(UNITS[UNIT_INDEX[name]], unit) for name in priced)
    }
    return Usage(**kept)


def references(provider: Any) -> Iterator[tuple[Any, str]]:
    for model in provider.models:
        yield model, model.id
        clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
        for clause in clauses:
            if isinstance(clause, ClauseEquals):
                yield model, clause.equals.upper()
            elif isinstance(clause, ClauseStartsWith):
                yield model, clause.starts_with + "-x"


def alone(provider: str, model: str) -> PriceBook:
    """A book in which every name of the provider finds this one model."""
    prices = next(found for found in bundled_book().models(provider) if found.id == model)
    only = replace(prices, matches=lambda _: True)
    return PriceBook([{provider: ProviderPrices(provider, (only,))}], version="1")


@pytest.mark.parametrize("provider", genai_providers, ids=lambda p: p.id)
def test_a_model_name_finds_the_same_model_as_in_genai_prices(provider: Any) -> None:
    """Clauses, their order and the fallback to another provider's models decide as they do there."""
    book = bundled_book()
    for _, name in references(provider):
        theirs = provider.find_model(name, all_providers=genai_providers)
        ours = book.find(provider.id, name)
        assert (ours.id if ours else None) == (theirs.id if theirs else None), name


@pytest.mark.parametrize("provider", genai_providers, ids=lambda p: p.id)
def test_every_model_costs_what_genai_prices_says(provider: Any) -> None:
    """All models, before and after each price change, on and off peak, under all terms: equal within the rounding."""
    for model in provider.models:
        book = bundled_book()
        if provider.find_model(model.id, all_providers=genai_providers) is not model:
            book = alone(provider.id, model.id)  # an earlier model answers to the name
        for at in moments(model):
            for context in contexts(model):
                prices = model.get_prices(at, context)
                priced = {UNITS_OF[k] for k, v in vars(prices).items() if v is not None}
                for usage in (SMALL, LARGE, MIXED):
                    part = priced_part(usage, priced)
                    reading = Reading(part, terms=tuple(sorted(context.items())))
                    ours = charge(reading, book, provider=provider.id, model=model.id, at=at)
                    expected = model.calc_price(
                        their_usage(part), provider, genai_request_timestamp=at, price_context=context
                    ).total_price
                    assert ours.amount is not None, (model.id, at, context, ours.reason)
                    difference = abs(expected * 10**9 - ours.amount)
                    assert difference <= Decimal("0.5") * len(ours.lines), (model.id, at, context, ours)


def test_all_models_are_carried() -> None:
    """The bundled list has every provider and model of the pinned package, and no more."""
    book = bundled_book()
    ours = {(name, model.id) for name in book.providers() for model in book.models(name)}
    assert ours == {(provider.id, model.id) for provider in genai_providers for model in provider.models}
    assert len(ours) == 2_330


def test_a_model_listed_without_a_price_is_unpriced_unless_its_name_says_free() -> None:
    """genai-prices prices an empty entry at 0. Only ``:free`` is a statement; the rest is unknown, so None."""
    book = bundled_book()
    usage = Usage(input_tokens=10, output_tokens=10)
    for provider in genai_providers:
        for model in provider.models:
            prices = model.get_prices(NOW)
            if any(value is not None for value in vars(prices).values()):
                continue
            result = charge(Reading(usage), book, provider=provider.id, model=model.id, at=NOW)
            if model.id.endswith(":free"):
                assert result.amount == 0
                assert len(result.lines) == 2
            elif provider.find_model(model.id) is model:
                assert result.amount is None
                assert "no price for 10 input_tokens" in (result.reason or "")


# --- by hand ----------------------------------------------------------------------------------------------------


def cost(provider: str, model: str, at: datetime = NOW, terms: Terms = (), **counts: int) -> Decimal | None:
    reading = Reading(Usage(**counts), terms=terms)
    return charge(reading, bundled_book(), provider=provider, model=model, at=at).cost_usd


def test_o3_cost_ten_and_forty_dollars_before_2025_06_10_and_two_and_eight_after() -> None:
    """The price of the day of the call applies, by the UTC date."""
    eve = datetime(2025, 6, 9, 23, 59, 59, tzinfo=timezone.utc)
    day = datetime(2025, 6, 10, tzinfo=timezone.utc)
    million = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
    assert cost("openai", "o3", eve, **million) == 50
    assert cost("openai", "o3", day, **million) == 10
    tokyo = datetime(2025, 6, 10, 8, 0, tzinfo=timezone(timedelta(hours=9)))
    assert cost("openai", "o3", tokyo, **million) == 50


def test_past_200_000_input_tokens_every_token_costs_the_higher_rate() -> None:
    """Gemini 2.5 Pro: 1.25 and 10 dollars a million up to 200,000 tokens in, 2.50 and 15 for all of them above."""
    below = cost("google", "gemini-2.5-pro", input_tokens=200_000, output_tokens=1_000)
    above = cost("google", "gemini-2.5-pro", input_tokens=200_001, output_tokens=1_000)
    assert below == Decimal("0.26")
    assert above == Decimal("0.5150025")


def test_deepseek_off_peak() -> None:
    """deepseek-reasoner: 0.55 and 2.19 from 00:30 to 16:30 UTC, 0.135 and 0.55 otherwise."""
    million = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
    noon = datetime(2025, 3, 1, 12, 0, tzinfo=timezone.utc)
    evening = datetime(2025, 3, 1, 16, 30, tzinfo=timezone.utc)
    assert cost("deepseek", "deepseek-reasoner", noon, **million) == Decimal("2.74")
    assert cost("deepseek", "deepseek-reasoner", evening, **million) == Decimal("0.685")


def test_flex_priority_and_batch_have_their_own_rates() -> None:
    """gpt-4.1: 2 and 8 dollars; priority 3.50 and 14; batch 1 and 4, each since its date."""
    million = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
    assert cost("openai", "gpt-4.1", **million) == 10
    assert cost("openai", "gpt-4.1", terms=(("service_tier", "default"),), **million) == 10
    assert cost("openai", "gpt-4.1", terms=(("service_tier", "priority"),), **million) == Decimal("17.5")
    assert cost("openai", "gpt-4.1", terms=(("processing", "batch"),), **million) == 5
    earlier = datetime(2026, 10, 11, tzinfo=timezone.utc)
    assert cost("openai", "gpt-4.1", earlier, (("service_tier", "priority"),), **million) == 10
    assert cost("openai", "o3", terms=(("service_tier", "flex"),), **million) == 5


def test_terms_without_a_price_are_noted() -> None:
    """A tier nobody has a price for is charged at standard rates, and the charge says so."""
    reading = Reading(Usage(input_tokens=1), terms=(("inference_geo", "global"), ("service_tier", "platinum")))
    result = charge(reading, bundled_book(), provider="anthropic", model="claude-opus-4-6", at=NOW)
    assert result.notes == ("no price of its own for service_tier=platinum: standard rates used",)


def test_one_hour_cache_writes_cost_twice_the_input_and_five_minute_ones_a_quarter_more() -> None:
    """Claude Sonnet 4.5: input 3, 5 min write 3.75, 1 h write 6, read 0.30, output 15 dollars a million."""
    counts = {"input_tokens": 100_000, "cache_read_tokens": 60_000, "cache_write_tokens": 30_000}
    five, hour = {"cache_write_5m_tokens": 10_000}, {"cache_write_1h_tokens": 20_000}
    expected = Decimal("0.03") + Decimal("0.018") + Decimal("0.0375") + Decimal("0.12")
    assert cost("anthropic", "claude-sonnet-4-5", **counts, **five, **hour) == expected


def test_web_searches_are_priced_per_thousand() -> None:
    """Ten dollars per thousand searches, beside the tokens."""
    assert cost("anthropic", "claude-sonnet-4-5", web_searches=3) == Decimal("0.03")


def test_azure_falls_back_to_openai_prices_but_not_to_its_discounts() -> None:
    """A reseller's model without a price of its own costs what the maker asks; tiers of service do not carry over."""
    million = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
    model = next(
        m.id
        for m in bundled_book().models("openai")
        if m.variants and bundled_book().find("azure", m.id) is m and not m.variants[0].daily
    )
    assert cost("azure", model, **million) == cost("openai", model, **million)
    term = bundled_book().find("openai", model).variants[0].when  # pyright: ignore[reportOptionalMemberAccess]
    assert cost("azure", model, terms=term, **million) == cost("openai", model, **million)
    assert cost("openai", model, terms=term, **million) != cost("openai", model, **million)


def test_a_compact_date_in_a_model_name_is_read_as_a_dashed_one() -> None:
    """``gpt-4o-20240513`` is ``gpt-4o-2024-05-13``, as some proxies write it."""
    counts = {"input_tokens": 1_000_000}
    assert cost("openai", "gpt-4o-20240513", **counts) == cost("openai", "gpt-4o-2024-05-13", **counts) == 5


@pytest.mark.parametrize(
    ("provider", "model", "terms", "factor"),
    [
        ("anthropic", "claude-opus-4-6", (("inference_geo", "us"),), "1.1"),
        ("anthropic", "claude-opus-5-5", (("inference_geo", "us"),), "1.1"),
        ("anthropic", "claude-opus-4-6", (("inference_geo", "global"),), "1"),
        ("anthropic", "claude-sonnet-4-5-20250929", (("inference_geo", "not_available"),), "1"),
        ("anthropic", "claude-haiku-4-5-20251001", (("inference_geo", "us"),), "1"),
        ("openai", "gpt-5.4", (("region", "eu"),), "1.1"),
        ("openai", "gpt-5", (("region", "eu"),), "1"),
        ("aws", "anthropic.claude-opus-4-6-v1", (("inference_geo", "us"),), "1"),
    ],
)
def test_surcharges_for_a_place(provider: str, model: str, terms: Terms, factor: str) -> None:
    """A tenth more on every class of tokens where the provider says so, and only there; searches cost the same."""
    counts = {"input_tokens": 2_000, "cache_read_tokens": 1_000, "output_tokens": 1_000}
    plain = cost(provider, model, **counts)
    assert plain is not None
    assert cost(provider, model, terms=terms, **counts) == plain * Decimal(factor)


# --- properties -------------------------------------------------------------------------------------------------

INPUT_SIDE = ("cache_read_tokens", "cache_write_tokens")


def book_of(rates: dict[str, str], *, tiers: tuple[int, str] | None = None, **more: Any) -> PriceBook:
    parsed = {unit: ((0, Rate.of(Decimal(price), BASIS[unit])),) for unit, price in rates.items()}
    if tiers:
        start, price = tiers
        parsed["input_tokens"] = (*parsed["input_tokens"], (start, Rate.of(Decimal(price), 1_000_000)))
    model = ModelPrices("m", "test", lambda name: name == "m", (PriceEntry("", None, (), parsed),))
    return PriceBook([{"p": ProviderPrices("p", (model,))}], version="1", **more)


def price(usage: Usage | None, book: PriceBook, **reading: Any) -> Any:
    return charge(Reading(usage, **reading), book, provider="p", model="m", at=NOW)


PRICES = st.decimals(min_value=0, max_value=1000, places=6).map(str)


@st.composite
def consistent_usages(draw: st.DrawFn) -> Usage:
    count = st.integers(0, 10**7)
    read, five, hour, fresh = draw(count), draw(count), draw(count), draw(count)
    audio = draw(st.integers(0, fresh))
    reasoning, answer = draw(count), draw(count)
    return Usage(
        input_tokens=read + five + hour + fresh,
        cache_read_tokens=read,
        cache_write_tokens=five + hour,
        cache_write_5m_tokens=five,
        cache_write_1h_tokens=hour,
        input_audio_tokens=audio,
        output_tokens=reasoning + answer,
        reasoning_tokens=reasoning,
    )


RATES = st.dictionaries(
    st.sampled_from(["cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens"]), PRICES
).flatmap(lambda d: st.tuples(PRICES, PRICES).map(lambda p: {"input_tokens": p[0], "output_tokens": p[1], **d}))


@given(usage=consistent_usages(), rates=RATES)
def test_the_amount_is_the_sum_of_its_lines_and_no_token_is_charged_twice(usage: Usage, rates: dict[str, str]) -> None:
    """Lines add up to the amount; the tokens on input lines are the input tokens, on output lines the output tokens."""
    result = price(usage, book_of(rates))
    assert result.amount == sum(line.cost for line in result.lines)
    by_side = {"input": 0, "output": 0}
    for line in result.lines:
        by_side["output" if line.unit in ("output_tokens", "reasoning_tokens") else "input"] += line.units
        assert line.cost == nano_usd(line.rate.usd_per(line.units))
    assert by_side == {"input": usage.input_tokens, "output": usage.output_tokens}


@given(usage=consistent_usages(), rates=RATES)
def test_a_charge_is_zero_only_where_the_rates_are_zero(usage: Usage, rates: dict[str, str]) -> None:
    """With units present and every rate large enough to see, the amount is above 0."""
    result = price(usage, book_of(rates))
    if usage.input_tokens or usage.output_tokens:
        assert result.lines
        if all(line.rate.cost(line.units) for line in result.lines):
            assert result.amount > 0
        if result.amount == 0:
            assert all(2 * line.units * line.rate.numerator < line.rate.denominator for line in result.lines)


@given(unit=st.sampled_from(sorted({u.name for u in UNITS} - {"requests", "machine_ms"})), count=st.integers(1, 10**6))
def test_a_unit_without_a_price_makes_the_charge_unknown(unit: str, count: int) -> None:
    """Whatever the unit a response states: priced it is charged, unpriced the amount is None and the reason names both."""
    usage = Usage(**{unit: count})
    outside = next(u.name for u in UNITS if not contains(u, UNITS[UNIT_INDEX[unit]]) and u.name != "requests")
    unknown = price(usage, book_of({outside: "1"}))
    assert unknown.amount is None
    assert unknown.reason == f"no price for {count} {unit} of 'm' at 'p'"
    assert price(usage, book_of({unit: "1"})).amount == Rate.of(Decimal(1), BASIS[unit]).cost(count)
    assert price(usage, book_of({unit: "0"})).amount == 0


@given(total=st.integers(0, 10**6), excess=st.integers(1, 10**6))
def test_usage_that_contradicts_itself_is_not_priced(total: int, excess: int) -> None:
    """More tokens read from the cache than came in: no amount, and the reason has the numbers."""
    usage = Usage(input_tokens=total, cache_read_tokens=total + excess)
    result = price(usage, book_of({"input_tokens": "1", "cache_read_tokens": "0.1"}))
    assert result.amount is None
    assert result.reason == f"usage contradicts itself: input_tokens is {total}, its parts are {total + excess}"


def test_cached_audio_is_not_charged_by_both_the_cached_and_the_audio_price() -> None:
    """Where two prices claim the same tokens and neither is the more specific, the charge is unknown, not double."""
    book = book_of({"input_tokens": "1", "cache_read_tokens": "0.1", "input_audio_tokens": "5"})
    plain = Usage(input_tokens=100, cache_read_tokens=50, input_audio_tokens=20)
    assert price(plain, book).amount is not None
    both = price(plain._replace(cache_read_audio_tokens=10), book)
    assert both.amount is None
    assert both.reason == "no price for 10 cache_read_audio_tokens of 'm' at 'p'"


def test_no_usage_no_model_no_provider() -> None:
    """Each kind of unknown has its own reason, and none is 0."""
    book = book_of({"input_tokens": "1"})
    assert price(None, book).reason == "the response states no usage"
    assert price(None, book, reason="cut").reason == "cut"
    usage = Reading(Usage(input_tokens=1))
    assert charge(usage, book, provider="p", model="x", at=NOW).reason == "no price for model 'x' of 'p'"
    assert charge(usage, book, provider="q", model="m", at=NOW).reason == "no prices for provider 'q'"


def test_what_the_provider_says_it_charged_is_the_amount() -> None:
    """Our lines stay and a last line holds the difference, so that the lines still add up."""
    book = book_of({"input_tokens": "1"})
    result = price(Usage(input_tokens=1_000_000), book, reported=NanoUSD(900_000_000))
    assert result.amount == 900_000_000
    assert [line.cost for line in result.lines] == [1_000_000_000, -100_000_000]
    unknown = price(Usage(images=1), book, reported=NanoUSD(7))
    assert (unknown.amount, unknown.notes) == (7, ("no price for 1 images of 'm' at 'p'",))


@pytest.mark.parametrize("price_usd", ["75", "1e30"])
def test_what_no_attempt_costs_is_not_believed(price_usd: str) -> None:
    """A count or a price that comes to more than a million USD is unpriced with the figure, whatever else is stated."""
    book = book_of({"input_tokens": price_usd})
    result = price(Usage(input_tokens=2**53), book)
    assert (result.amount, result.lines) == (None, ())
    assert result.reason is not None
    assert "not believed" in result.reason
    assert price(Usage(input_tokens=2**53), book, reported=NanoUSD(1)).amount is None
    assert price(None, book, reported=NanoUSD(AMOUNT_MAX + 1)).amount is None
    assert price(None, book, reported=NanoUSD(AMOUNT_MAX)).amount == AMOUNT_MAX


def test_a_name_without_end_is_no_model() -> None:
    """Names come from strangers: one of megabytes is not looked for, and not remembered."""
    book = book_of({"input_tokens": "1"})
    assert book.card("p", "m" * (MODEL_LENGTH_MAX + 1), NOW) is None
    assert book._recent == {}


@given(tokens=st.integers(0, 400_000))
def test_a_tier_begins_after_its_start(tokens: int) -> None:
    """At the start the base rate still applies; one token more and all tokens cost the tier's rate."""
    result = price(Usage(input_tokens=tokens), book_of({"input_tokens": "1"}, tiers=(200_000, "2")))
    assert result.amount == tokens * (2000 if tokens > 200_000 else 1000)
    if tokens > 200_000:
        assert result.price_rows == ("test:p/m/input_tokens;over=200000",)


def test_a_multiplier_is_exact_and_named_in_the_price_row() -> None:
    """A factor does not round the rate; the row tells which factor was used and why."""
    book = book_of(
        {"input_tokens": "0.3", "web_searches": "10"},
        multipliers=[Multiplier("p", "*", Decimal("0.875"), (("region", "eu"),), "2026-01-01", "contract")],
    )
    result = price(Usage(input_tokens=7, web_searches=1), book, terms=(("region", "eu"),))
    assert [line.cost for line in result.lines] == [1838, 10_000_000]
    assert result.price_rows[0] == "test:p/m/input_tokens;x0.875[region=eu]"
    assert result.notes == ()


def test_a_request_fee_is_charged_once_for_an_attempt_that_states_no_requests() -> None:
    """Every attempt is at least one request; a stated number above that counts."""
    book = book_of({"input_tokens": "1", "requests": "5"})
    assert price(Usage(), book).amount == 5_000_000
    assert price(Usage(requests=3), book).amount == 15_000_000


def test_every_line_can_show_its_rate() -> None:
    """``rate_usd`` is the listed price, exactly."""
    result = price(Usage(input_tokens=1, web_searches=1), book_of({"input_tokens": "0.075", "web_searches": "10"}))
    assert {line.unit: line.rate_usd for line in result.lines} == {
        "input_tokens": Decimal("0.075"),
        "web_searches": Decimal(10),
    }
