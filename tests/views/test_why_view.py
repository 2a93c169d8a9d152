"""Why a call took its rung: found by its ids, told as a whole, and nothing that was not stored."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.views.why import NoCall, SeveralCalls, WhyCall, why
from route_stories import CALL, GPT, LLAMA, SONNET, candidate, decided, fallback, hit, primary
from seeding import MemoryLedger


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def _call(ledger: MemoryLedger, name: str = CALL) -> WhyCall:
    answer = why(ledger, name)
    assert isinstance(answer, WhyCall)
    return answer


def test_a_call_is_found_by_its_ids(ledger: MemoryLedger) -> None:
    """Its own, an attempt's, its beginning from six characters on, or as the last one."""
    fallback(ledger)
    for name in (CALL, CALL[:6], CALL[:20], "last"):
        assert (_call(ledger, name).call_id, _call(ledger, name).asked_attempt) == (CALL, "")
    assert _call(ledger, f"{CALL}.2").asked_attempt == f"{CALL}.2"
    for name in ("", CALL[:5], f"{CALL}.3", CALL + "0", "%", "0195f2%"):
        assert why(ledger, name) == NoCall()
    ledger.attempt(call_id="other")
    assert _call(ledger, "last").call_id == "other"


def test_a_beginning_of_several_lists_them(ledger: MemoryLedger) -> None:
    """An exact id is that call, also where others begin with it; of many, ten are named."""
    for number in range(12):
        primary(ledger, f"abcdef{number:02d}")
    answer = why(ledger, "abcdef")
    assert isinstance(answer, SeveralCalls)
    assert (answer.candidates[0], len(answer.candidates), answer.more) == ("abcdef00", 10, True)
    primary(ledger, "abcdef")
    assert _call(ledger, "abcdef").call_id == "abcdef"
    assert why(MemoryLedger(), "last") == NoCall()


def test_a_fallback_is_told_as_a_whole(ledger: MemoryLedger) -> None:
    """What failed with its status, what was passed over, what answered; expected beside charged; the sum over both attempts."""
    fallback(ledger, ago=timedelta(seconds=9), task="t-1")
    call = _call(ledger)
    assert [(each.verdict, each.why, each.breaker, each.http_status) for each in call.candidates] == [
        ("failed", "overload", "closed", 503),
        ("passed", "2 failures in a row, the last: server", "open", None),
        ("taken", "", "closed", 200),
    ]
    assert [(each.expected_nanousd, each.charged_nanousd) for each in call.candidates] == [
        (4_000_000, 0), (9_000_000, None), (1_500_000, 1_230_000),
    ]  # fmt: skip
    assert call.candidates[2].attempts == (f"{CALL}.2",)
    assert (call.by.step.attempt_id, call.by.rung, call.by.cause, call.route) == (
        f"{CALL}.2", "fallback", "overload", "fast",
    )  # fmt: skip
    assert (call.cost_nanousd, call.elapsed_ms, call.attempt_count) == (1_230_000, 1050.0, 2)
    assert (call.cache.outcome, call.cache.found, call.scope["task"]) == ("miss", "nothing", "t-1")
    assert call.budget is None


def test_when_every_rung_fails_the_last_one_has_failed_too(ledger: MemoryLedger) -> None:
    """Its decision was made before it failed: the row knows better."""
    failed = candidate("primary", GPT, "failed", why="connect")
    last = candidate("fallback", LLAMA, "taken")
    ledger.attempt(
        call_id=CALL, attempt_id=f"{CALL}.2", rung="fallback", status="error", http_status=500, cost_nanousd=0,
        cause="connect", decision=decided("fallback", "the rung before it failed: connect", failed, last),
    )  # fmt: skip
    call = _call(ledger)
    assert not call.by.is_answer
    assert [(each.verdict, each.why, each.attempts) for each in call.candidates] == [
        ("failed", "connect", ()), ("failed", "error", (f"{CALL}.2",)),
    ]  # fmt: skip
    assert call.to_json()["answered_by"] is None


@pytest.mark.parametrize("winner", [1, 2])
def test_a_hedge_has_one_winner_and_one_that_was_cancelled(ledger: MemoryLedger, winner: int) -> None:
    """Whichever is faster answered, although the stored decision of the second does not know of the first."""
    one, two = candidate("primary", GPT, "taken"), candidate("fallback", LLAMA, "not needed")
    decisions = (
        decided("primary", "asked", one, two),
        decided("fallback", "hedge", {**one, "verdict": "not needed"}, {**two, "verdict": "hedge"}),
    )
    for number, rung in ((1, "primary"), (2, "fallback")):
        ended: dict[str, Any] = (
            {} if number == winner else {"status": "cancelled", "error": "another attempt was faster"}
        )
        ledger.attempt(
            call_id=CALL, attempt_id=f"{CALL}.{number}", number=number, rung=rung, decision=decisions[number - 1], **ended
        )  # fmt: skip
    call = _call(ledger)
    verdicts = ["taken", "cancelled"] if winner == 1 else ["cancelled", "hedge"]
    assert [each.verdict for each in call.candidates] == verdicts
    assert call.candidates[2 - winner].why == "another attempt was faster"
    assert call.by.step.attempt_id == f"{CALL}.{winner}"


def test_what_a_call_without_an_answer_left_was_not_tried(ledger: MemoryLedger) -> None:
    """What was still to come when its last attempt left; what an answer made needless stays that."""
    one, other = candidate("primary", GPT, "taken"), candidate("stale", None, "not needed")
    for name, status in (("failed", "error"), ("left", "cancelled"), ("answered", "ok")):
        primary(ledger, name, status=status, decision=decided("primary", "asked", one, other))
    verdicts = [_call(ledger, name).candidates[1].verdict for name in ("failed", "left", "answered")]
    assert verdicts == ["not tried", "not tried", "not needed"]


def test_what_was_under_way_and_left_no_row_was_not_tried(ledger: MemoryLedger) -> None:
    """A hedge answered while the first attempt waited for its budget, or found no connection."""
    first, other = candidate("primary", GPT, "running"), candidate("fallback", LLAMA, "hedge")
    primary(ledger, CALL, rung="fallback", decision=decided("fallback", "hedge", first, other))
    assert [(each.verdict, each.why) for each in _call(ledger).candidates] == [
        ("not tried", "it was begun, and nothing of it left"), ("hedge", ""),
    ]  # fmt: skip


def test_a_rung_that_is_tried_again_stands_once(ledger: MemoryLedger) -> None:
    """Both attempts are in its line, and in what it was charged."""
    for number, status in ((1, "error"), (2, "ok")):
        ledger.attempt(
            call_id=CALL, attempt_id=f"{CALL}.{number}", number=number, rung="primary", status=status, cost_nanousd=7,
            decision=decided("primary", "asked", candidate("primary", GPT, "taken")),
        )  # fmt: skip
    (only,) = _call(ledger).candidates
    assert (only.verdict, only.attempts, only.charged_nanousd) == ("taken", (f"{CALL}.1", f"{CALL}.2"), 14)


def test_a_hit_has_its_tier_its_age_and_what_was_avoided(ledger: MemoryLedger) -> None:
    """What it would have cost is beside the cost, never in it."""
    hit(ledger, CALL)
    call = _call(ledger)
    assert (call.cache.outcome, call.cache.found, call.cache.age_s, call.cache.avoided_nanousd) == (
        "exact", "fresh", 75, 4_200_000,
    )  # fmt: skip
    assert (call.cost_nanousd, call.candidates, call.by.why) == (0, (), "kept")


def test_a_stale_answer_after_failures_is_a_rung(ledger: MemoryLedger) -> None:
    """It has no target of its own; its row is the last."""
    failed = candidate("primary", GPT, "failed", why="server")
    fallback_row: dict[str, Any] = {"call_id": CALL, "provider": "openai", "model_asked": "fast"}
    first = decided("primary", "asked", candidate("primary", GPT, "taken"), candidate("stale", None, "not needed"))
    ledger.attempt(
        attempt_id=f"{CALL}.1", rung="primary", status="error", cost_nanousd=0, decision=first, **fallback_row
    )
    stale = decided("stale", "the rung before it failed: server", failed, candidate("stale", None, "taken"))
    ledger.attempt(
        ago=timedelta(seconds=1), attempt_id=f"{CALL}.2", number=2, rung="stale", cache="stale", cost_nanousd=0,
        cause="server", decision=stale, **fallback_row,
    )  # fmt: skip
    call = _call(ledger)
    assert [(each.rung, each.verdict) for each in call.candidates] == [("primary", "failed"), ("stale", "taken")]
    assert (call.by.rung, call.cache.outcome) == ("stale", "stale")


def test_what_a_budget_changed(ledger: MemoryLedger) -> None:
    """Its share, what is left and what it held, in its unit; nothing of it where it changed nothing."""
    budget = {
        "name": "support", "subject": "ann", "window": "month", "share": 824, "unit": "usd", "left": 3_200_000_000,
        "held_nanousd": 12_000_000, "worst_output_tokens": 900, "held_output_tokens": 500, "output_cap": 500,
        "changed": ["model", "output_cap"],
    }  # fmt: skip
    stored = {"rung": "cheaper", "why": "budget support", "candidates": [{"provider": "openai", "model": "gpt-5-mini"}]}
    ledger.attempt(call_id=CALL, decision=json.dumps({**stored, "budget": budget}))
    call = _call(ledger)
    assert call.budget is not None
    assert call.to_json()["budget"] == {
        "name": "support", "subject": "ann", "window": "month", "unit": "usd", "used_share": 0.824, "left": "3.2",
        "held_usd": "0.012", "output_cap": 500, "changed": ["model", "output_cap"],
    }  # fmt: skip
    ledger.attempt(call_id="tokens", decision=json.dumps({"budget": {**budget, "unit": "tokens", "left": 900}}))
    assert _call(ledger, "tokens").to_json()["budget"]["left"] == 900


@pytest.mark.parametrize(
    ("door", "kind", "decision"),
    [
        ("otlp", "model", "{}"),
        ("import", "model", "{}"),
        ("sdk", "tool", json.dumps({"rung": "cached", "cache": {"tier": "tool", "age_s": 3}})),
        (
            "sdk",
            "model",
            json.dumps({"rung": "primary", "why": "asked", "candidates": [{"provider": "p", "model": "m"}]}),
        ),
    ],
)
def test_calls_of_every_door_are_told(ledger: MemoryLedger, door: str, kind: str, decision: str) -> None:
    """Where nothing was chosen nothing is made up."""
    ledger.attempt(call_id="0af7651916cd43dd/b7ad", door=door, kind=kind, decision=decision, latency_ms=None)
    call = _call(ledger, "0af765")
    assert (call.by.step.door, call.route, call.elapsed_ms) == (door, "", None)
    assert [each.verdict for each in call.candidates] == (["taken"] if "candidates" in decision else [])
    assert call.to_json()["attempts"][0]["decision"] == json.loads(decision)


def test_what_is_unpriced_is_counted_not_added(ledger: MemoryLedger) -> None:
    """The priced part is the cost; with nothing priced there is none."""
    for number, cost in ((1, None), (2, 5)):
        ledger.attempt(call_id=CALL, attempt_id=f"x{number}", number=number, cost_nanousd=cost)
    assert (_call(ledger).cost_nanousd, _call(ledger).unpriced_count) == (5, 1)
    ledger.attempt(call_id="unknown", cost_nanousd=None)
    assert _call(ledger, "unknown").to_json()["cost_usd"] is None


def test_attempts_past_the_limit_are_counted(ledger: MemoryLedger) -> None:
    """The sums are over all of them."""
    for number in range(1, 206):
        ledger.attempt(call_id=CALL, attempt_id=f"{CALL}.{number}", number=number, cost_nanousd=1)
    answer = _call(ledger).to_json()
    assert (len(answer["attempts"]), answer["attempts_left_out"], answer["cost_usd"]) == (200, 5, "0.000000205")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "taken", "failed", "fast", "exact"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rung", "candidates", "verdict", "provider", "cache", "budget", "why"]), inner
        )
    ),
    max_leaves=12,
)


def test_no_stored_decision_is_an_error() -> None:
    """Whatever another process has stored: the call is told, what is not understood is left out."""
    ledger, names = MemoryLedger(), itertools.count()

    @settings(max_examples=40)
    @given(st.lists(_JSON, min_size=1, max_size=3), st.booleans())
    def told(decisions: list[Any], broken: bool) -> None:
        name = f"call-{next(names)}"
        for number, stored in enumerate(decisions, 1):
            text = json.dumps(stored)[: -1 if broken else None]
            ledger.attempt(call_id=name, number=number, rung="primary", decision=text)
        assert len(_call(ledger, name).to_json()["attempts"]) == len(decisions)

    told()


def test_targets_of_different_rungs_stand_apart(ledger: MemoryLedger) -> None:
    """Two rungs of one name are told apart by their place."""
    fallback(ledger)
    assert [(each.provider, each.model) for each in _call(ledger).candidates] == [GPT, SONNET, LLAMA]
