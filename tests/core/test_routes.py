"""Which rung a call takes, and where it goes on: pure functions, by example and over random routes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.breaker import Verdict
from bursar.core.caching import CachePolicy
from bursar.core.failures import CAUSES, COUNTED, WAYS, Cause
from bursar.core.money import NanoUSD
from bursar.core.routes import Limit, Route, RouteRung, Routes, Standing, limit_ms, next_after, pick

CLOSED, PROBE = Verdict("closed"), Verdict("probe", "was open")


def rung(kind: str = "model", *when: Cause, cap: int | None = None) -> RouteRung:
    model = kind not in ("cached", "stale", "refuse")
    return RouteRung(
        kind, kind="model" if model else kind, provider="p" if model else "", when=frozenset(when),  # type: ignore[arg-type]  # by its name
        cost_per_call=None if cap is None else NanoUSD(cap),
    )  # fmt: skip


def route(*rungs: RouteRung | str) -> Route:
    return Route("r", tuple(rung(each) if isinstance(each, str) else each for each in rungs))


def opened(until_us: int, *, exact: bool = False) -> Standing:
    return Standing(Verdict("open", f"until {until_us}", until_us, exact))


def choose(it: Route, *standings: Standing | None, stale: bool = False) -> tuple[int | None, bool, int]:
    known = {index: each for index, each in enumerate(standings) if each is not None}
    found = pick(it, range(len(it.rungs)), known.__getitem__, has_stale=stale)
    return found.index, found.panic, found.wait_us


GOOD = Standing(CLOSED)


# --- pick -------------------------------------------------------------------------------------------------------


def test_the_first_rung_that_stands_well_is_taken() -> None:
    assert choose(route("a", "b"), GOOD, GOOD) == (0, False, 0)
    assert choose(route("a", "b"), opened(9), GOOD) == (1, False, 0)
    assert choose(route("a", "b"), Standing(CLOSED, barred="no key"), GOOD) == (1, False, 0)


def test_a_probe_is_a_taken_rung() -> None:
    found = pick(route("a", "b"), [0, 1], {0: Standing(PROBE), 1: GOOD}.__getitem__, has_stale=False)
    assert (found.index, found.probe, found.panic) == (0, True, False)


def test_why_others_were_passed_over_is_said() -> None:
    dear = rung("b", cap=10)
    found = pick(
        route("a", dear, "c"), [0, 1, 2], [opened(9), Standing(CLOSED, expected=NanoUSD(11)), GOOD].__getitem__,
        has_stale=False,
    )  # fmt: skip
    assert found.index == 2
    assert found.passed == {0: "until 9", 1: "expected to cost $0.000000011, cost_per_call is $0.000000010"}


@pytest.mark.parametrize(("expected", "taken"), [(None, 0), (9, 0), (10, 0), (11, 1)])
def test_a_price_above_the_cap_is_passed_over_and_an_unknown_one_is_not(expected: int | None, taken: int) -> None:
    standing = Standing(CLOSED, expected=None if expected is None else NanoUSD(expected))
    assert choose(route(rung("a", cap=10), "b"), standing, GOOD)[0] == taken


def test_a_rung_for_a_cause_is_for_no_other() -> None:
    """An open breaker has a cause too: that of the failures which opened it."""
    only = rung("b", "context")
    assert choose(route("a", only), GOOD, GOOD) == (0, False, 0)
    assert choose(route("a", only, "c"), Standing(CLOSED, barred="no key"), GOOD, GOOD) == (2, False, 0)
    assert choose(route("a", only), opened(9), GOOD) == (0, True, 0)
    limited = Standing(Verdict("open", "w", 9, cause="rate_limit"))
    assert choose(route("a", only, rung("c", "rate_limit")), limited, GOOD, GOOD) == (2, False, 0)
    dear = Standing(CLOSED, expected=NanoUSD(11))
    assert choose(route(rung("a", cap=10), rung("b", "cost")), dear, GOOD) == (1, False, 0)
    found = pick(route(only), [0], [GOOD].__getitem__, has_stale=False)
    assert (found.index, found.passed) == (None, {0: "only for context"})
    assert pick(route(only), [0], [GOOD].__getitem__, has_stale=False, causes=frozenset({"context"})).index == 0


def test_when_all_fail_the_one_that_is_tried_next_is_taken_all_the_same() -> None:
    assert choose(route("a", "b", "c"), opened(30), opened(10), opened(20)) == (1, True, 0)


def test_in_a_panic_nobody_is_asked_who_asked_to_be_left_alone() -> None:
    assert choose(route("a", "b"), opened(10, exact=True), opened(30)) == (1, True, 0)
    assert choose(route("a", "b"), opened(20, exact=True), opened(10, exact=True)) == (None, False, 10)


def test_what_cannot_take_the_call_is_not_asked_in_a_panic_either() -> None:
    barred = Standing(CLOSED, barred="no key")
    assert choose(route("a", "b"), barred, opened(10)) == (1, True, 0)
    assert choose(route("a", "b"), barred, barred) == (None, False, 0)


def test_a_kept_answer_is_better_than_a_panic() -> None:
    assert choose(route("a", "stale"), opened(10), stale=True) == (1, False, 10)
    assert choose(route("a", "stale"), opened(10), stale=False) == (0, True, 0)
    assert choose(route("a", "cached"), opened(10)) == (1, False, 10)


def test_a_refusal_says_when_to_come_again() -> None:
    """``refuse`` is a rung: what is passed over before it is why, and until when."""
    assert choose(route("a", "b", "refuse"), opened(30), opened(20, exact=True)) == (2, False, 20)


verdicts = st.one_of(
    st.just(CLOSED), st.just(PROBE),
    st.builds(lambda *open_: Verdict("open", "w", *open_), st.integers(1, 99), st.booleans(), st.sampled_from(sorted(COUNTED))),
)  # fmt: skip
standings = st.builds(Standing, verdicts, st.sampled_from(["", "", "no key"]), st.sampled_from([None, 1, 500]))
rungs = st.builds(
    lambda kind, when, cap: RouteRung(kind, kind=kind, provider="p", when=when, cost_per_call=cap),
    st.sampled_from(["model", "model", "model", "cached", "stale"]),
    st.frozensets(st.sampled_from(CAUSES), max_size=3),
    st.sampled_from([None, 100]),
)
random_routes = st.builds(lambda found: Route("r", tuple(found)), st.lists(rungs, min_size=1, max_size=6))


@given(random_routes, st.lists(standings, min_size=6, max_size=6), st.booleans(), st.data())
def test_the_same_values_give_the_same_choice_and_it_is_one_that_may_be(
    it: Route, known: list[Standing], has_stale: bool, data: st.DataObject
) -> None:
    order = sorted(data.draw(st.sets(st.integers(0, len(it.rungs) - 1))))
    stand = dict(enumerate(known))
    causes = data.draw(st.frozensets(st.sampled_from(CAUSES), max_size=2))
    found = pick(it, order, known.__getitem__, has_stale=has_stale, causes=causes)
    assert found == pick(it, list(order), stand.__getitem__, has_stale=has_stale, causes=causes)

    def is_meant(index: int) -> bool:
        """Whether a cause that it is for is known of those before it."""
        rungs = [each for each in order if each < index and it.rungs[each].kind == "model"]
        open_ = {stand[each].verdict.cause for each in rungs if not stand[each].barred and is_meant(each)}
        dear = {
            "cost" for each in rungs if not stand[each].barred and _dear(it.rungs[each], stand[each]) and is_meant(each)
        }
        return not it.rungs[index].when or bool(it.rungs[index].when & (causes | open_ | dear))

    if found.index is None:
        assert all(it.rungs[each].kind in ("model", "stale") for each in order)
        assert all(
            stand[each].barred or stand[each].verdict.exact or _dear(it.rungs[each], stand[each]) or not is_meant(each)
            for each in order
            if it.rungs[each].kind == "model"
        )
        return
    assert found.index in order
    assert found.index not in found.passed
    taken = it.rungs[found.index]
    if taken.kind == "stale":
        assert has_stale
    if taken.kind == "model":
        standing = stand[found.index]
        assert not standing.barred
        assert is_meant(found.index)
        assert not _dear(taken, standing)
        assert found.panic == (standing.verdict.state == "open")
        assert not (found.panic and standing.verdict.exact)
    assert all(each in order for each in found.passed)
    if not found.panic:
        assert all(each < found.index for each in found.passed)
        assert set(found.passed) == {each for each in order if each < found.index}


def _dear(rung: RouteRung, standing: Standing) -> bool:
    return rung.cost_per_call is not None and (standing.expected or 0) > rung.cost_per_call


# --- next_after -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_goes_on_or_not_as_its_way_says(cause: Cause) -> None:
    """All that is not the request's own fault goes on; to a rung that names it, everything does."""
    goes = WAYS[cause] != "named"
    assert next_after(route("a", "b"), 0, cause) == ((1,) if goes else ())
    assert next_after(route("a", rung("b", cause), "c"), 0, cause) == ((1, 2) if goes else (1,))
    other: Cause = "slow" if cause != "slow" else "cut"
    assert next_after(route("a", rung("b", other), "c"), 0, cause) == ((1, 2) if goes else ()), "pick looks at ``when``"
    assert next_after(route("a", "b", "stale"), 0, cause) == ((1, 2) if goes else (2,) if cause == "budget" else ())


def test_only_what_comes_after_follows() -> None:
    assert next_after(route("a", "b", "c"), 1, "server") == (2,)
    assert next_after(route("a", "b", "c"), 2, "server") == ()


def test_a_prompt_that_is_too_long_goes_to_a_larger_window() -> None:
    it = route("a", "b", "c")
    assert next_after(it, 0, "context") == ()
    assert next_after(it, 0, "context", roomier=frozenset({2})) == (2,)
    assert next_after(it, 0, "request", roomier=frozenset({2})) == (), "that is for a long prompt alone"
    assert next_after(route("a", rung("b", "request")), 0, "context", roomier=frozenset({1})) == ()


@given(random_routes, st.integers(0, 5), st.sampled_from(CAUSES), st.frozensets(st.integers(0, 5)))
def test_rungs_follow_in_order_and_never_come_again(
    it: Route, index: int, cause: Cause, roomier: frozenset[int]
) -> None:
    found = next_after(it, index, cause, roomier=roomier)
    assert list(found) == sorted(set(found))
    assert all(index < each < len(it.rungs) for each in found)
    for each in found:
        when = it.rungs[each].when
        assert WAYS[cause] != "named" or not when or cause in when or it.rungs[each].kind != "model"


def test_every_cause_has_a_way() -> None:
    assert set(WAYS) == set(CAUSES)
    assert set(CAUSES) >= COUNTED
    assert not COUNTED & {"budget", "request", "auth", "context", "content_policy", "cost"}


# --- the rest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "seen", "expected"),
    [
        (None, 5.0, None),
        (Limit(ms=200), None, 200),
        (Limit(quantile=950), None, None),
        (Limit(quantile=950), 300.0, 300),
        (Limit(quantile=950, factor=2_500), 300.0, 750),
    ],
)
def test_a_limit_is_a_time_or_a_quantile_times_a_factor(
    limit: Limit | None, seen: float | None, expected: float | None
) -> None:
    assert limit_ms(limit, seen) == expected


def test_a_name_comes_before_a_pattern_and_patterns_in_their_order() -> None:
    one, two, three = (Route(name, (rung("a"),)) for name in ("gpt-*", "gpt-4o", "*"))
    routes = Routes([one, two, three])
    assert routes.find("gpt-4o") is two
    assert routes.find("gpt-5") is one
    assert routes.find("claude") is three
    assert routes.find("") is three
    assert Routes([one]).find("GPT-4o") is None
    assert Routes().find("gpt-4o") is None


def test_the_cache_is_asked_first_unless_it_is_a_rung() -> None:
    it = dataclasses.replace(route("a"), cache=CachePolicy())
    assert it.cache_first
    assert not dataclasses.replace(route("a", "cached"), cache=CachePolicy()).cache_first
    assert not route("a").cache_first
