"""Tool prices: one exact line per component, unknown never zero, what the service says is the amount."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.config import parse_settings
from bursar.core.errors import ConfigError
from bursar.core.money import NanoUSD, Rate
from bursar.core.prices import AMOUNT_MAX, Charge
from bursar.core.tool_fields import parse_rate_amount, parse_tools
from bursar.core.tool_prices import FREE, ToolPrice, ToolPrices, field_steps, tool_charge, tool_estimate, tool_worst

SPEC: dict[str, Any] = {
    "serpapi.search": {"per_call": Decimal("0.005")},
    "browser.*": {"per_second": Decimal("0.0001"), "most": Decimal("0.05")},
    "browser.close": {"per_call": 0},
    "vision.ocr": {"per_unit": Decimal("0.0015"), "units": "pages"},
    "vision.*": {"per_unit": "$0.01", "units": "items[*]", "per_call": "0.001"},
    "warehouse.query": {"per_mb": Decimal("0.000005")},
    "firecrawl.scrape": {"cost": "metadata.costUsd"},
}
TOOLS = parse_tools(SPEC)
AMOUNTS = st.decimals(min_value=0, max_value=100, places=12)


def charged(tool: str, price: ToolPrice | None = None, **more: Any) -> Charge:
    """The charge of one call, with what is not said left out."""
    known: dict[str, Any] = {"units": None, "size_bytes": None, "duration_ms": None, "stated": None, "answer": None}
    return tool_charge(tool, price or TOOLS.find(tool), **{**known, **more})


def assert_adds_up(charge: Charge) -> None:
    """The lines of a charge come to its amount, and each names its row."""
    assert charge.amount == sum(line.cost for line in charge.lines)
    assert all(line.price_row for line in charge.lines)


# --- which price ------------------------------------------------------------------------------------------------


def test_a_tools_own_name_goes_before_patterns_and_patterns_go_in_order() -> None:
    """A name is found under itself wherever it stands; of several patterns the first one counts."""
    names = {tool: price.name for tool in ("browser.open", "browser.close", "vision.ocr", "vision.see") if (price := TOOLS.find(tool))}  # fmt: skip
    assert names == {
        "browser.open": "browser.*",
        "browser.close": "browser.close",
        "vision.ocr": "vision.ocr",
        "vision.see": "vision.*",
    }
    assert TOOLS.find("Serpapi.search") is None
    both = ToolPrices([ToolPrice("a.*", Rate(1, 1)), ToolPrice("*.b", Rate(2, 1))])
    found = both.find("a.b")
    assert found is not None
    assert found.name == "a.*"


# --- what a call costs ------------------------------------------------------------------------------------------


@given(rates=st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS), counts=st.tuples(*[st.integers(0, 1_000)] * 4))
def test_every_component_is_one_line_rounded_once(
    rates: tuple[Decimal, ...], counts: tuple[int, int, int, int]
) -> None:
    """Each line is the exact product, half up, and the amount is their sum."""
    calls, units, size_bytes, duration_ms = counts
    keys = ("per_call", "per_unit", "per_mb", "per_second")
    price = parse_tools({"t": dict(zip(keys, rates, strict=True))}).find("t")
    found = charged("t", price, calls=calls, units=units, size_bytes=size_bytes, duration_ms=duration_ms)
    exact = [
        Fraction(rate) * count * 10**9 / per
        for rate, count, per in zip(rates, counts, (1, 1, 10**6, 10**3), strict=True)
        if count
    ]
    assert [line.cost for line in found.lines] == [(2 * each.numerator + each.denominator) // (2 * each.denominator) for each in exact]  # fmt: skip
    assert_adds_up(found)
    assert found.usage is not None
    assert found.usage.counts() == {
        name: count
        for name, count in zip(("tool_calls", "tool_units", "tool_bytes", "tool_ms"), counts, strict=True)
        if count
    }


def test_a_line_names_its_price_and_can_be_done_again() -> None:
    """Unit, units, rate and row of a line are those of the price that was stated."""
    line = charged("browser.open", duration_ms=1_234).lines[0]
    assert (line.unit, line.units, line.price_row, line.cost) == ("tool_ms", 1_234, "tools:browser.*", 123_400)
    assert line.rate_usd == Decimal("0.36")  # an hour of it
    assert charged("warehouse.query", size_bytes=5_000_000).lines[0].rate_usd == Decimal("0.000005")


def test_units_are_looked_up_in_the_answer() -> None:
    """A path leads to a number, ``[*]`` counts a list or adds up what is in it."""
    assert charged("vision.ocr", answer={"pages": 3}).amount == 4_500_000
    assert charged("vision.see", answer={"items": ["a", "b"]}).amount == 21_000_000
    deep = ToolPrice("t", per_unit=Rate(7, 1), units_field="results[*].usage.credits")
    answer = {"results": [{"usage": {"credits": 2}}, {"usage": {"credits": "3"}}]}
    assert charged("t", deep, answer=answer).amount == 35
    first = ToolPrice("t", per_unit=Rate(7, 1), units_field="results[1].usage.credits")
    assert charged("t", first, answer=answer).amount == 21
    assert charged("vision.ocr", units=4, answer={"pages": 3}).amount == 6_000_000, "what the caller counted counts"


@given(parts=st.integers(0, 10**8), places=st.integers(0, 9))
def test_a_fraction_of_a_unit_is_exact(parts: int, places: int) -> None:
    """2.5 units cost two and a half times one, rounded once; the row says what the line counts."""
    units = Decimal(parts).scaleb(-places)
    with localcontext(prec=3):  # whatever the caller's precision is
        found = charged("vision.ocr", units=units)
    exact = Fraction(units) * 1_500_000
    assert found.amount == (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
    assert_adds_up(found)
    if parts:
        line = found.lines[0]
        whole = int(line.price_row.partition(";parts=")[2] or 1)
        assert Fraction(line.units, whole) == Fraction(units)


def test_a_binary_number_counts_as_it_was_written() -> None:
    """JSON's 0.1 is a tenth: what a float adds behind it is not charged."""
    price = ToolPrice("t", cost_field="cost")
    assert charged("t", price, answer={"cost": 0.1}).amount == 100_000_000
    assert charged("t", price, answer={"cost": 0.30000000000000004}).amount == 300_000_000
    assert charged("t", price, answer={"cost": Decimal("0.0000000015")}).amount == 2


# --- what is not known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "more", "names"),
    [
        ("vision.ocr", {}, "'pages'"),
        ("vision.ocr", {"answer": {"page": 1}}, "'pages'"),
        ("vision.ocr", {"answer": {"pages": [1, 2]}}, "pages[*]"),
        ("vision.ocr", {"answer": {"pages": True}}, "'pages'"),
        ("vision.ocr", {"answer": {"pages": "many"}}, "'many'"),
        ("vision.ocr", {"answer": {"pages": -1}}, "'-1'"),
        ("vision.ocr", {"answer": {"pages": "NaN"}}, "'NaN'"),
        ("vision.ocr", {"answer": {"pages": 10**16}}, "'pages'"),
        ("vision.ocr", {"answer": {"pages": "1e999999999"}}, "'pages'"),
        ("vision.ocr", {"answer": {"pages": {"a": 1}}}, "'pages'"),
        ("vision.ocr", {"answer": [1]}, "'pages'"),
        ("vision.see", {"answer": {"items": 3}}, "no list at 'items[*]'"),
        ("browser.open", {}, "duration_ms"),
        ("warehouse.query", {}, "size_bytes"),
        ("firecrawl.scrape", {"answer": {"metadata": None}}, "'metadata.costUsd'"),
    ],
)
def test_a_quantity_that_is_missing_leaves_no_amount(tool: str, more: dict[str, Any], names: str) -> None:
    """A priced tool whose quantity nobody knows is unpriced, with a reason that names the field; never free."""
    found = charged(tool, **more)
    assert found.amount is None
    assert found.lines == ()
    assert found.reason is not None
    assert names in found.reason


def test_units_that_nobody_counted_leave_no_amount() -> None:
    """A price per unit without a field needs the caller to say how many."""
    price = ToolPrice("t", per_unit=Rate(1, 1))
    reason = charged("t", price).reason
    assert reason == "tool 't' is paid per unit, and nobody stated its units"
    assert charged("t", price, units=0).amount == 0


def test_a_tool_without_a_price_is_free_and_says_so() -> None:
    """No row, no cost: the charge has the note, and still what was counted."""
    found = charged("unheard.of", size_bytes=9, duration_ms=4)
    assert (found.amount, found.lines, found.notes) == (0, (), (FREE,))
    assert found.usage is not None
    assert found.usage.counts() == {"tool_calls": 1, "tool_bytes": 9, "tool_ms": 4}
    assert tool_worst(None) == 0


def test_what_cannot_be_believed_has_no_amount() -> None:
    """Past a million USD for one call a price or a count is wrong."""
    found = charged("firecrawl.scrape", answer={"metadata": {"costUsd": 1_000_001}})
    assert found.amount is None
    assert "not believed" in str(found.reason)
    with pytest.raises(ValueError, match="calls is -1"):
        charged("serpapi.search", calls=-1)
    with pytest.raises(ValueError, match="'units' is '-1'"):
        charged("serpapi.search", units=-1)
    with pytest.raises(ValueError, match="must be from 0"):
        charged("serpapi.search", stated=NanoUSD(AMOUNT_MAX + 1))


# --- what the service says --------------------------------------------------------------------------------------


def test_what_the_service_says_is_the_amount() -> None:
    """A stated cost counts; our own lines stay beside it and a last one holds the difference."""
    found = charged("serpapi.search", stated=NanoUSD(7))
    assert (found.amount, found.reported) == (7, 7)
    assert [line.cost for line in found.lines] == [5_000_000, 7 - 5_000_000]
    assert_adds_up(found)
    same = charged("serpapi.search", stated=NanoUSD(5_000_000))
    assert [line.unit for line in same.lines] == ["tool_calls"]
    alone = charged("unheard.of", stated=NanoUSD(3))
    assert (alone.amount, alone.notes) == (3, ())
    assert_adds_up(alone)
    blind = charged("vision.ocr", stated=NanoUSD(4))
    assert (blind.amount, blind.reason) == (4, None)
    assert_adds_up(blind)


# --- before a call ----------------------------------------------------------------------------------------------


def test_what_is_held_is_the_most_a_call_can_cost() -> None:
    """Stated, or known from a price per call alone; else nobody knows."""
    worst = {tool: tool_worst(TOOLS.find(tool)) for tool in ("serpapi.search", "browser.open", "vision.ocr", "firecrawl.scrape")}  # fmt: skip
    assert worst == {
        "serpapi.search": 5_000_000,
        "browser.open": 50_000_000,
        "vision.ocr": None,
        "firecrawl.scrape": None,
    }


def test_the_estimate_is_marked_and_is_what_is_held() -> None:
    """A call that is never heard of again is booked at the most it can cost, or has no amount."""
    for tool in ("serpapi.search", "browser.open", "unheard.of"):
        estimate = tool_estimate(tool, TOOLS.find(tool))
        assert estimate.estimated
        assert estimate.amount == tool_worst(TOOLS.find(tool))
        assert_adds_up(estimate)
    unknown = tool_estimate("vision.ocr", TOOLS.find("vision.ocr"))
    assert unknown.amount is None
    assert "at most" in str(unknown.reason)


def test_more_than_the_most_is_charged_and_noted() -> None:
    """The bound was wrong, the money is spent all the same."""
    found = charged("browser.open", duration_ms=600_000)
    assert found.amount == 60_000_000
    assert found.notes == ("more than the most that is stated for one call, 0.05 USD",)


# --- the section ------------------------------------------------------------------------------------------------


@given(amount=st.decimals(min_value=0, max_value=10**6, places=20))
def test_a_rate_loses_no_digit(amount: Decimal) -> None:
    """What is written is what is charged, also far below a nano-USD."""
    rate = parse_rate_amount(amount, 1_000, "x")
    assert Fraction(rate.numerator, rate.denominator) == Fraction(amount) * 10**9 / 1_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tools:\n  a.b: {per_cal: 1}", "bursar.yaml:2: tools.a.b.per_cal: unknown key 'per_cal': did you mean 'per_call'?"),
        ("tools:\n  a: 3", "bursar.yaml:2: tools.a: '3' says no price: write {per_call: 0.005}"),
        ("tools:\n  a: {}", "bursar.yaml:2: tools.a: it says no price: use one or more of per_call"),
        ("tools:\n\n  'b.*': {per_call: -1}", "bursar.yaml:3: tools.b.*.per_call: '-1' is no price: write USD from 0"),
        ("tools:\n  a: {per_call: 1e-40}", "tools.a.per_call: '1e-40' is no price"),
        ("tools:\n  a: {per_call: true}", "tools.a.per_call: 'True' is no price"),
        ("tools:\n  a: {per_call: 5 calls}", "tools.a.per_call: '5 calls' is no price"),
        ("tools:\n  a: {cost: x, per_call: 1}", "tools.a.cost: the service states the whole cost; leave per_call out"),
        ("tools:\n  a: {per_call: 1, units: x}", "tools.a.units: units without a price"),
        ("tools:\n  a: {cost: 'x..y'}", "tools.a.cost: 'x..y' is no path into an answer"),
        ("tools:\n  a: {cost: 4}", "tools.a.cost: '4' is no path into an answer"),
        ("tools:\n  a: {per_call: 1, most: 5 calls}", "tools.a.most: '5 calls' must be money, such as $5"),
        ("tools: []", "tools: expected keys with values, not a list"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_section_is_named(text: str, message: str) -> None:
    """The line, the key, the value and what would do."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text)
    assert message in str(caught.value)


def test_the_section_keeps_the_digits_it_was_written_with() -> None:
    """YAML's numbers never pass through a float."""
    settings = parse_settings("tools:\n  a: {per_call: 0.1}\n  b: {per_mb: 0.000005, most: $1}\n")
    prices = parse_tools(settings.tools)
    a, b = prices.find("a"), prices.find("b")
    assert a is not None
    assert b is not None
    assert a.per_call is not None
    assert a.per_call.cost(1) == 100_000_000
    assert b.most == 1_000_000_000
    assert charged("b", b, size_bytes=2_000_000).amount == 10_000


@pytest.mark.parametrize("path", ["", ".a", "a.", "a[", "a[x]", "a]b", "x" * 257, "a[1234567]"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    """A path is keys, positions and ``[*]``."""
    with pytest.raises(ValueError, match="is no path into an answer"):
        field_steps(path)
