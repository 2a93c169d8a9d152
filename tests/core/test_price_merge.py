"""Merging price lists: the past stays, the source holds from the refresh on, and nothing moves far unseen."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.money import decimal_text
from bursar.core.price_merge import merge_price_lists
from bursar.core.pricelist import check_price_list, parse_price_list
from bursar.core.prices import PriceBook, Reading, Terms, charge
from bursar.core.usage import Usage

TODAY = date(2026, 11, 23)
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


def merged(current: dict[str, Any], source: dict[str, Any], today: date = TODAY) -> Any:
    before = copy.deepcopy((current, source))
    found = merge_price_lists(current, source, today=today)
    assert (current, source) == before
    check_price_list(found.document)
    return found


def test_a_price_that_differs_begins_today_and_the_old_one_stays_before() -> None:
    """Yesterday's calls keep yesterday's price, to the last second."""
    found = merged(document(entry("2")), document(entry("2.2")))
    midnight = datetime(2026, 11, 23, tzinfo=timezone.utc)
    assert cost_in(found.document, midnight - timedelta(seconds=1)) == "2"
    assert cost_in(found.document, midnight) == "2.2"
    (change,) = found.changes
    assert (change.kind, change.old, change.new, change.start, change.large) == (
        "price",
        "2",
        "2.2",
        "2026-11-23",
        False,
    )


@pytest.mark.parametrize(
    ("old", "new", "large"),
    [
        ("1", "1.2", False),
        ("1", "1.21", True),
        ("1", "0.8", False),
        ("1", "0.79", True),
        ("0", "1", True),
        ("1", "0", True),
    ],
)
def test_what_counts_as_a_large_move(old: str, new: str, *, large: bool) -> None:
    """More than a fifth up or down, or to or from 0."""
    (change,) = merged(document(entry(old)), document(entry(new))).changes
    assert change.large is large


def test_the_same_price_in_other_digits_is_no_change() -> None:
    """2.50 is 2.5."""
    assert merged(document(entry("2.50")), document(entry("2.5"))).changes == ()


def test_history_in_the_source_is_kept_as_stated() -> None:
    """A dated entry the book had missed applies from its own date; a rewritten past does not."""
    found = merged(document(entry("2")), document(entry("9"), entry("2.1", "2026-10-01"), entry("2.2", "2026-12-01")))
    at = {
        day: cost_in(found.document, datetime.fromisoformat(f"{day}T12:00:00+00:00"))
        for day in ("2026-09-30", "2026-10-01", "2026-11-23", "2026-11-30", "2026-12-01")
    }
    assert list(at.values()) == ["2", "2.1", "2.1", "2.1", "2.2"]
    assert [(c.start, c.old, c.new) for c in found.changes] == [("2026-10-01", "2", "2.1"), ("2026-12-01", "2", "2.2")]


def test_hours_of_the_day_follow_the_source_from_today_on() -> None:
    """A new price with off-peak hours replaces an old one with other hours, and only from today."""
    old = document(entry("2"), entry("1", daily="16:00-08:00"))
    new = document(entry("2"), entry("1.1", daily="20:00-08:00"))
    found = merged(old, new)
    for day, hours in (("2026-11-22", "12211"), ("2026-11-23", "12222")):
        costs = [
            cost_in(found.document, datetime.fromisoformat(f"{day}T{hour:02d}:00:00+00:00"))
            for hour in (4, 8, 12, 16, 23)
        ]
        expected = ["1", "2", "2", "1", "1"] if hours == "12211" else ["1.1", "2", "2", "2", "1.1"]
        assert costs == expected, day


def test_terms_follow_the_source_from_today_on() -> None:
    """A changed tier price and a new tier begin today; the old tier price stays before; a dropped tier stays."""
    old = document(entry("2"), variants=[entry("4", service_tier="priority"), entry("1", processing="batch")])
    new = document(entry("2"), variants=[entry("4.4", service_tier="priority"), entry("1.5", service_tier="flex")])
    found = merged(old, new)
    past = NOON - timedelta(days=1)
    tier = {name: (("service_tier", name),) for name in ("priority", "flex")}
    assert (cost_in(found.document, past, tier["priority"]), cost_in(found.document, NOON, tier["priority"])) == (
        "4",
        "4.4",
    )
    assert (cost_in(found.document, past, tier["flex"]), cost_in(found.document, NOON, tier["flex"])) == ("2", "1.5")
    assert cost_in(found.document, NOON, (("processing", "batch"),)) == "1"


def test_what_vanished_is_kept_and_marked() -> None:
    """A model the source dropped keeps its price and is marked once; a dropped unit is named as kept."""
    current = document({"rates": {"input_tokens": "1", "web_searches": "10"}})
    current["providers"][0]["models"].append({"id": "old", "prices": [entry("5")]})
    found = merged(current, document(entry("1")))
    assert [(c.kind, c.model) for c in found.changes] == [("model vanished", "old")]
    assert found.document["providers"][0]["models"][1]["vanished"] == "2026-11-23"
    assert found.kept == ("p/m/web_searches",)
    assert merged(found.document, document(entry("1"))).changes == ()
    assert cost_in(found.document, usage=Usage(web_searches=1000)) == "10"
    back = merged(found.document, current)
    assert [(c.kind, c.model) for c in back.changes] == [("model added", "old")]
    assert "vanished" not in back.document["providers"][0]["models"][1]


def test_new_models_and_providers_are_added_and_other_providers_left_alone() -> None:
    """A source speaks for the providers it lists."""
    source = {"format": 1, "source": "s", "providers": [{"id": "q", "models": [{"id": "n", "prices": [entry("1")]}]}]}
    found = merged(document(entry("2")), source)
    assert [(c.kind, c.provider, c.model) for c in found.changes] == [("model added", "q", "n")]
    assert cost_in(found.document) == "2"


def test_a_clause_that_takes_over_another_model_needs_to_be_accepted() -> None:
    """A new model whose clause is too wide would silently re-price an old one."""
    source = document(entry("2"))
    source["providers"][0]["models"].insert(0, {"id": "w", "match": {"contains": "m"}, "prices": [entry("1")]})
    moved = [c for c in merged(document(entry("2")), source).changes if c.kind == "name moved"]
    assert [(c.model, c.old, c.new, c.large) for c in moved] == [("m", "m", "w", True)]


def test_a_second_change_on_one_day_begins_on_the_next_free_day() -> None:
    """A day has one price: what a refresh this morning set is not overwritten this afternoon."""
    first = merged(document(entry("2")), document(entry("2.2")))
    second = merged(first.document, document(entry("2.4")))
    assert cost_in(second.document, NOON) == "2.2"
    assert cost_in(second.document, NOON + timedelta(days=1)) == "2.4"
    assert merged(second.document, document(entry("2.4"))).changes == ()


PRICE = st.sampled_from(["0", "1", "1.1", "2", "3"]) | st.just({"base": "1", "tiers": [[500_000, "2"]]})
START = st.sampled_from(["", "2026-10-01", "2026-11-23", "2026-11-24", "2027-01-01"])
DAILY = st.sampled_from(["", "", "08:00-16:00", "16:00-08:00"])


@st.composite
def lists(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.tuples(START, DAILY), unique=True, max_size=4))
    standard = [entry(draw(PRICE)), *(entry(draw(PRICE), *key) for key in keys if key != ("", ""))]
    under = draw(st.lists(st.tuples(START, st.sampled_from(["flex", "fast"])), unique=True, max_size=3))
    return document(*standard, variants=[entry(draw(PRICE), start, service_tier=tier) for start, tier in under])


@given(current=lists(), source=lists(), days=st.integers(0, 60))
def test_merging_never_changes_an_earlier_day_but_by_stated_history_and_twice_is_once(
    current: dict[str, Any], source: dict[str, Any], days: int
) -> None:
    """Before the refresh only dates the source states may differ; from then on the source holds; again: no change."""
    today = TODAY + timedelta(days=days)
    found = merged(current, source, today)
    stated = sorted(e["from"] for e in source["providers"][0]["models"][0]["prices"] if "from" in e)
    for offset in (-90, -30, -1, 2, 90):
        for hour in (0, 12):
            moment = NOON.replace(hour=hour) + timedelta(days=days + offset)
            was, now, new = (cost_in(listed, moment) for listed in (current, found.document, source))
            if offset < 0:
                known = stated and stated[0] <= moment.date().isoformat()
                assert now == was or known
            else:
                assert now == new
    assert merged(found.document, source, today).changes == ()
    assert merged(found.document, source, today + timedelta(days=7)).changes == ()
