"""The ``routes:`` section: what can be written, what it means, and that every error says where, what and what instead."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.breaker import BreakerRules
from bursar.core.caching import CachePolicy, SemanticPolicy
from bursar.core.money import Rate
from bursar.core.route_fields import ROUTE_FIELDS, ROUTES_MAX, RUNGS_MAX, parse_routes
from bursar.core.routes import Hedge, Limit, Route, RouteRung


def one(spec: Any) -> Route:
    (found,) = parse_routes({"fast": spec}).all
    return found


def error(spec: Any) -> str:
    with pytest.raises(ValueError) as found:
        parse_routes({"fast": spec})
    return str(found.value)


# --- what can be written ----------------------------------------------------------------------------------------


def test_a_list_is_a_route() -> None:
    assert one(["openai/gpt-5-mini", "asked", "groq/a/b"]) == Route(
        "fast",
        (
            RouteRung("primary", provider="openai", model="gpt-5-mini"),
            RouteRung("fallback"),
            RouteRung("fallback", provider="groq", model="a/b"),
        ),
    )


def test_without_rungs_it_is_what_the_client_asked_for() -> None:
    assert one({"prompt_cache": "auto"}).rungs == (RouteRung("primary"),)
    assert one({"prompt_cache": True}).prompt_cache
    assert one({}).rungs[0].is_asked


def test_words_are_rungs() -> None:
    rungs = ["asked", "cached", {"model": "stale", "when": "server"}, "refuse"]
    found = one({"rungs": rungs, "cache": {"stale": "1h"}})
    assert [(rung.name, rung.kind) for rung in found.rungs] == [
        ("primary", "model"), ("cached", "cached"), ("stale", "stale"), ("refuse", "refuse"),
    ]  # fmt: skip
    assert found.rungs[2].when == {"server"}
    assert not found.cache_first
    assert one({"rungs": ["cached", "asked"], "cache": True}).cache_first


@pytest.mark.parametrize(
    ("names", "before"),
    [
        (["*", "claude-*"], "*"),
        (["gpt-*", "a*", "gpt-5*-[ab]"], "gpt-*"),
        (["claude-*", "*"], ""),
        (["*-mini", "gpt-*"], ""),
        (["?", "*"], ""),
        (["*", "claude"], ""),
    ],
)
def test_a_pattern_behind_one_that_takes_all_of_its_models_is_an_error(names: list[str], before: str) -> None:
    """A name comes before every pattern, patterns in their order."""
    routes = {name: {"cache": True} for name in names}
    if not before:
        assert len(parse_routes(routes).all) == len(names)
        return
    with pytest.raises(ValueError, match=re.escape(f"routes.{names[-1]}: {before} stands before it")):
        parse_routes(routes)


def test_what_a_rung_does_not_say_its_route_says() -> None:
    found = one(
        {
            "rungs": ["openai/a", {"model": "groq/b", "first_token": "1s", "breaker": {"in_a_row": 5}}],
            "first_token": "2s", "total": "p95*2", "cost_per_call": "$0.50", "cost_per_mtok": 12.5, "budget_at": "80%",
            "breaker": {"open": "10s"},
        }
    )  # fmt: skip
    first, second = found.rungs
    assert (first.first_token, second.first_token) == (Limit(ms=2_000), Limit(ms=1_000))
    assert first.total == second.total == Limit(quantile=950, factor=2_000)
    assert (first.cost_per_call, first.budget_at) == (500_000_000, 800)
    assert first.breaker == BreakerRules(
        open_s=10,
        first_token_ms=2_000,
        cost_per_call=first.cost_per_call,
        cost_per_token=Rate.of(Decimal("12.5"), 1_000_000),
    )
    assert (second.breaker.in_a_row, second.breaker.open_s, second.breaker.first_token_ms) == (5, 30, 1_000)


def test_everything_at_once() -> None:
    found = one(
        {
            "rungs": [{"model": "openai/a", "name": "main", "when": ["server", "cut"], "output_cap": 500, "effort": "low"}],
            "deadline": "30s", "attempts": 5, "cost_max": "$1", "retries": "0", "hedge": {"after": "p90", "spend": "2%"},
            "mid_stream": "continue",
        }
    )  # fmt: skip
    assert found.rungs == (
        RouteRung(
            "main", provider="openai", model="a", when=frozenset({"server", "cut"}), output_cap=500, effort="low"
        ),
    )
    assert (found.deadline_ms, found.attempts_max, found.cost_max, found.retry_share) == (30_000, 5, 10**9, 0)
    assert found.hedge == Hedge(Limit(quantile=900), 20)
    assert found.mid_stream == "continue"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("500ms", Limit(ms=500)), ("2s", Limit(ms=2_000)), ("10m", Limit(ms=600_000)), ("1h", Limit(ms=3_600_000)),
        ("1d", Limit(ms=86_400_000)), (" 2s ", Limit(ms=2_000)), ("p95", Limit(quantile=950)), ("p99.9", Limit(quantile=999)),
        ("p50*3", Limit(quantile=500, factor=3_000)), ("p95 * 1.25", Limit(quantile=950, factor=1_250)),
    ],
)  # fmt: skip
def test_a_limit_is_a_time_or_a_quantile(written: str, expected: Limit) -> None:
    assert one({"total": written}).rungs[0].total == expected


def test_a_cache_is_as_long_as_it_says() -> None:
    assert one({"cache": {}}).cache == one({"cache": True}).cache == CachePolicy()
    spec = {
        "ttl": "10m", "stale": "1d", "share": "team", "sampled": True, "tool_calls": True, "volatile": "id [0-9]+", "tags": ["a", "b"],
        "semantic": {"errors": "0.5%", "shadow": "10%", "embed": "openai/e", "verify": "judge", "judge": "openai/j"},
    }  # fmt: skip
    assert one({"cache": spec}).cache == CachePolicy(
        600,
        86_400,
        "team",
        True,
        True,
        ("id [0-9]+",),
        ("a", "b"),
        SemanticPolicy(5, 100, "openai/e", "judge", "openai/j"),
    )
    for never in (0, "0", "0s", " 0m "):
        assert one({"cache": {"stale": never}}).cache == CachePolicy(), "the default can be written"
    assert one({"cache": {"semantic": True}}).cache == CachePolicy(semantic=SemanticPolicy())
    assert one({"cache": {"semantic": False}}).cache == CachePolicy()


# --- what cannot ------------------------------------------------------------------------------------------------

WRONG: tuple[tuple[Any, str, str], ...] = (
    # the spec, where the error is, and what is in its text
    (5, "routes.fast", "not a whole number: write its rungs, such as [openai/gpt-5-mini]"),
    ("openai/gpt-4.1", "routes.fast", "expected keys with values, not text: write its rungs, such as [openai/gpt-4.1]"),
    ("asked", "routes.fast", "such as [asked]"),
    ("gpt-4.1", "routes.fast", "such as [openai/gpt-5-mini]"),
    (None, "routes.fast", "it says nothing: write its rungs"),
    ([], "routes.fast.rungs", "write a list"),
    ({"rungs": "openai/a"}, "routes.fast.rungs", "write a list"),
    ({"rungs": {}}, "routes.fast.rungs", "write a list"),
    (["asked"] * (RUNGS_MAX + 1), "routes.fast.rungs", f"at most {RUNGS_MAX}"),
    ({"rung": []}, "routes.fast.rung", "did you mean 'rungs'?"),
    ({"xyzzy": 1}, "routes.fast.xyzzy", "known keys: rungs"),
    (["gpt-4o"], "routes.fast.rungs[0]", "'gpt-4o' is no rung: write provider/model"),
    (["openai/"], "routes.fast.rungs[0]", "is no rung"),
    (["/a"], "routes.fast.rungs[0]", "is no rung"),
    ([7], "routes.fast.rungs[0]", "expected keys with values, not a whole number: write provider/model"),
    ([{"name": "x"}], "routes.fast.rungs[0]", "say model: provider/model, or model: asked"),
    ([{}], "routes.fast.rungs[0]", "say model: "),
    ([{"stale": True}], "routes.fast.rungs[0].stale", "stale is a rung itself: write stale, or {model: stale}"),
    ([{"model": "openai/a", "refuse": True}], "routes.fast.rungs[0].refuse", "refuse is a rung itself"),
    ([{"model": 7}], "routes.fast.rungs[0].model", "'7' is no model: write provider/model"),
    ([{"model": "openai/a", "modle": 1}], "routes.fast.rungs[0].modle", "did you mean 'model'?"),
    ([{"model": "openai/a", "deadline": "1s"}], "routes.fast.rungs[0].deadline", "unknown key"),
    (["asked", "cached"], "routes.fast.rungs[1]", "nothing is kept on this route: say how with cache"),
    (["refuse", "asked"], "routes.fast.rungs[0]", "refuse is the last rung"),
    ({"rungs": [{"model": "stale", "total": "1s"}], "cache": {}}, "routes.fast.rungs[0].total", "asks no provider: leave it out"),
    ([{"model": "openai/a", "when": "sever"}], "routes.fast.rungs[0].when", "'sever' is not possible: use connect"),
    ([{"model": "openai/a", "when": [1]}], "routes.fast.rungs[0].when", "1 is not possible"),
    ([{"model": "openai/a", "when": [["cut"]]}], "routes.fast.rungs[0].when", "is not possible"),
    ([{"model": "openai/a", "name": "A b"}], "routes.fast.rungs[0].name", "'A b' is no name: use up to 64"),
    ([{"model": "openai/a", "name": "cached"}], "routes.fast.rungs[0].name", "'cached' is what an answer that is not a model's is called: choose another"),
    ([{"model": "openai/a", "output_cap": 0}], "routes.fast.rungs[0].output_cap", "whole number from 1 to"),
    ([{"model": "openai/a", "effort": "huge"}], "routes.fast.rungs[0].effort", "'huge' is not possible: use"),
    ({"total": "5"}, "routes.fast.total", "'5' is no duration: write 500ms, 2s, 10m, 1h or 1d, or a quantile"),
    ({"total": 5}, "routes.fast.total", "'5' is no duration"),
    ({"total": "0s"}, "routes.fast.total", "is no duration"),
    ({"total": "-2s"}, "routes.fast.total", "is no duration"),
    ({"total": "p5"}, "routes.fast.total", "is no duration"),
    ({"total": "p95*0"}, "routes.fast.total", "the factor must be above 0"),
    ({"first_token": "p95*"}, "routes.fast.first_token", "is no duration"),
    ({"rungs": [{"model": "openai/a", "total": "x"}], "total": "1s"}, "routes.fast.rungs[0].total", "'x' is no duration"),
    ({"deadline": "soon"}, "routes.fast.deadline", "'soon' is no duration"),
    ({"attempts": 0}, "routes.fast.attempts", "0 must be a whole number from 1 to 12"),
    ({"attempts": True}, "routes.fast.attempts", ": true must be a whole number"),
    ({"attempts": Decimal("1.5")}, "routes.fast.attempts", ": 1.5 must be a whole number"),
    ({"attempts": None}, "routes.fast.attempts", ": nothing must be a whole number"),
    ({"attempts": 2.0}, "routes.fast.attempts", "2.0 must be a whole number"),
    ({"cost_max": "ten"}, "routes.fast.cost_max", "ten"),
    ({"cost_per_call": -1}, "routes.fast.cost_per_call", "-1"),
    ({"cost_per_mtok": "free"}, "routes.fast.cost_per_mtok", "'free' is no price: write USD for a million tokens"),
    ({"cost_per_mtok": 0}, "routes.fast.cost_per_mtok", "'0' is no price"),
    ({"cost_per_mtok": True}, "routes.fast.cost_per_mtok", "'True' is no price"),
    ({"cost_per_mtok": "nan"}, "routes.fast.cost_per_mtok", "'nan' is no price"),
    ({"retries": "150%"}, "routes.fast.retries", "'150%' is no share: write a percentage from 0% to 100%, in steps of 0.1%"),
    ({"retries": "some"}, "routes.fast.retries", "'some' is no share: write a percentage"),
    ({"budget_at": "0%"}, "routes.fast.budget_at", "'0%' is no share"),
    ({"budget_at": "180%"}, "routes.fast.budget_at", "write a percentage from 0.1% to 100%"),
    ({"budget_at": Decimal("0.8")}, "routes.fast.budget_at", "'0.8' may be meant as 0.8% or as 80%: write it with its %"),
    ({"retries": Decimal("0.1")}, "routes.fast.retries", "'0.1' may be meant as 0.1% or as 10%"),
    ({"rungs": ["stale"], "cache": {"ttl": "1h"}}, "routes.fast.rungs[0]", "say how long with cache: {stale: 1d}"),
    ({"hedge": "p95"}, "routes.fast.hedge", "not text: write {after: p95, spend: 5%}, or leave it out"),
    ({"hedge": True}, "routes.fast.hedge", "not true or false: write {after: p95"),
    ({"hedge": {"spend": 1}}, "routes.fast.hedge.spend", "'1' may be meant as 1% or as 100%"),
    ({"hedge": {"when": "p95"}}, "routes.fast.hedge.when", "unknown key 'when'"),
    ({"hedge": {"after": "early"}}, "routes.fast.hedge.after", "'early' is no duration"),
    ({"hedge": {"spend": "101%"}}, "routes.fast.hedge.spend", "from 0% to 100%"),
    ({"mid_stream": "retry"}, "routes.fast.mid_stream", "'retry' is not possible: use end, continue"),
    ({"prompt_cache": "on"}, "routes.fast.prompt_cache", "'on' is not possible: use auto"),
    ({"prompt_cache": 1}, "routes.fast.prompt_cache", "1 must be true or false"),
    ({"breaker": {"in_a_row": 0}}, "routes.fast.breaker.in_a_row", "whole number from 1 to"),
    ({"breaker": {"opens": "1s"}}, "routes.fast.breaker.opens", "did you mean 'open'?"),
    ({"breaker": {"open": 30}}, "routes.fast.breaker.open", "'30' is no duration"),
    ({"breaker": {"share": "x"}}, "routes.fast.breaker.share", "'x' is no share"),
    ({"breaker": {"share": "500%"}}, "routes.fast.breaker.share", "from 0.1% to 100%"),
    ({"breaker": {"share": Decimal("0.5")}}, "routes.fast.breaker.share", "write it with its %"),
    *(({"breaker": {field: "500ms"}}, f"routes.fast.breaker.{field}", "'500ms' is no whole number of seconds: write 1s or more")
      for field in ("open", "open_max", "within")),
    ({"breaker": None}, "routes.fast.breaker", "expected keys with values, not nothing: write {in_a_row: 2}, or leave it out"),
    ({"cache": "2h"}, "routes.fast.cache", "expected keys with values, not text: write {ttl: 2h}, or leave it out"),
    ({"cache": False}, "routes.fast.cache", "not true or false: write {ttl: 1h}, or leave it out"),
    ({"cache": {"ttl": "500ms"}}, "routes.fast.cache.ttl", "'500ms' is no whole number of seconds: write 1s or more"),
    ({"cache": {"ttl": "1500ms"}}, "routes.fast.cache.ttl", "no whole number of seconds"),
    ({"cache": {"ttl": 0}}, "routes.fast.cache.ttl", "is no duration"),
    ({"cache": {"stale": "500ms"}}, "routes.fast.cache.stale", "write 1s or more, or 0 for not at all"),
    ({"cache": {"stale": 60}}, "routes.fast.cache.stale", "'60' is no duration"),
    ({"cache": {"stale": False}}, "routes.fast.cache.stale", "'False' is no duration"),
    ({"rungs": ["stale"], "cache": {"stale": 0}}, "routes.fast.rungs[0]", "nothing is kept past its time"),
    ({"cache": {"tll": "1h"}}, "routes.fast.cache.tll", "did you mean 'ttl'?"),
    ({"cache": {"ttl": 3600}}, "routes.fast.cache.ttl", "'3600' is no duration"),
    ({"cache": {"share": "world"}}, "routes.fast.cache.share", "'world' is not possible: use key, user, agent, team, org"),
    ({"cache": {"sampled": "yes"}}, "routes.fast.cache.sampled", "'yes' must be true or false"),
    ({"cache": {"sampled": Decimal("1.5")}}, "routes.fast.cache.sampled", ": 1.5 must be true or false"),
    ({"cache": {"volatile": "("}}, "routes.fast.cache.volatile", "'(' is no regular expression"),
    ({"cache": {"volatile": "x*"}}, "routes.fast.cache.volatile", "'x*' also matches an empty text: say what may differ"),
    ({"cache": {"volatile": [1]}}, "routes.fast.cache.volatile", "write a text, or a list of up to 32"),
    ({"cache": {"tags": ["a"] * 33}}, "routes.fast.cache.tags", "a list of up to 32"),
    ({"cache": {"tags": ["a", "b,c"]}}, "routes.fast.cache.tags", "'b,c': a tag has no comma, and no space around it: write [a, b]"),
    ({"cache": {"tags": " "}}, "routes.fast.cache.tags", "no space around it"),
    ({"cache": {"semantic": {"errors": Decimal("0.02")}}}, "routes.fast.cache.semantic.errors", "0.02% or as 2%"),
    ({"cache": {"semantic": {"shadow": "101%"}}}, "routes.fast.cache.semantic.shadow", "from 0% to 100%"),
    ({"cache": {"semantic": "json"}}, "routes.fast.cache.semantic", "not text: write {errors: 2%}"),
    ({"cache": {"semantic": {"errors": "30%"}}}, "routes.fast.cache.semantic.errors", "from 0.1% to 20%"),
    ({"cache": {"semantic": {"errors": "0"}}}, "routes.fast.cache.semantic.errors", "from 0.1% to 20%"),
    ({"cache": {"semantic": {"embed": "gpt"}}}, "routes.fast.cache.semantic.embed", "'gpt': write ngrams, local, provider/model"),
    ({"cache": {"semantic": {"verify": "judge"}}}, "routes.fast.cache.semantic.judge", "add judge: openai/gpt-5-mini"),
    ({"cache": {"semantic": {"judge": "openai/j"}}}, "routes.fast.cache.semantic.judge", "add verify: judge"),
    ({"cache": {"semantic": {"judge": "j"}}}, "routes.fast.cache.semantic.judge", "'j': write provider/model"),
)  # fmt: skip


@pytest.mark.parametrize(("spec", "path", "text"), WRONG, ids=[f"{row[1][12:]}-{n}" for n, row in enumerate(WRONG)])
def test_an_error_names_the_path_the_value_and_the_way_out(spec: Any, path: str, text: str) -> None:
    found = error(spec)
    assert found.startswith(f"{path}: ")
    assert text in found


def test_names_and_their_number_are_limited() -> None:
    for name in ("", "x" * 201):
        with pytest.raises(ValueError, match="from 1 to 200 characters"):
            parse_routes({name: ["asked"]})
    with pytest.raises(ValueError, match=f"at most {ROUTES_MAX}"):
        parse_routes({f"r{number}": ["asked"] for number in range(ROUTES_MAX + 1)})


def test_an_error_shows_no_more_of_a_value_than_is_of_use() -> None:
    for spec in (
        ["x" * 10_000],
        {"total": "9" * 10_000},
        {"cost_per_mtok": "y" * 10_000},
        [{"model": "a/b", "name": "z" * 10_000}],
    ):
        assert len(error(spec)) < 400


words = st.sampled_from(
    [*ROUTE_FIELDS, "model", "name", "when", "ttl", "semantic", "after", "spend", "open", "in_a_row", "asked", "cached", "a/b", "p95", "1s", "$1", "5%"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=2))
def test_whatever_is_written_it_is_routes_or_an_error_with_its_path(raw: dict[str, Any]) -> None:
    error = ""
    try:
        assert len(parse_routes(raw).all) == len(raw)
    except ValueError as found:
        error = str(found)
    assert error == "" or error.startswith("routes.")
