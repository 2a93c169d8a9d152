"""Price list documents, overrides and merging: exact, dated, and clear about mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from bursar.adapters.prices_file import bundled_price_list, load_book, price_list_text
from bursar.adapters.prices_genai import convert, installed_price_list
from bursar.core.money import decimal_text
from bursar.core.pricelist import (
    check_price_list,
    compile_match,
    overrides_layer,
    parse_modifiers,
    parse_price_list,
)
from bursar.core.prices import Charge, PriceBook, Reading, Terms, charge
from bursar.core.usage import Usage

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
MILLION = Usage(input_tokens=1_000_000)


def document(*prices: dict[str, Any], variants: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    model = {"id": "m", "prices": list(prices), **({"variants": variants} if variants else {}), **more}
    return {"format": 1, "version": "1", "source": "s", "providers": [{"id": "p", "models": [model]}]}


def entry(price: Any, start: str = "", daily: str = "", unit: str = "input_tokens", **when: str) -> dict[str, Any]:
    found: dict[str, Any] = {"when": when} if when else {}
    found |= {"from": start} if start else {}
    found |= {"daily": daily} if daily else {}
    return {**found, "rates": {unit: price}}


def cost_in(listed: Mapping[str, Any], at: datetime = NOON, terms: Terms = (), usage: Usage = MILLION) -> str | None:
    book = PriceBook([parse_price_list(listed)], version="1")
    amount = charge(Reading(usage, terms=terms), book, provider="p", model="m", at=at).amount
    return None if amount is None else decimal_text(amount)


# --- the document -----------------------------------------------------------------------------------------------


def test_the_bundled_list_is_what_the_tool_makes_of_the_pinned_package() -> None:
    """The data file has not been edited by hand and is not stale."""
    made = installed_price_list()
    bundled = bundled_price_list()
    assert {key: bundled[key] for key in made} == json.loads(json.dumps(made))


def test_the_bundled_list_reads_whole_and_writes_back_the_same() -> None:
    """Every provider builds; the text form is stable, one model per line."""
    listed = bundled_price_list()
    providers = check_price_list(listed)
    text = price_list_text(listed)
    assert json.loads(text) == listed
    assert text.count("\n") > sum(len(provider.models) for provider in providers.values())


def test_providers_are_built_when_asked_for() -> None:
    """A mistake in one provider does not touch another; reading it says where the mistake is."""
    listed = document(entry("1"))
    listed["providers"].append({"id": "q", "models": [{"id": "bad", "prices": [entry("x")]}]})
    providers = parse_price_list(listed)
    assert (list(providers), len(providers), "q" in providers) == (["p", "q"], 2, True)
    assert providers["p"].models[0].id == "m"
    with pytest.raises(ValueError, match=r"q/bad: prices\[1\]\.rates\.input_tokens: 'x' is not a decimal number"):
        providers["q"]
    with pytest.raises(KeyError):
        providers["r"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry(1.5), "1.5 is not a price: write decimal text"),
        (entry(True), "True is not a price"),
        (entry("-1"), "-1 is not a price: it must be finite and not negative"),
        (entry("NaN"), "'NaN' is not a finite number"),
        (entry("1", unit="input_token"), "rates.input_token: unknown unit; known are input_tokens, "),
        (entry("1", start="2026-13-01"), r"from: '2026-13-01' is not a date"),
        (entry("1", start="20260101"), "'20260101' is not a date"),
        (entry("1", daily="25:00-26:00"), "'25:00-26:00' is not an interval of the day"),
        (entry("1", daily="08:00-08:00"), "is empty: for the whole day leave it out"),
        (entry("1", tier="x"), "prices under terms belong in 'variants'"),
        (entry({"base": "1"}), "tiers: None is not a list of [tokens, price]"),
        (entry({"base": "1", "tiers": []}), "tiers: [] is not a list"),
        (entry({"base": "1", "tiers": [[0, "2"]]}), "0 is not a whole number above 0"),
        (entry({"base": "1", "tiers": [[9, "2"], [9, "3"]]}), "9 is not a whole number above 9"),
        (entry({"base": "1", "tiers": [[9]]}), "[9] is not [tokens, price]"),
        (entry({"base": "1", "tier": []}), "unknown key 'tier'; known are base, tiers"),
        ({"rates": []}, "rates: [] is not an object of unit: price"),
        ({"rates": {}, "until": "x"}, "unknown key 'until'"),
        ("free", "prices holds 'free', which is not an object"),
    ],
)
def test_a_mistake_in_a_price_names_provider_model_field_and_value(bad: Any, message: str) -> None:
    """Whoever made the typo can find it."""
    with pytest.raises(ValueError) as caught:
        check_price_list(document(bad))
    assert message.replace("\\", "") in str(caught.value)
    assert "p/m: prices" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, this version reads format 1"),
        ({"source": ""}, "source '' is not text"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"providers": None}, "providers None is not a list"),
        ({"providers": [{"id": "p", "models": []}] * 2}, "provider 'p' is listed twice"),
        ({"providers": [{"id": "p", "models": [{"id": "m", "prices": []}] * 2}]}, "p: model 'm' is listed twice"),
        ({"providers": [{"id": "p", "models": [], "fallback": ["q"]}]}, "fallback 'q' is not a provider of this list"),
        ({"providers": [{"id": "p", "models": [], "fallback": "q"}]}, "fallback 'q' is not a list of texts"),
        ({"providers": [{"id": "p", "models": [{"prices": []}]}]}, "p: model 1: id None is not text"),
        (
            {"providers": [{"id": "p", "models": [{"id": "m", "prices": [], "context_window": "8k"}]}]},
            "p/m: context_window '8k' is not a whole number above 0",
        ),
    ],
)
def test_a_mistake_in_the_frame_is_named(change: dict[str, Any], message: str) -> None:
    """Format, providers, models: each error says what is wrong where."""
    with pytest.raises(ValueError) as caught:
        check_price_list({**document(entry("1")), **change})
    assert message in str(caught.value)


def test_two_prices_for_the_same_time_are_refused() -> None:
    """Which one would apply? Nobody can say, so neither does."""
    with pytest.raises(ValueError, match=r"p/m: prices\[2\]: a second entry for the same date"):
        check_price_list(document(entry("1"), entry("2")))


@pytest.mark.parametrize(
    ("clause", "yes", "no"),
    [
        ({"equals": "GPT-5"}, ["gpt-5"], ["gpt-5-mini"]),
        ({"starts_with": "gpt-"}, ["gpt-5"], ["a-gpt-5"]),
        ({"ends_with": "-Mini"}, ["gpt-5-mini"], ["gpt-5-mini-x"]),
        ({"contains": "5"}, ["gpt-5-mini"], ["gpt-4"]),
        ({"regex": r"^o\d$"}, ["o3"], ["o3-mini"]),
        ({"or": [{"equals": "a"}, {"equals": "b"}]}, ["a", "b"], ["c"]),
        ({"and": [{"starts_with": "a"}, {"ends_with": "z"}]}, ["abcz"], ["abc", "xyz"]),
    ],
)
def test_match_clauses(clause: object, yes: list[str], no: list[str]) -> None:
    """All of genai-prices' clauses, without regard to case in the clause."""
    matches = compile_match(clause, "here")
    assert [name for name in [*yes, *no] if matches(name)] == yes


@pytest.mark.parametrize(
    "clause",
    ["gpt", {}, {"is": "x"}, {"equals": 5}, {"equals": ""}, {"or": []}, {"or": [1]}, {"regex": "("}, {"a": 1, "b": 2}],
)
def test_a_clause_that_makes_no_sense_is_refused(clause: object) -> None:
    """With the place in the message."""
    with pytest.raises(ValueError, match=r"^here: match"):
        compile_match(clause, "here")


def test_hours_may_cross_midnight_and_belong_to_utc() -> None:
    """16:30-00:30: the start is in, the end is out."""
    listed = document(entry("2"), entry("1", daily="16:30-00:30"))
    night = {
        minute: cost_in(listed, NOON.replace(hour=minute // 60, minute=minute % 60)) for minute in (0, 29, 30, 989, 990)
    }
    assert night == {0: "1", 29: "1", 30: "2", 989: "2", 990: "1"}


def test_variants_decide_unit_by_unit_first_to_last() -> None:
    """The first active variant with a price for the unit has it; the others keep their standard price."""
    variants = [
        entry("3", tier="fast"),
        {"when": {"tier": "fast"}, "daily": "00:00-23:59", "rates": {"output_tokens": "9"}},
    ]
    listed = document({"rates": {"input_tokens": "1", "output_tokens": "5"}}, variants=variants)
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert cost_in(listed, usage=usage) == "6"
    assert cost_in(listed, terms=(("tier", "fast"),), usage=usage) == "12"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": "0"}, "factor 0 is not above 0"),
        ({"factor": 1.1}, "factor 1.1 is not text"),
        ({"source": None}, "source None is not text"),
        ({"models": "x"}, "models 'x' is not a list"),
        ({"when": {}}, "when {} is not one term"),
        ({"where": 1}, "unknown key 'where'"),
    ],
)
def test_a_mistake_in_a_surcharge_is_named(change: dict[str, Any], message: str) -> None:
    """Surcharges come with a source or not at all."""
    good = {"provider": "p", "models": ["*"], "factor": "1.1", "when": {"region": ["eu", "us"]}, "source": "page"}
    assert len(parse_modifiers({"multipliers": [good]})) == 2
    with pytest.raises(ValueError) as caught:
        parse_modifiers({"multipliers": [{**good, **change}]})
    assert message in str(caught.value)


# --- genai-prices -----------------------------------------------------------------------------------------------


def test_published_json_becomes_a_list() -> None:
    """Numbers stay exact, hours are UTC, units that are not counted are listed, empty ``:free`` models are free."""
    raw = [
        {
            "id": "p",
            "name": "P",
            "fallback_model_providers": [],
            "models": [
                {
                    "id": "m",
                    "match": {"equals": "m"},
                    "prices": [
                        {"prices": {"input_mtok": Decimal("0.10"), "output_text_mtok": 1}},
                        {
                            "constraint": {"start_time": "02:30:00+02:00", "end_time": "16:30:00Z"},
                            "prices": {"input_mtok": {"base": 1, "tiers": [{"start": 5, "price": Decimal("2.50")}]}},
                        },
                    ],
                    "price_variants": [
                        {"when": {"a": "b"}, "prices": {"input_mtok": 3}},
                        {"when": {"c": "d"}, "prices": {}},
                    ],
                },
                {"id": "m:free", "match": {"starts_with": "m:"}, "prices": {}},
                {"id": "n", "match": {"equals": "n"}, "prices": {}},
            ],
        }
    ]
    made = convert(raw, source="x")
    assert made["not_carried"] == {"output_text_mtok": ["p/m"]}
    assert made["providers"][0]["models"] == [
        {
            "id": "m",
            "prices": [
                {"rates": {"input_tokens": "0.1"}},
                {"daily": "00:30-16:30", "rates": {"input_tokens": {"base": "1", "tiers": [[5, "2.5"]]}}},
            ],
            "variants": [{"when": {"a": "b"}, "rates": {"input_tokens": "3"}}],
        },
        {
            "id": "m:free",
            "match": {"starts_with": "m:"},
            "prices": [{"rates": {"input_tokens": "0", "output_tokens": "0"}}],
        },
        {"id": "n", "prices": [{"rates": {}}]},
    ]
    check_price_list(made)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"prices": {"input_mtoks": 1}}, "p/m: unknown price key 'input_mtoks'"),
        ({"prices": {"input_mtok": "1"}}, "p/m: input_mtok: '1' is not a price"),
        ({"prices": {"input_mtok": 0.1}}, "p/m: input_mtok: 0.1 is not a price"),
        ({"prices": {"input_mtok": -1}}, "p/m: input_mtok: -1 is not a price: it must be finite"),
        ({"prices": [{"constraint": {"on": 1}, "prices": {}}]}, "is neither a start date nor hours"),
        ({"prices": [{"constraint": {"start_time": "late"}, "prices": {}}]}, "'late' is not a time of day"),
        ({"prices": [{"constraint": {"start_time": "01:00:30"}, "prices": {}}]}, "hours are kept to the minute"),
        ({"prices": 5}, "p/m: prices: '5' is not a list"),
        ({"prices": [{"prices": 5}]}, "p/m: '5' is not an object"),
    ],
)
def test_a_mistake_in_published_json_is_named(model: dict[str, Any], message: str) -> None:
    """Nothing is guessed: the place is named and nothing is converted."""
    with pytest.raises(ValueError) as caught:
        convert([{"id": "p", "models": [{"id": "m", "match": {"equals": "m"}, **model}]}], source="x")
    assert message in str(caught.value)


# --- overrides --------------------------------------------------------------------------------------------------


def price_with(
    spec: Mapping[str, Any],
    usage: Usage = MILLION,
    *,
    provider: str = "openai",
    model: str = "gpt-4.1",
    at: datetime = NOON,
    terms: Terms = (),
) -> Charge:
    book = load_book(None, overrides_layer(spec))
    return charge(Reading(usage, terms=terms), book, provider=provider, model=model, at=at)


def test_a_contract_discount_is_exact_dated_and_named() -> None:
    """12.5 % off from its date; the price row says which contract."""
    discount = {
        "provider": "openai",
        "model": "GPT-4*",
        "percent": Decimal("12.5"),
        "from": date(2026, 1, 1),
        "source": "contract 4711",
    }
    spec = {"discounts": [discount]}
    found = price_with(spec)
    assert found.cost_usd == Decimal("1.75")
    assert found.price_rows == ("genai-prices-0.2.3:openai/gpt-4.1/input_tokens;x0.875[contract 4711]",)
    assert found.price_book.endswith("+custom")
    assert price_with(spec, at=datetime(2025, 12, 31, 23, tzinfo=timezone.utc)).cost_usd == 2
    assert price_with(spec, model="o3").cost_usd == 2
    assert price_with(spec, Usage(web_searches=1_000)).cost_usd == 10


def test_discounts_do_not_add_up_and_a_later_one_replaces_an_earlier() -> None:
    """The first listed that applies counts; of one pattern the latest started one."""
    spec = {
        "discounts": [
            {"provider": "openai", "model": "gpt-4.1*", "percent": 10},
            {"provider": "openai", "model": "gpt-4.1*", "percent": 50, "from": "2026-06-01"},
            {"provider": "openai", "percent": 20},
        ]
    }
    assert price_with(spec, at=datetime(2026, 5, 31, tzinfo=timezone.utc)).cost_usd == Decimal("1.8")
    assert price_with(spec).cost_usd == 1
    assert price_with(spec, model="o3").cost_usd == Decimal("1.6")


def test_a_free_local_model_is_priced_at_zero_by_a_row() -> None:
    """0 is a price somebody stated: there are lines, and no reason."""
    spec = {"models": [{"provider": "ollama", "model": "llama3*", "input": 0, "output": 0}]}
    usage = Usage(input_tokens=5, output_tokens=7)
    found = price_with(spec, usage, provider="ollama", model="llama3.2:3b")
    assert (found.amount, found.reason) == (0, None)
    assert found.price_rows == ("custom:ollama/llama3*/input_tokens", "custom:ollama/llama3*/output_tokens")
    other = price_with(spec, usage, provider="ollama", model="qwen3")
    assert (other.amount, other.reason) == (None, "no price for model 'qwen3' of 'ollama'")


def test_a_machine_is_charged_by_the_time_of_the_call() -> None:
    """2.50 dollars an hour: 3.6 seconds cost a quarter of a cent, the tokens nothing, both stated."""
    spec = {"models": [{"provider": "vllm", "model": "*", "machine_per_hour": "2.50"}]}
    usage = Usage(input_tokens=5, output_tokens=7, machine_ms=3_600)
    found = price_with(spec, usage, provider="vllm", model="any")
    assert found.cost_usd == Decimal("0.0025")
    assert {line.unit for line in found.lines} == {"input_tokens", "output_tokens", "machine_ms"}


def test_own_prices_replace_the_listed_ones_from_their_date() -> None:
    """Before its first date the list applies; under terms, in off-peak hours and past a tier, what was stated."""
    base = {"provider": "openai", "model": "gpt-4.1"}
    tiers = {"base": Decimal("1.25"), "tiers": [[900_000, Decimal("2.5")]]}
    spec = {
        "models": [
            {**base, "from": "2026-02-01", "input": tiers, "output": 8, "context_window": 1000},
            {**base, "from": "2026-02-01", "daily": "16:00-08:00", "input": "1", "output": 4},
            {**base, "from": "2026-03-01", "input": 3, "output": 8, "source": "letter"},
            {**base, "when": {"service_tier": "flex"}, "input": "0.5"},
        ]
    }
    february = datetime(2026, 2, 10, 12, tzinfo=timezone.utc)
    assert price_with(spec, at=datetime(2026, 1, 31, tzinfo=timezone.utc)).cost_usd == 2
    assert price_with(spec, at=february).cost_usd == Decimal("2.5")
    assert price_with(spec, Usage(input_tokens=100_000), at=february).cost_usd == Decimal("0.125")
    assert price_with(spec, at=february.replace(hour=20)).cost_usd == 1
    assert price_with(spec).cost_usd == 3
    assert price_with(spec).price_rows == ("letter:openai/gpt-4.1/input_tokens;from=2026-03-01",)
    assert price_with(spec, terms=(("service_tier", "flex"),)).cost_usd == Decimal("0.5")
    assert price_with(spec, Usage(web_searches=1)).reason == "no price for 1 web_searches of 'gpt-4.1' at 'openai'"


MODEL = {"provider": "p", "model": "m"}
DISCOUNT = {"provider": "p", "percent": 10}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"discount": []}, "prices: unknown key 'discount'; known are discounts, models"),
        ({"models": {}}, "prices.models: {} is not a list"),
        ({"models": ["m"]}, "prices.models[0]: 'm' is not a mapping"),
        ({"models": [{"model": "m", "input": 1}]}, "prices.models[0].provider: is missing"),
        ({"models": [{**MODEL, "inputs": 1}]}, "prices.models[0]: unknown key 'inputs'"),
        ({"models": [{**MODEL}]}, "no price is given; for a free model write input: 0 and output: 0"),
        ({"models": [{**MODEL, "input": -1}]}, "input_tokens: -1 is not a price: it must be finite and not negative"),
        ({"models": [{**MODEL, "input": None}]}, "prices.models[0].input: None is not a number"),
        ({"models": [{**MODEL, "input": True}]}, "prices.models[0].input: True is not a number"),
        ({"models": [{**MODEL, "input": 0.1 + 0.2}]}, "input: 0.30000000000000004 may have lost digits; write it in"),
        ({"models": [{**MODEL, "input": float("nan")}]}, "input: nan may have lost digits"),
        ({"models": [{**MODEL, "input": "cheap"}]}, "'cheap' is not a decimal number"),
        ({"models": [{**MODEL, "input": 1, "input_tokens": 2}]}, "input_tokens has two prices"),
        ({"models": [{**MODEL, "input": 1, "from": "May"}]}, "prices.models[0].from: 'May' is not a date"),
        ({"models": [{**MODEL, "input": 1, "from": datetime(2026, 1, 1)}]}, "is not a date"),
        ({"models": [{**MODEL, "input": 1, "when": {"tier": 1}}]}, "when: 'tier': 1 is not text"),
        ({"models": [{**MODEL, "input": 1, "when": []}]}, "when: [] is not a mapping of terms"),
        ({"models": [{**MODEL, "input": 1, "context_window": 0}]}, "context_window: 0 is not a whole number above 0"),
        ({"models": [{**MODEL, "input": {"base": 1, "tiers": [[5, 2, 3]]}}]}, "[5, 2, 3] is not [tokens, price]"),
        ({"models": [{**MODEL, "input": 1}, {**MODEL, "output": 1}]}, "prices.models[1].from: always is stated twice"),
        ({"models": [{**MODEL, "input": 1, "daily": "08:00-10:00"}]}, "'m' has prices only for some hours or terms"),
        ({"models": [{**MODEL, "input": 1, "when": {"a": "b"}}]}, "'m' has prices only for some hours or terms"),
        (
            {
                "models": [
                    {**MODEL, "input": 1},
                    {**MODEL, "input": 2, "daily": "22:00-02:00"},
                    {**MODEL, "input": 3, "daily": "01:00-05:00"},
                ]
            },
            "prices.models[2].daily: these hours overlap those of prices.models[1]",
        ),
        ({"discounts": [{"provider": "p"}]}, "prices.discounts[0].percent: None is not a number"),
        ({"discounts": [{**DISCOUNT, "percent": 0}]}, "percent: 0 is not above 0 and at most 100"),
        ({"discounts": [{**DISCOUNT, "percent": "101"}]}, "percent: 101 is not above 0 and at most 100"),
        ({"discounts": [{**DISCOUNT, "off": 1}]}, "prices.discounts[0]: unknown key 'off'"),
        ({"discounts": [DISCOUNT, DISCOUNT]}, "from: always is stated twice for these models"),
        ({"discounts": [{**DISCOUNT, "from": "2026-02-01", "until": "2026-02-01"}]}, "until: 2026-02-01 is not after"),
        (
            {"discounts": [{**DISCOUNT, "until": "2026-06-01"}, {**DISCOUNT, "from": "2026-05-01"}]},
            "prices.discounts[0].until: 2026-06-01 overlaps the discount for these models from 2026-05-01",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_named(spec: dict[str, Any], message: str) -> None:
    """Field and value are in the message; the configuration loader adds the line."""
    with pytest.raises(ValueError) as caught:
        overrides_layer(spec)
    assert message in str(caught.value)


def test_no_overrides_are_no_layer() -> None:
    """An empty section changes nothing, not even the version of the book."""
    layer, discounts = overrides_layer({})
    assert (dict(layer), tuple(discounts)) == ({}, ())
    assert load_book(None, (layer, discounts)) is load_book(None)


def test_exact_floats_are_taken_as_typed() -> None:
    """0.15 from YAML is the decimal 0.15."""
    spec = {"models": [{**MODEL, "input": 0.15, "output": 6e-07}]}
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert price_with(spec, usage, provider="p", model="m").cost_usd == Decimal("0.1500006")
