"""Budgets as pure decisions: who is covered, what is held, when a call is clamped, waits or is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.adapters.zones import zone_of
from bursar.core.admission import (
    Admitted,
    Claim,
    Crowded,
    Denied,
    Offer,
    admit,
    checks_of,
    more,
    posted,
)
from bursar.core.budget_fields import amount_text, parse_amount, parse_budget
from bursar.core.budgets import NO_TOTALS, Budget, TaskLimit, Totals
from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.money import NanoUSD, Rate
from bursar.core.refusals import refusal_details, refusal_text
from bursar.core.scopes import NOBODY, Scope

AT = int(datetime(2026, 11, 25, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000


def budget(name: str = "b", **spec: Any) -> Budget:
    return parse_budget(name, {"limit": "$5", **spec}, zone_of)


def an_offer(changes: Changes = UNCHANGED, **more: Any) -> Offer:
    """Input for 1,000 nano-USD, 10 nano-USD a token, up to 10,000 tokens, usually below 1,000."""
    values: dict[str, Any] = {
        "changes": changes,
        "input": NanoUSD(1_000),
        "input_tokens": 100,
        "output": Rate(10, 1),
        "output_tokens": 10_000,
        "likely": 1_000,
        "clampable": True,
    }
    return Offer(**{**values, **more})


def a_claim(*budgets: Budget, scope: Scope = NOBODY, offer: Any = an_offer, **more: Any) -> Claim:
    return Claim(budgets, scope, AT, offer, lambda admitted: None, "gpt-5", **more)  # type: ignore[arg-type]


def ask(claim: Claim, spent: int = 0, held: int = 0, chain: tuple[TaskLimit, ...] = (), **totals: int) -> Any:
    """The outcome when every account of the claim stands like this."""
    found = Totals(held=held, spent=spent, **totals)
    return admit(claim, checks_of(claim, chain, AT), lambda _: found, lambda _: False)


WORST = 1_000 + 10_000 * 10


def nano(amount: int) -> str:
    return f"${amount / 1_000_000_000:.9f}"


def test_with_ample_headroom_the_worst_case_is_held_and_nothing_is_touched() -> None:
    """The hold is all the request could cost; no cap is sent."""
    outcome = ask(a_claim(budget()))
    assert isinstance(outcome, Admitted)
    assert (outcome.amount, outcome.tokens, outcome.output_cap, outcome.extend) == (WORST, 10_100, None, False)
    assert outcome.left == 5_000_000_000 - WORST


def test_as_headroom_tightens_hold_and_cap_shrink_together() -> None:
    """Where the worst case does not fit, the learned length is held, and is the cap that is sent."""
    outcome = ask(a_claim(budget(limit=nano(50_000))))
    assert isinstance(outcome, Admitted)
    assert outcome.amount == 1_000 + 1_000 * 10
    assert outcome.output_cap == 1_000


def test_what_others_hold_is_waited_for() -> None:
    """A call that fits if others give back is crowded, not denied; when it has waited it takes what there is."""
    tight = budget(limit=nano(50_000))
    assert isinstance(ask(a_claim(tight), held=45_000), Crowded)
    taken = ask(a_claim(tight, patient=False), held=45_000)
    assert isinstance(taken, Admitted)
    assert taken.output_cap == 400
    assert taken.amount == 5_000
    refused = ask(a_claim(tight, patient=False), held=48_000)
    assert isinstance(refused, Denied)
    assert refused.refusal.code == "budget_held"


def test_what_is_spent_does_not_come_back() -> None:
    """Below the floor nothing helps: denied at once, with every figure."""
    outcome = ask(a_claim(budget(limit=nano(50_000))), spent=47_000)
    assert isinstance(outcome, Denied)
    refusal = outcome.refusal
    assert (refusal.code, refusal.limit, refusal.spent, refusal.needed) == ("budget_exceeded", 50_000, 47_000, 3_560)
    assert "needs up to $0.00000356" in refusal_text(refusal)
    assert refusal_details(refusal)["needed"] == "0.00000356"


def test_an_answer_is_cut_short_only_instead_of_a_refusal() -> None:
    """Between the floor and the usual length the cap is what the money pays for."""
    outcome = ask(a_claim(budget(limit=nano(50_000))), spent=45_000)
    assert isinstance(outcome, Admitted)
    assert (outcome.output_cap, outcome.amount) == (400, 5_000)


def test_what_costs_nothing_is_never_refused() -> None:
    """An exhausted, even an overdrawn budget does not block a free model."""
    free = lambda changes: an_offer(changes, input=NanoUSD(0), output=Rate(0, 1))  # noqa: E731
    for spent in (5_000_000_000, 9_000_000_000):
        assert isinstance(ask(a_claim(budget(), offer=free), spent=spent), Admitted)


@pytest.mark.parametrize(
    ("rule", "outcome", "amount"),
    [("deny", Denied, None), ("allow", Admitted, None), ("assume-$0.05", Admitted, 50_000_000)],
)
def test_unpriced_calls_go_by_the_budgets_rule(rule: str, outcome: type, amount: int | None) -> None:
    """Unknown is not zero: it is refused, assumed, or let through on purpose."""
    unknown = lambda changes: an_offer(changes, input=None, output=Rate(0, 1))  # noqa: E731
    found = ask(a_claim(budget(on_unpriced=rule), offer=unknown))
    assert isinstance(found, outcome)
    if isinstance(found, Denied):
        assert found.refusal.code == "unpriced"
    else:
        assert found.amount == amount


def test_assumed_amounts_count_as_used() -> None:
    """What was held for attempts whose charge stays unknown is used, but where they are let through on purpose."""
    spec = budget(on_unpriced="assume-$0.25")
    assert isinstance(ask(a_claim(spec), unpriced=20, assumed=5_000_000_000), Denied)
    assert isinstance(ask(a_claim(spec), unpriced=19, assumed=4_750_000_000), Admitted)
    assert isinstance(ask(a_claim(budget()), unpriced=20, assumed=5_000_000_000), Denied)
    assert isinstance(ask(a_claim(budget(on_unpriced="allow")), unpriced=20, assumed=5_000_000_000), Admitted)


def test_tokens_and_calls_have_limits_too() -> None:
    """A token budget clamps like money does; a call budget counts attempts."""
    tokens = budget(limit="2000 tokens")
    outcome = ask(a_claim(tokens))
    assert isinstance(outcome, Admitted)
    assert (outcome.tokens, outcome.output_cap) == (1_100, 1_000)
    assert isinstance(ask(a_claim(tokens), spent_tokens=1_900), Denied)
    calls = budget(limit="3 calls")
    assert isinstance(ask(a_claim(calls), spent_calls=2), Admitted)
    assert isinstance(ask(a_claim(calls), spent_calls=3), Denied)
    assert isinstance(ask(a_claim(calls), held_calls=3), Crowded)


def test_all_budgets_or_none() -> None:
    """The one with the least left decides; every one is entered."""
    team, org = budget("team", limit=nano(50_000), match={"team": "a"}), budget("org")
    claim = a_claim(team, org, scope=Scope(team="a"))
    outcome = ask(claim)
    assert isinstance(outcome, Admitted)
    assert outcome.tightest is not None
    assert outcome.tightest.budget.name == "team"
    assert posted(claim, (), checks_of(claim, (), AT)) == ("all", "budget:team", "budget:org")


def test_each_makes_a_balance_for_every_value() -> None:
    """Two users have two accounts; a call without a user is under no user's budget."""
    per_user = budget(each="user", per="day")
    accounts = {
        user: checks_of(a_claim(per_user, scope=Scope(user=user)), (), AT)[0].posted for user in ("ann", "bob", "a=b@c")
    }
    assert len(set(accounts.values())) == 3
    assert accounts["ann"].endswith("=ann")
    assert not per_user.covers(Scope())


@pytest.mark.parametrize(
    ("match", "covered"),
    [
        ({"team": "support"}, True),
        ({"team": ["x", "supp*"]}, True),
        ({"team": "Support"}, False),
        ({"label:env": "prod"}, True),
        ({"label:env": ""}, False),
        ({"user": ""}, True),
        ({"team": "support", "label:env": "dev"}, False),
    ],
)
def test_a_budget_covers_what_it_matches(match: dict[str, Any], covered: bool) -> None:
    """Columns and labels, exact or by pattern; an empty pattern is the absent value."""
    assert budget(match=match).covers(Scope(team="support", labels=(("env", "prod"),))) is covered


def test_a_child_draws_from_what_is_left_of_every_task_above() -> None:
    """Its own limit does not help where its parent has nothing left."""
    chain = (TaskLimit("child", "root", NanoUSD(10**9)), TaskLimit("root", "", NanoUSD(50_000)))
    claim = a_claim(scope=Scope(task="child", parent_task="root"))
    checks = checks_of(claim, chain, AT)
    assert [check.posted for check in checks] == ["task:child", "task:root"]
    totals = {"task:child": NO_TOTALS, "task:root": Totals(spent=49_000)}
    outcome = admit(claim, checks, lambda name: totals[name], lambda _: False)
    assert isinstance(outcome, Denied)
    assert outcome.refusal.subject == "root"


def test_a_budget_for_each_task_counts_children_with_their_parents() -> None:
    """A child loop does not get an allowance of its own."""
    each = budget(each="task", limit="$1.25")
    chain = (TaskLimit("child", "root"), TaskLimit("root"))
    checks = checks_of(a_claim(each, scope=Scope(task="child")), chain, AT)
    assert [check.subject for check in checks] == ["child", "root"]


def test_the_reserve_is_for_the_last_call() -> None:
    """What is kept for finalisation is left for the call that says it is the last."""
    kept = budget(limit=nano(50_000), reserve=nano(10_000))
    denied = ask(a_claim(kept), spent=39_000)
    assert isinstance(denied, Denied)
    assert "kept for the last call" in refusal_text(denied.refusal)
    assert isinstance(ask(a_claim(kept, final=True), spent=39_000), Admitted)


def test_a_raise_holds_until_its_end() -> None:
    """Before its end the limit is higher; after it, it is what it was."""
    raised = budget(**{"raise": {"by": "$3", "until": "2026-11-26"}})
    limit = raised.limits[0]
    assert raised.limit_at(limit, AT) == 8_000_000_000
    assert raised.limit_at(limit, AT + 86_400_000_000) == 5_000_000_000


LADDER = [
    {"at": "50%", "note": "left: {left}"},
    {"at": "80%", "model": {"gpt-5": "gpt-5-mini"}},
    {"at": "90%", "output_cap": 300},
    {"at": "95%", "approve": True},
    {"at": "99%", "refuse": True},
]


def laddered(changes: Changes) -> Offer:
    cheap = changes.model == "gpt-5-mini"
    cap = changes.output_cap or 10_000
    return an_offer(
        changes, output=Rate(1 if cheap else 10, 1), output_tokens=cap, input=NanoUSD(100 if cheap else 1_000)
    )


@pytest.mark.parametrize(
    ("share", "names"),
    [(10, ()), (50, ("note",)), (80, ("model", "note")), (90, ("model", "note", "output_cap"))],
)
def test_rungs_add_up_with_the_share_used(share: int, names: tuple[str, ...]) -> None:
    """Each rung takes effect at its share, and those before it stay."""
    outcome = ask(a_claim(budget(ladder=LADDER), offer=laddered), spent=50_000_000 * share)
    assert isinstance(outcome, Admitted)
    assert set(outcome.rungs) == set(names)


def test_approval_and_refusal_are_rungs() -> None:
    """From one share on somebody must say yes; from another nobody can."""
    claim = a_claim(budget(ladder=LADDER), offer=laddered, scope=Scope(task="t"))
    asked = ask(claim, spent=4_750_000_000)
    assert isinstance(asked, Denied)
    assert asked.refusal.code == "approval_required"
    assert f"bursar approve {asked.refusal.approval}" in refusal_text(asked.refusal)
    totals = Totals(spent=4_750_000_000)
    granted = admit(claim, checks_of(claim, (), AT), lambda _: totals, lambda name: name == asked.refusal.approval)
    assert isinstance(granted, Admitted)
    assert isinstance(ask(claim, spent=4_950_000_000), Denied)


def test_the_ladder_is_walked_before_a_refusal() -> None:
    """A call that does not fit takes the rungs still to come: a cheaper answer is better than none."""
    outcome = ask(a_claim(budget(limit=nano(3_000), ladder=LADDER[1:2]), offer=laddered))
    assert isinstance(outcome, Admitted)
    assert outcome.offer.changes.model == "gpt-5-mini"


def test_streams_that_cannot_be_capped_extend() -> None:
    """Where no cap can be sent a stream holds its usual length and asks for more; a whole answer is refused."""
    raw = lambda changes: an_offer(changes, clampable=False)  # noqa: E731
    outcome = ask(a_claim(budget(limit=nano(50_000)), offer=raw, stream=True))
    assert isinstance(outcome, Admitted)
    assert (outcome.extend, outcome.output_cap, outcome.output_tokens) == (True, None, 1_000)
    assert isinstance(ask(a_claim(budget(limit=nano(50_000)), offer=raw)), Denied)
    checks = checks_of(a_claim(budget(limit=nano(50_000))), (), AT)
    assert more(checks, lambda _: Totals(held=40_000), amount=10_000, tokens=5, final=False) is None
    assert more(checks, lambda _: Totals(held=40_000), amount=10_001, tokens=5, final=False) is not None


def test_watching_budgets_refuse_nothing() -> None:
    """``enforce: false`` counts and alerts, no more."""
    assert isinstance(ask(a_claim(budget(enforce=False)), spent=10**12), Admitted)


@given(
    limit=st.integers(0, 200_000),
    spent=st.integers(0, 200_000),
    held=st.integers(0, 200_000),
    patient=st.booleans(),
    stream=st.booleans(),
    clampable=st.booleans(),
    likely=st.integers(1, 20_000),
    cap=st.integers(0, 20_000),
    rate=st.fractions(0, 20, max_denominator=7),
)
def test_nothing_is_admitted_beyond_the_limit(
    limit: int, spent: int, held: int, patient: bool, stream: bool, clampable: bool, likely: int, cap: int, rate: Any
) -> None:
    """Whatever the figures: what is admitted fits, and what it may cost with the cap that is sent is what is held."""

    def offer(changes: Changes) -> Offer:
        output = Rate(rate.numerator, rate.denominator)
        return an_offer(changes, output=output, output_tokens=cap, likely=likely, clampable=clampable)

    claim = a_claim(budget(limit=nano(limit)), offer=offer, patient=patient, stream=stream)
    outcome = ask(claim, spent=spent, held=held)
    if isinstance(outcome, Admitted):
        assert outcome.amount is not None
        assert outcome.amount == 0 or spent + held + outcome.amount <= limit
        sent = (
            outcome.output_cap if outcome.output_cap is not None else (outcome.output_tokens if outcome.extend else cap)
        )
        assert outcome.amount >= outcome.offer.input + rate * sent
        assert sent <= cap
    if isinstance(outcome, Crowded):
        assert patient
        assert held > 0
    if isinstance(outcome, Denied) and held == 0 and clampable:
        least = 1_000 + rate * min(256, cap)
        assert spent + least > limit


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("$5", "usd", 5_000_000_000),
        ("0.50", "usd", 500_000_000),
        (3, "usd", 3_000_000_000),
        ("1,000 USD", "usd", 10**12),
        ("2M tokens", "tokens", 2_000_000),
        ("1_000 tokens", "tokens", 1_000),
        ("100 calls", "calls", 100),
        ("1 call", "calls", 1),
    ],
)
def test_amounts_say_their_unit(text: Any, unit: str, amount: int) -> None:
    assert parse_amount(text, "x") == (unit, amount)
    assert parse_amount(amount_text(unit, amount), "x") == (unit, amount)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "free", "-5", "$-5", "5 apples", "1.5 calls", "nan", "inf", True, "$5 tokens", "1e40", "$1e30", "5 5"]
)
def test_what_is_no_amount_is_said_so(text: Any) -> None:
    """The error names the path and the value."""
    with pytest.raises(ValueError, match=r"^x: "):
        parse_amount(text, "x")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "needs a limit"),
        ({"limit": "$5", "pre": "day"}, "did you mean 'per'"),
        ({"limit": "$5", "per": "fortnight"}, "is no window"),
        ({"limit": {"day": "$5", "month": "9 calls"}}, "counts one thing"),
        ({"limit": "$5", "each": "usr"}, "did you mean 'user'"),
        ({"limit": "$5", "tz": "Mars/Base"}, "is no time zone"),
        ({"limit": "$5", "reserve": "$6"}, "more than the limit"),
        ({"limit": "$5", "ladder": [{"at": "80%"}]}, "does one thing"),
        ({"limit": "$5", "ladder": [{"at": 0, "refuse": True}]}, "is no share"),
        (
            {"limit": "$5", "ladder": [{"at": 0.8, "refuse": True}]},
            r"ladder\[0\]\.at: '0\.8' may be meant as 0\.8% or as 80%",
        ),
        ({"limit": "$5", "alert_at": [0.5, 0.8, 1]}, r"alert_at: '0\.5' may be meant as 0\.5% or as 50%"),
        ({"limit": "$5", "alert_at": "1.0"}, "may be meant as 1% or as 100%"),
        ({"limit": "$5", "on_unpriced": "maybe"}, "assume-AMOUNT"),
        ({"limit": "$5", "on_store_failure": "open"}, "open-up-to-AMOUNT"),
        ({"limit": "$5", "raise": {"by": "$5"}}, "until"),
        ({"limit": {"day": "$5"}, "per": "day"}, "leave per out"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(spec: dict[str, Any], message: str) -> None:
    """The error names the path and the way out."""
    with pytest.raises(ValueError, match=message) as refused:
        parse_budget("b", spec, zone_of)
    assert str(refused.value).startswith("budget b")


def test_replaced_values_are_values() -> None:
    """A budget read twice from the same spec is equal: a reload that changes nothing is seen as such."""
    assert budget(per="day", ladder=LADDER) == budget(per="day", ladder=LADDER)
    assert replace(budget(), name="c") != budget()
