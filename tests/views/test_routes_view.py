"""What became of the calls on routes: each counted once, where it ended."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bursar.views.asking import BadQuestion
from bursar.views.routes import RouteFigures, names_of_routes, routes, targets
from route_stories import GPT, LLAMA, SONNET, candidate, decided, fallback, hit, primary
from seeding import NOW, MemoryLedger


@pytest.fixture
def ledger() -> MemoryLedger:
    """Six calls on the route fast: three on the first rung, two fallbacks, one from the cache; and others that are on none."""
    ledger = MemoryLedger()
    for number in range(3):
        primary(ledger, f"p{number}", team="search", latency_ms=100.0 * (number + 1), cost_nanousd=10)
    fallback(ledger, "f0", team="search")
    fallback(ledger, "f1")
    hit(ledger, "h0")
    ledger.attempt(cost_nanousd=1_000_000)
    ledger.attempt(kind="tool", rung="cached", cache="tool", decision='{"rung": "cached", "cache": {"tier": "tool"}}')
    return ledger


def _only(ledger: MemoryLedger, name: str = "") -> RouteFigures:
    (route,) = routes(ledger, route=name).routes
    return route


def test_a_call_counts_where_it_ended(ledger: MemoryLedger) -> None:
    """Attempts, errors and money stand where they were made; the rungs are in the order of the route."""
    route = _only(ledger)
    assert [
        (rung.rung, rung.provider, rung.model, rung.figures.calls, rung.figures.attempts, rung.figures.errors)
        for rung in route.rungs
    ] == [("cached", "", "", 1, 0, 0), ("primary", *GPT, 3, 5, 2), ("fallback", *LLAMA, 2, 2, 0)]
    assert [rung.figures.cost_nanousd for rung in route.rungs] == [0, 30, 2_460_000]
    assert [rung.figures.causes for rung in route.rungs] == [{}, {}, {"overload": 2}]
    assert route.rungs[0].figures.avoided_nanousd == 4_200_000


def test_the_figures_of_a_route_are_over_all_of_it(ledger: MemoryLedger) -> None:
    """Attempts for each call that asked a provider: what the cache answered is not one."""
    route = _only(ledger)
    whole = route.figures
    assert (whole.calls, whole.attempts, route.asking_calls, route.amplification) == (6, 7, 5, 1.4)
    assert (whole.cost_nanousd, whole.errors, whole.causes) == (2_460_030, 2, {"overload": 2})
    answer = routes(ledger).to_json()["routes"][0]
    assert [rung["share"] for rung in answer["rungs"]] == [0.1667, 0.5, 0.3333]


def test_times_are_told_to_the_microsecond(ledger: MemoryLedger) -> None:
    """What interpolating makes of them has no more figures than they have."""
    for number, latency_ms in enumerate((0.1, 0.2, 2.7)):
        primary(ledger, f"fine{number}", latency_ms=latency_ms, decision=decided("primary", "asked", route="fine"))
    rung = routes(ledger, route="fine").to_json()["routes"][0]["rungs"][0]
    assert (rung["p50_ms"], rung["p95_ms"]) == (0.2, 2.45)


def test_what_its_rungs_ask_is_known_also_where_it_was_passed_over(ledger: MemoryLedger) -> None:
    """Of the routes and calls that are asked about, and of no others."""
    other = decided("primary", "asked", candidate("primary", ("x", "y"), "taken"), route="other")
    primary(ledger, "other", team="care", decision=other)
    assert targets(ledger, route="fast") == {GPT, SONNET, LLAMA}
    assert targets(ledger) == {GPT, SONNET, LLAMA, ("x", "y")}
    assert targets(ledger, where={"team": "care"}) == {("x", "y")}
    assert targets(ledger, until=NOW - timedelta(days=1)) == frozenset()
    with pytest.raises(BadQuestion, match="several of model"):
        targets(ledger, where={"model": "x"})


def test_times_are_those_of_answers(ledger: MemoryLedger) -> None:
    """A quick refusal does not make a rung look fast; without an answer there is no time."""
    first = _only(ledger).rungs[1].figures
    assert (first.p50_ms, first.p95_ms) == (200.0, pytest.approx(290.0))
    ledger.attempt(
        rung="primary", status="error", cost_nanousd=None, decision=decided("primary", "asked", route="broken")
    )
    figures = _only(ledger, "broken").figures
    assert (figures.p50_ms, figures.cost_nanousd, figures.unpriced, figures.calls) == (None, None, 1, 1)


def test_a_hedge_is_one_call(ledger: MemoryLedger) -> None:
    """It ended at the attempt that answered, also when that was made first; the other was cancelled."""
    one, two = candidate("primary", GPT, "taken"), candidate("fallback", LLAMA, "not needed")
    ledger.attempt(call_id="x", rung="primary", decision=decided("primary", "asked", one, two, route="hedged"))
    both = ({**one, "verdict": "not needed"}, {**two, "verdict": "hedge"})
    ledger.attempt(
        call_id="x", number=2, rung="fallback", status="cancelled",
        decision=decided("fallback", "hedge", *both, route="hedged"),
    )  # fmt: skip
    route = _only(ledger, "hedged")
    assert [(rung.figures.calls, rung.figures.cancelled) for rung in route.rungs] == [(1, 0), (0, 1)]
    assert (route.figures.errors, route.amplification) == (0, 2.0)


def test_time_and_who_it_is_for_narrow_it(ledger: MemoryLedger) -> None:
    """Columns that all attempts of a call share; the others are refused by name."""
    (route,) = routes(ledger, where={"team": "search"}).routes
    assert (route.figures.calls, route.figures.attempts) == (4, 5)
    assert routes(ledger, since=NOW + timedelta(seconds=1)).routes == ()
    assert routes(ledger, route="other").routes == ()
    for column in ("model", "provider", "status"):
        with pytest.raises(BadQuestion, match=column) as caught:
            routes(ledger, where={column: "x"})
        assert caught.value.field == "where"


def test_what_was_summed_up_is_counted(ledger: MemoryLedger) -> None:
    """Within the time asked for and for whom; what was on no route is not counted."""
    ledger.rollup(rung="primary", attempts=40, team="search")
    ledger.rollup(rung="cached", cache="exact", attempts=2)
    ledger.rollup(attempts=7)
    ledger.rollup(rung="cached", cache="tool", kind="tool", attempts=9)
    assert routes(ledger).rolled_up_attempts == 42
    assert routes(ledger, where={"team": "search"}).rolled_up_attempts == 40
    assert routes(ledger, where={"task": "t-1"}).rolled_up_attempts == 0
    assert routes(ledger, since=NOW - timedelta(days=1)).rolled_up_attempts == 0
    assert routes(MemoryLedger()).rolled_up_attempts == 0


def test_the_names_of_routes(ledger: MemoryLedger) -> None:
    """Each once, in order."""
    primary(ledger, "x", decision=decided("primary", "asked", route="a"))
    assert names_of_routes(ledger) == ("a", "fast")


def test_a_model_that_a_budget_put_in_its_place_is_a_line_of_its_own(ledger: MemoryLedger) -> None:
    """Named as it was sent, whatever the provider calls the one that answered, or nobody did."""
    decision = decided("cheaper", "budget all", {"provider": "openai", "model": "gpt-5-nano"}, route="held")
    for status in ("ok", "error"):
        model = "gpt-5-nano-2025-08-07" if status == "ok" else "gpt-5-nano"
        ledger.attempt(model=model, rung="primary", status=status, decision=decision)
    (rung,) = _only(ledger, "held").rungs
    assert (rung.rung, rung.model, rung.figures.attempts) == ("primary", "gpt-5-nano", 2)


def test_routes_with_most_calls_come_first_and_rungs_past_a_limit_are_counted(ledger: MemoryLedger) -> None:
    """The figures of a route stay over all of its rungs."""
    for number in range(7):
        primary(
            ledger, f"b{number}", decision=decided("primary", "asked", candidate("primary", GPT, "taken"), route="big")
        )
    report = routes(ledger, limit=2)
    assert [(route.route, route.figures.calls, len(route.rungs)) for route in report.routes] == [
        ("big", 7, 1), ("fast", 6, 1),
    ]  # fmt: skip
    assert (report.rung_count, report.more_rungs) == (4, 2)
    assert routes(MemoryLedger()).to_json() == {"routes": [], "more_rungs": 0, "rolled_up_attempts": 0}
