"""A call's way up its rungs: which attempts are made, when, and that each of them ends, whatever happens in between."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_climb import START_US, Does, Fake, Made, World, run

from bursar.core.caching import CacheEntry
from bursar.core.call import Refused
from bursar.core.failures import CAUSES
from bursar.core.money import NanoUSD
from bursar.core.routes import Hedge, Limit, Route, RouteRung
from bursar.engine.climb import Climbed
from bursar.engine.ports import ClientGoneError
from bursar.engine.survey import Kept

OK, FAILS, HANGS = Does(), Does("server"), Does(hangs=True)
ENTRY = CacheEntry("k", "t", "r", b"{}", "application/json", False, "p", "m", 5, (), "a", 0, 1, 1 << 62)
FRESH_ENTRY = replace(ENTRY, expires_us=1 << 61)
FRESH, STALE = Kept(FRESH_ENTRY, "exact", FRESH_ENTRY, {}), Kept(None, "exact", ENTRY, {})


def route(*kinds: str, **more: Any) -> Route:
    """Rungs of these kinds; a model's name is its place."""
    rungs = [
        RouteRung(f"r{index}", provider=f"p{index}", model="m", **more.pop(f"r{index}", {}))
        if kind == "model"
        else RouteRung(kind, kind=kind)  # type: ignore[arg-type]  # by its name
        for index, kind in enumerate(kinds)
    ]
    return Route("r", tuple(rungs), **more)


def two(**more: Any) -> Route:
    return route("model", "model", **more)


def walk(world: World) -> tuple[Climbed, list[tuple[int, str]]]:
    """How it ended, and the attempts: where, and how each ended."""
    found = run(world.climb)
    return found, [(each.index, each.end) for each in world.made]


def told(world: World) -> float:
    """When the last attempt began, after the first, in seconds."""
    return round(world.made[-1].at_s - world.made[0].at_s, 3)


# --- walks ------------------------------------------------------------------------------------------------------


def test_the_first_rung_answers() -> None:
    found, made = walk(World(two(), [[OK], [OK]]))
    assert (made, found.rung, found.cause, found.left_for) == ([(0, "ok")], "r0", None, "")
    assert (found.serial, found.number) == (2, 2)


def test_a_failure_goes_on_at_once() -> None:
    """There is no waiting while another rung is there: 100 ms for the failure, 1 to settle it, and on."""
    world = World(two(), [[FAILS], [OK]])
    found, made = walk(world)
    assert (made, found.rung, found.left_for) == ([(0, "error"), (1, "ok")], "r1", "server")
    assert told(world) == 0.101
    assert [(each.why.serial, each.why.number, each.why.cause) for each in world.made] == [(1, 1, ""), (2, 2, "server")]


def test_what_anybody_would_refuse_is_not_tried_elsewhere() -> None:
    found, made = walk(World(two(), [[Does("request")], [OK]]))
    assert (made, found.rung, found.cause) == ([(0, "error")], "r0", "request")
    found, made = walk(World(two(r1={"when": frozenset({"request"})}), [[Does("request")], [OK]]))
    assert (made, found.rung) == ([(0, "error"), (1, "ok")], "r1")


def test_the_last_error_is_passed_on() -> None:
    found, made = walk(World(two(retry_share=0), [[Does("rate_limit")], [Does("overload")]]))
    assert (made, found.rung, found.cause) == ([(0, "error"), (1, "error")], "r1", "overload")
    assert found.done is not None


def test_a_prompt_that_is_too_long_goes_to_the_roomier_rung() -> None:
    it = World(route("model", "model", "model"), [[Does("context")], [OK], [OK]], windows={0: 10, 1: 10, 2: 20})
    assert walk(it)[1] == [(0, "error"), (2, "ok")]


def test_a_rung_that_cannot_take_the_call_is_passed_over_with_its_reason() -> None:
    found, made = walk(World(two(), [["it has no key"], ["nor this"]]))
    assert (made, found.by, found.reason) == ([], None, "r0 (p0/m): it has no key; r1 (p1/m): nor this")
    assert (found.serial, found.number) == (1, 1)


def test_a_budgets_refusal_is_what_the_client_is_told() -> None:
    found, made = walk(World(two(), [[Does(refused=True)], [OK]]))
    assert made == [(0, "void")]
    assert isinstance(found.done, Refused)
    assert found.cause == "budget"


def test_a_budgets_refusal_may_be_answered_from_what_is_kept_or_by_a_rung_for_it() -> None:
    found, made = walk(World(route("model", "stale"), [[Does(refused=True)], []], kept=STALE))
    assert (made, found.kept, found.tier) == ([(0, "void")], ENTRY, "stale")
    found, made = walk(World(two(r1={"when": frozenset({"budget"})}), [[Does(refused=True)], [OK]]))
    assert (made, found.rung) == ([(0, "void"), (1, "ok")], "r1")


def test_a_rung_that_its_budget_passes_over_leaves_an_honest_refusal() -> None:
    """Nothing has been asked, so nothing can be passed on: the reason is ours."""
    found, made = walk(World(route("model"), [[Does("budget")]]))
    assert (made, found.done, found.cause) == ([(0, "void")], None, "budget")
    assert "budget" in found.reason


@pytest.mark.parametrize("kept", [FRESH, STALE])
def test_a_kept_answer_stands_in_at_its_place(kept: Kept) -> None:
    found, made = walk(
        World(route("model", "cached", "model", "stale", retry_share=0), [[FAILS], [], [FAILS], []], kept=kept)
    )
    if kept is FRESH:
        assert (made, found.rung, found.tier) == ([(0, "error")], "cached", "exact")
    else:
        assert (made, found.rung, found.tier) == ([(0, "error"), (2, "error")], "stale", "stale")
        assert (found.serial, found.number) == (3, 3)


def test_where_nothing_is_kept_a_cached_rung_hides_no_other() -> None:
    """A rung that is known to fail is still tried in a panic, although ``cached`` comes after it."""
    world = World(route("model", "cached", retry_share=0), [[FAILS, FAILS, OK], []])
    run(world.climb)
    run(world.again().climb)
    third = world.again()
    third.script, third.draw = [[OK], []], lambda: 0.99
    found, made = walk(third)
    assert (made, found.rung) == ([(0, "ok")], "r0")
    assert '"panic"' in third.made[0].why.decision


def test_a_refusal_says_when_to_come_again() -> None:
    world = World(route("model", "refuse", retry_share=0), [[Does("rate_limit", retry_after_s=7.0)], []])
    found, _ = walk(world)
    assert found.done is not None, "the provider's own words"
    again = world.again()
    found, made = walk(again)
    assert made == []
    assert found.wait_us > 0
    assert "left alone for 7 s" in found.reason


# --- limits -----------------------------------------------------------------------------------------------------


def test_attempts_are_limited() -> None:
    found, made = walk(World(route("model", "model", "model", attempts_max=2), [[FAILS]] * 3))
    assert made == [(0, "error"), (1, "error")]
    assert found.rung == "r1"


def test_cost_is_limited_also_by_what_is_under_way() -> None:
    """After 100 nano-USD another 100 are too much for 150; a hedge counts the attempt that it is beside."""
    assert walk(World(two(cost_max=NanoUSD(150)), [[FAILS], [OK]]))[1] == [(0, "error")]
    assert walk(World(two(cost_max=NanoUSD(200)), [[FAILS], [OK]]))[1] == [(0, "error"), (1, "ok")]
    for cost_max, attempts in ((150, 1), (200, 2)):
        world = hedged([[Does(first_s=0.4)], [Does(first_s=0.4)]], cost_max=NanoUSD(cost_max))
        run(world.climb)
        assert len(world.made) == attempts


def test_a_rung_that_would_cost_too_much_hides_no_cheaper_one() -> None:
    """After 100 nano-USD another 200 are too much for 250, another 150 are not."""
    world = World(
        route("model", "model", "model", cost_max=NanoUSD(250)), [[FAILS], [Does(cost=200)], [Does(cost=150)]]
    )
    found, made = walk(world)
    assert (made, found.rung) == ([(0, "error"), (2, "ok")], "r2")
    assert "one here is expected to cost" in world.made[1].why.decision


@pytest.mark.parametrize("stream", [False, True])
def test_a_hung_rung_is_left_in_its_time(stream: bool) -> None:
    limits: dict[str, Any] = {"first_token": Limit(ms=300), "total": Limit(ms=300)}
    world = World(two(r0=limits), [[HANGS], [OK]], stream=stream)
    found, made = walk(world)
    assert (made, found.left_for) == ([(0, "cancelled"), (1, "ok")], "first_token" if stream else "slow")
    assert told(world) == 0.301
    assert "within 300 ms" in world.made[0].stopped


@pytest.mark.parametrize("stream", [False, True])
def test_an_attempt_that_waits_for_its_budget_is_not_late(stream: bool) -> None:
    """Its provider has not been asked: the time to answer in counts from when it left, and no breaker opens."""
    limits: dict[str, Any] = {"first_token": Limit(ms=300), "total": Limit(ms=300)}
    world = World(two(r0=limits), [[Does(hold_s=20.0)], [OK]], stream=stream)
    assert walk(world)[1] == [(0, "ok")]
    world = World(two(r0=limits), [[Does(hold_s=20.0, hangs=True)], [OK]], stream=stream)
    assert walk(world)[1] == [(0, "cancelled"), (1, "ok")]
    assert told(world) == 20.301


def test_a_deadline_ends_what_still_waits_for_its_budget() -> None:
    """Whoever waited is told that it was a budget; nobody is left alone for it."""
    world = World(two(deadline_ms=1_000, r1={"when": frozenset({"budget"})}), [[Does(hold_s=20.0)], [OK]])
    found, made = walk(world)
    assert (made, found.cause) == ([(0, "cancelled")], "budget")
    assert "deadline" in found.reason
    assert world.made[0].left is False
    assert {each.verdict(START_US).state for each in world.health} == {"closed"}


def test_after_waiting_for_its_budget_an_attempt_has_its_share_of_what_is_left() -> None:
    world = World(two(deadline_ms=1_000), [[Does(hold_s=0.6, hangs=True)], [OK]])
    assert walk(world)[1] == [(0, "cancelled"), (1, "ok")]
    assert told(world) == 0.801


def test_the_time_that_a_call_has_spent_already_is_not_given_again() -> None:
    world = World(two(deadline_ms=1_000), [[HANGS], [OK]], spent_s=0.5)
    assert walk(world)[1] == [(0, "cancelled"), (1, "ok")]
    assert told(world) == 0.251


def test_nothing_more_is_asked_for_a_client_that_has_left() -> None:
    world = World(two(), [[FAILS], [OK]], client_left=True)
    with pytest.raises(ClientGoneError):
        run(world.climb)
    assert [(each.index, each.end) for each in world.made] == [(0, "error")]
    assert walk(World(two(), [[OK], [OK]], client_left=True))[1] == [(0, "ok")], "what is under way is not given up"


def test_what_a_budget_passed_over_is_no_attempt() -> None:
    """Nobody was asked: the third rung is the first attempt of one that is allowed."""
    when = {"when": frozenset({"budget"})}
    world = World(route("model", "model", "model", attempts_max=1, r1=when, r2=when), [[Does("budget")]] * 2 + [[OK]])
    found, made = walk(world)
    assert (made, found.rung) == ([(0, "void"), (1, "void"), (2, "ok")], "r2")
    assert [(each.why.serial, each.why.number) for each in world.made] == [(1, 1), (2, 1), (3, 1)]


def test_a_rung_for_a_cause_answers_for_it_whichever_attempt_it_was_known_of() -> None:
    """The first was limited, the second failed otherwise: the third is for the first's cause. So is a retry of it."""
    limited = {"when": frozenset({"rate_limit"})}
    found, made = walk(World(route("model", "model", "model", r2=limited), [[Does("rate_limit")], [FAILS], [OK]]))
    assert (made, found.rung) == ([(0, "error"), (1, "error"), (2, "ok")], "r2")
    world = World(two(r1=limited, retry_share=1_000), [[Does("rate_limit", retry_after_s=30.0)], [FAILS, OK]])
    found, made = walk(world)
    assert (made, found.rung) == ([(0, "error"), (1, "error"), (1, "ok")], "r1")
    again = world.again()
    again.script = [[OK], [FAILS, OK]]
    found, made = walk(again)
    assert (made, found.rung) == ([(1, "error"), (1, "ok")], "r1"), "and where the first is known to be limited"


def test_what_was_fresh_before_the_attempts_may_be_stale_after_them() -> None:
    """An answer that is kept says what it is when it is given."""
    entry = replace(ENTRY, expires_us=START_US + 50_000)
    for does, tier in ((Does("server", first_s=0.01, whole_s=0.01), "exact"), (FAILS, "stale")):
        kept = Kept(entry, "exact", entry, {})
        found, _ = walk(World(route("model", "cached", "stale", retry_share=0), [[does], [], []], kept=kept))
        assert (found.rung, found.tier) == ("cached" if tier == "exact" else "stale", tier)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_there_and_only_being_settled_is_not_late(stream: bool) -> None:
    """It is paid for: it would be thrown away for the time that the books take."""
    limits: dict[str, Any] = {"first_token": Limit(ms=100), "total": Limit(ms=100)}
    silent = Does("invalid", first_s=0.05, whole_s=0.0495, shows=False)
    first = silent if stream else Does(first_s=0.05, whole_s=0.0495)
    found, made = walk(World(two(r0=limits), [[first], [OK]], stream=stream))
    assert made == ([(0, "error"), (1, "ok")] if stream else [(0, "ok")])
    assert found.left_for == ("invalid" if stream else "")


def test_the_deadline_is_split_over_the_rungs_that_are_left() -> None:
    world = World(route("model", "model", "model", deadline_ms=900), [[HANGS]] * 3)
    found, made = walk(world)
    assert made == [(0, "cancelled"), (1, "cancelled"), (2, "cancelled")]
    times = [round((each.ended_s or 0) - each.at_s, 2) for each in world.made]
    assert times == [0.3, 0.3, 0.3]
    assert (found.done, found.cause) == (None, "slow")


def test_a_fast_failure_leaves_its_time_to_the_others() -> None:
    world = World(two(deadline_ms=1_000), [[FAILS], [HANGS]])
    run(world.climb)
    assert round((world.made[1].ended_s or 0) - world.made[0].at_s, 2) == 1.0


def test_an_answer_that_is_seen_in_time_may_take_longer() -> None:
    world = World(two(r0={"first_token": Limit(ms=100)}, deadline_ms=500), [[Does(whole_s=5.0)], [OK]], stream=True)
    assert walk(world)[1] == [(0, "ok")]


# --- retries ----------------------------------------------------------------------------------------------------


def test_the_same_is_tried_again_only_where_there_is_no_other_and_budget_for_it() -> None:
    world = World(route("model"), [[FAILS, OK]])
    found, made = walk(world)
    assert (made, found.rung) == ([(0, "error"), (0, "ok")], "r0")
    assert told(world) == pytest.approx(0.101 + 0.125, abs=0.001), "half of the first back-off"
    assert walk(World(route("model", retry_share=0), [[FAILS, OK]]))[1] == [(0, "error")]
    assert walk(World(two(), [[FAILS, OK], [FAILS, OK]]))[1] == [(0, "error"), (1, "error"), (1, "ok")]


@pytest.mark.parametrize("cause", ["rate_limit", "overload", "invalid", "quota", "slow"])
def test_what_would_fail_again_is_not_tried_again(cause: Any) -> None:
    assert walk(World(route("model"), [[Does(cause), OK]]))[1] == [(0, "error")]


def test_no_retry_waits_past_the_deadline() -> None:
    assert walk(World(route("model", deadline_ms=150), [[FAILS, OK]]))[1] == [(0, "error")]


@pytest.mark.parametrize("rungs", [1, 2, 3])
def test_an_outage_of_all_is_not_amplified(rungs: int) -> None:
    """A thousand calls while nothing answers: attempts at rungs that are known to fail are retries, and within their share."""
    draw = random.Random(7)
    world = World(route(*["model"] * rungs), [[FAILS]] * rungs, draw=draw.random)
    attempts = 0
    for _ in range(1_000):
        call = world.again()
        run(call.climb)
        attempts += len(call.made)
    assert attempts <= 1_000 * 1.1


# --- hedges -----------------------------------------------------------------------------------------------------


def hedged(script: list[list[Does]], *, stream: bool = True, **more: Any) -> World:
    """The next rung is asked as well after 100 ms; enough was spent to pay for it."""
    world = World(route(*["model"] * len(script), hedge=Hedge(Limit(ms=100), 1_000), **more), script, stream=stream)
    world.states.hedges(world.route).spent(10_000)
    return world


def test_a_hedge_waits_as_long_as_the_first_waits_for_its_budget() -> None:
    world = hedged([[Does(hold_s=5.0, hangs=True)], [OK]])
    assert walk(world)[1] == [(0, "cancelled"), (1, "ok")]
    assert told(world) == 5.1


@pytest.mark.parametrize("stream", [False, True])
def test_a_hedge_that_the_books_cannot_hold_ends_nothing(stream: bool) -> None:
    """The first attempt is well: it answers."""
    world = hedged([[Does(first_s=0.25)], [Does(unheld=True)]], stream=stream)
    found, made = walk(world)
    assert (made, found.rung, found.cause) == ([(0, "ok"), (1, "void")], "r0", None)


def test_nothing_is_hedged_that_is_only_being_settled() -> None:
    world = hedged([[Does(first_s=0.05, whole_s=0.0495)], [OK]], stream=False)
    assert walk(world)[1] == [(0, "ok")]


def test_no_two_attempts_of_a_call_have_one_number() -> None:
    """The number of one that never left is free again."""
    script = [[Does("connect", first_s=0.3)], [Does("server", first_s=0.3)], [OK]]
    world = hedged(script, attempts_max=5, stream=False)
    found, made = walk(world)
    assert made == [(0, "void"), (1, "error"), (2, "ok")]
    assert [each.why.number for each in world.made] == [1, 2, 1]
    assert (found.serial, found.number) == (4, 3)


def test_a_probe_that_raises_frees_its_place() -> None:
    world = World(route("model", retry_share=0), [[FAILS, FAILS, Does(raises=True), OK]])
    for _ in range(2):
        run(world.climb)
    (health,) = world.health
    health.breaker._until_us = 1  # its time is over
    with pytest.raises(RuntimeError):
        run(world.climb)
    assert health.verdict(START_US).state == "probe"
    assert run(world.climb).cause is None


@pytest.mark.parametrize("stream", [False, True])
def test_the_faster_wins_and_the_loser_is_settled(stream: bool) -> None:
    world = hedged([[Does(first_s=2.0)], [Does(first_s=0.1)]], stream=stream)
    found, made = walk(world)
    assert made == [(0, "cancelled"), (1, "ok")]
    assert found.rung == "r1"
    assert told(world) == 0.1
    assert world.made[0].stopped == "another attempt was faster"
    assert (world.made[0].shown_s, world.made[0].left) == (None, True)
    assert [each.why.number for each in world.made] == [1, 2]


def test_a_hedge_that_is_a_probe_says_both() -> None:
    """The decision's reason is why it was made, its verdict that its breaker had been open."""
    world = hedged([[Does(first_s=2.0)], [Does(first_s=0.1)]])
    breaker = world.health.of(Fake(world, 1, OK).target, world.route.rungs[1].breaker).breaker
    breaker._until_us = 1  # it was open, and its time is over
    assert walk(world)[1] == [(0, "cancelled"), (1, "ok")]
    decision = json.loads(world.made[1].why.decision)
    assert (decision["why"], decision["candidates"][1]["verdict"]) == ("hedge", "probe")


def test_a_first_that_is_in_time_is_not_hedged() -> None:
    assert walk(hedged([[Does(first_s=0.09, whole_s=1.0)], [OK]]))[1] == [(0, "ok")]


def test_what_has_not_left_yet_is_not_hedged() -> None:
    """An attempt that waits for its budget takes nobody's time; a hedge would wait for the same."""
    assert walk(hedged([[Does(hold_s=0.5)], [OK]]))[1] == [(0, "ok")]


def test_a_hedge_is_paid_for_out_of_what_was_spent() -> None:
    world = hedged([[Does(first_s=1.0)], [Does(cost=10_001)]])
    assert walk(world)[1] == [(0, "ok")]


def test_a_failed_hedge_is_no_failure_of_the_call() -> None:
    world = hedged([[Does(first_s=1.0)], [Does("server", shows=False)], [OK]])
    found, made = walk(world)
    assert made == [(0, "ok"), (1, "error")]
    assert found.rung == "r0"


def test_when_both_fail_the_next_is_asked_and_none_twice() -> None:
    world = hedged([[Does("server", first_s=0.5, shows=False)], [Does("server", first_s=1.0, shows=False)], [OK]])
    found, made = walk(world)
    assert made == [(0, "error"), (1, "error"), (2, "ok")]
    assert [each.why.number for each in world.made] == [1, 2, 3]
    assert found.rung == "r2"


def test_of_two_that_show_at_the_same_moment_one_is_seen() -> None:
    world = hedged([[Does(first_s=0.2)], [Does(first_s=0.1)]])
    _, made = walk(world)
    assert sum(each.shown_s is not None for each in world.made) == 1
    assert sorted(end for _, end in made) == ["cancelled", "ok"]


def test_two_whole_answers_at_the_same_moment_are_one() -> None:
    world = hedged([[Does(first_s=0.15)], [Does(first_s=0.05)]], stream=False)
    found, made = walk(world)
    assert found.cause is None
    assert [end for _, end in made].count("ok") >= 1


def test_one_that_shows_while_another_is_left_for_being_late_is_the_winner() -> None:
    """Both are over their time at once; while the first is settled the second begins to show."""
    limits = {"first_token": Limit(ms=300)}
    world = hedged([[HANGS], [Does(first_s=0.2005)], [OK]], r0=limits, r1={"first_token": Limit(ms=200)})
    found, made = walk(world)
    assert made[:2] == [(0, "cancelled"), (1, "ok")]
    assert found.rung == "r1"


# --- after something was seen -----------------------------------------------------------------------------------


def test_nothing_is_tried_after_the_client_has_seen_part_of_an_answer() -> None:
    found, made = walk(World(two(), [[Does("cut")], [OK]], stream=True))
    assert (made, found.rung, found.cause) == ([(0, "error")], "r0", "cut")


def test_another_goes_on_where_it_can() -> None:
    cut = Does("cut", goes_on=True)
    world = World(two(mid_stream="continue"), [[cut], [OK]], stream=True)
    found, made = walk(world)
    assert (made, found.rung) == ([(0, "error"), (1, "ok")], "r1")
    assert all(each.shown_s is not None for each in world.made)


@pytest.mark.parametrize("second", [FAILS, Does("server", shows=False), Does("cut", goes_on=True)])
def test_a_kept_answer_does_not_go_on_with_a_part(second: Does) -> None:
    """Neither at once nor after another attempt has failed: the client would have the answer from its beginning again."""
    world = World(
        route("model", "model", "cached", "stale", mid_stream="continue", retry_share=0),
        [[Does("cut", goes_on=True)], [second], [], []], stream=True, kept=FRESH,
    )  # fmt: skip
    found, made = walk(world)
    assert made == [(0, "error"), (1, "error")]
    assert found.kept is None


# --- cancellation -----------------------------------------------------------------------------------------------

SCENES: dict[str, Any] = {
    "answer": lambda: World(two(), [[Does(hold_s=0.02)], [OK]]),
    "fallback": lambda: World(two(), [[FAILS], [Does(hold_s=0.02)]]),
    "late": lambda: World(two(r0={"total": Limit(ms=100)}), [[HANGS], [OK]]),
    "retry": lambda: World(route("model"), [[FAILS, OK]]),
    "hedge": lambda: hedged([[Does(first_s=0.2)], [Does(first_s=0.05, whole_s=0.1)]]),
    "continue": lambda: World(two(mid_stream="continue"), [[Does("cut", goes_on=True)], [OK]], stream=True),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_client_that_leaves_at_any_moment_leaves_nothing_unsettled(scene: str) -> None:
    """Cancelled at every moment at which something happens, and at every turn of the loop there, once and twice: each attempt that
    was begun has ended soon after the call has."""
    ended = 0
    for at_ms in sorted({base + more for base in range(0, 320, 10) for more in (0, 1, 2)}):
        for turns, again in ((0, False), (1, False), (2, True), (3, False)):
            ended += _cancelled(SCENES[scene](), at_ms / 1_000, turns, again=again)
    assert ended > 50


def _cancelled(world: World, at_s: float, turns: int, *, again: bool) -> bool:
    async def work() -> bool:
        call = asyncio.ensure_future(world.climb())
        await asyncio.sleep(at_s)
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = call.done()
        call.cancel()
        if again:
            await asyncio.sleep(0)
            call.cancel()
        await asyncio.wait([call])
        await asyncio.sleep(0.01)
        assert all(each.end for each in world.made), (at_s, turns, world.made)
        return call.cancelled() and not was_done

    return run(work)


def test_a_bug_in_one_attempt_settles_the_others() -> None:
    world = hedged([[Does(first_s=1.0)], [Does(hold_s=0.01, raises=True)]])

    async def work() -> None:
        with pytest.raises(RuntimeError):
            await world.climb()

    run(work)
    assert [each.end for each in world.made] == ["cancelled", "cancelled"]


# --- any route, any failures ------------------------------------------------------------------------------------

times = st.sampled_from([0.0, 0.001, 0.05, 0.1, 0.101, 0.3, 2.0])
causes = st.sampled_from([None, None, None, *CAUSES])
does = st.builds(
    Does, cause=causes, hold_s=st.sampled_from([0.0, 0.0, 0.05]), first_s=times, whole_s=times,
    hangs=st.sampled_from([False] * 5 + [True]), refused=st.sampled_from([False] * 9 + [True]), shows=st.booleans(),
    goes_on=st.booleans(), cost=st.sampled_from([0, 100, 5_000]), retry_after_s=st.sampled_from([None, None, 0.2, 60.0]),
)  # fmt: skip
limits = st.sampled_from([None, None, Limit(ms=100), Limit(ms=300), Limit(quantile=950)])
model_rungs = st.builds(
    RouteRung, name=st.just("r"), provider=st.sampled_from(["a", "b", "c"]), model=st.just("m"), first_token=limits, total=limits,
    when=st.sampled_from([frozenset(), frozenset(), frozenset({"budget", "request"}), frozenset({"server"})]),
)  # fmt: skip
kept_rungs = st.builds(lambda kind: RouteRung(kind, kind=kind), st.sampled_from(["cached", "stale"]))
hedges = st.sampled_from([None, None, Hedge(Limit(ms=0), 1_000), Hedge(Limit(ms=100), 1_000)])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    rungs = draw(st.lists(st.one_of(model_rungs, model_rungs, model_rungs, kept_rungs), min_size=1, max_size=5))
    if draw(st.booleans()):
        rungs.append(RouteRung("refuse", kind="refuse"))
    it = Route(
        "r", tuple(rungs), deadline_ms=draw(st.sampled_from([None, 200, 1_000])), attempts_max=draw(st.integers(1, 5)),
        cost_max=draw(st.sampled_from([None, NanoUSD(4_000)])), retry_share=draw(st.sampled_from([0, 100, 1_000])),
        hedge=draw(hedges), mid_stream=draw(st.sampled_from(["end", "continue"])),
    )  # fmt: skip
    script = [draw(st.lists(st.one_of(does, does, does, st.just("no key")), min_size=1, max_size=3)) for _ in rungs]
    chance = random.Random(draw(st.integers(0, 99)))
    world = World(
        it,
        script,
        stream=draw(st.booleans()),
        kept=draw(st.sampled_from([FRESH, STALE, Kept(None, "exact", None, {})])),
        draw=chance.random,
    )
    world.states.hedges(it).spent(50_000)
    return world


@settings(max_examples=150)
@given(worlds(), st.integers(1, 4))
def test_whatever_happens_a_call_ends_once_and_so_does_every_attempt(world: World, calls: int) -> None:
    for _ in range(calls):
        call = world.again()
        found = run(call.climb)
        _check_end(call, found)
        _check_attempts(call, found)


def _check_end(world: World, found: Climbed) -> None:
    """An answer or an error of somebody's, a kept answer, or a refusal with its reason: one of them."""
    ways = [found.by is not None, found.kept is not None, found.by is None and found.kept is None]
    assert sum(ways) == 1
    if found.by is not None:
        assert found.done is not None
        assert found.rung != "refused"
    elif found.kept is not None:
        assert found.tier is not None
        assert not any(each.shown_s is not None for each in world.made), "the client has a part of another answer"
    else:
        assert found.done is None
        assert found.rung == "refused"
        assert found.reason or found.wait_us


def _check_attempts(world: World, found: Climbed) -> None:
    made, route = world.made, world.route
    assert all(each.end for each in made), "an attempt was not settled"
    assert len(made) <= route.attempts_max
    assert [each.why.serial for each in made] == list(range(1, len(made) + 1))
    assert found.serial == len(made) + 1
    _check_numbers(made, found)
    shown = [each for each in made if each.shown_s is not None]
    for earlier, later in itertools.pairwise(shown):
        assert earlier.does.goes_on, "two answers were shown"
        assert (earlier.ended_s or 0) <= later.at_s
    for each in shown:
        if not each.does.goes_on:
            assert all(other.at_s <= (each.shown_s or 0) for other in made), (
                "an attempt after the client had seen something"
            )
    under_way = [sum(other.at_s <= each.at_s < (other.ended_s or 0) for other in made) for each in made]
    assert max(under_way, default=0) <= (2 if route.hedge else 1)
    if route.deadline_ms is not None:
        assert all(each.at_s - made[0].at_s <= route.deadline_ms / 1_000 for each in made)


def _check_numbers(made: list[Made], found: Climbed) -> None:
    """Rows are numbered without a gap. One that could not connect while a hedge was under way leaves no row for its number."""
    left = [each for each in made if each.left]
    numbers = sorted(each.why.number for each in left)
    if any(each.does.cause == "connect" and not each.left for each in made) and len(made) > 1:
        assert len(set(numbers)) == len(numbers)
        return
    assert numbers == list(range(1, len(left) + 1)), [(each.why.number, each.end) for each in made]
    assert found.number == len(left) + 1
