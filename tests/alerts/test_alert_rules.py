"""Which conditions hold, what begins and what is over: values in, values out."""

from __future__ import annotations

from typing import Any

import pytest
from alert_house import DAY_US, HOUR_US, NOON_US, settings_from, standing
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.alert_rules import (
    DEFAULT_RULE,
    BudgetsRule,
    CountRule,
    DeadLettersRule,
    LagRule,
    PricesRule,
    Rule,
    ShareRule,
    spans_of,
    watching,
)
from bursar.core.alerts import Condition, Facts, PriceChange, evaluate, loudest, transitions
from bursar.core.budgets import NO_TOTALS, Standing, Use, account_of
from bursar.core.deliveries import ATTEMPTS_MAX, NotSent, next_try
from bursar.core.money import NANO_PER_USD
from bursar.core.scopes import Scope
from bursar.core.tallies import MINUTE_US, OTHER, PROVIDERS_MAX, SPAN_US_MAX, Tallies

MIDNIGHT_US = NOON_US - HOUR_US * 12
RULES = (DEFAULT_RULE,)


class House:
    """Evaluates again and again, as a server does."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = (*rules, DEFAULT_RULE)
        self.firing: dict[str, Condition] = {}

    def look(self, now_us: int, *standings: Standing, **facts: Any) -> tuple[list[str], list[str]]:
        """The thresholds (else names) that begin to fire, and those that are over."""
        conditions = evaluate(self.rules, Facts(standings=standings, firing=self.firing, **facts), now_us)
        change = transitions(self.firing, conditions)
        over = [_short(self.firing.pop(key)) for key in change.resolved]
        self.firing |= {condition.key: condition for condition in change.fired}
        return [_short(condition) for condition in change.fired], over


def _short(condition: Condition) -> str:
    return condition.label("threshold") or condition.label("alertname").removeprefix("Bursar")


def test_each_threshold_fires_once_in_a_window_and_the_next_window_arms_it() -> None:
    """50, 80, 95 and 100 % are told when they are reached, then not again until tomorrow."""
    house, night = House(), MIDNIGHT_US + HOUR_US
    assert house.look(night, standing(999, forecast=False)) == ([], [])
    assert house.look(night, standing(1_000, forecast=False)) == (["50%"], [])
    assert house.look(night, standing(1_000, forecast=False)) == ([], [])
    assert house.look(night, standing(2_100, forecast=False)) == (["80%", "95%", "100%"], [])
    assert house.look(night, standing(2_100, forecast=False)) == ([], [])
    tomorrow = standing(0, at_us=NOON_US + DAY_US, forecast=False)
    assert house.look(night + DAY_US, tomorrow) == ([], ["50%", "80%", "95%", "100%"])
    assert house.look(night + DAY_US, standing(1_000, at_us=NOON_US + DAY_US, forecast=False)) == (["50%"], [])


def test_a_raise_arms_what_it_takes_the_share_below() -> None:
    """More money ends the alert; reaching the share of the new limit tells again. A correction does not."""
    house = House()
    assert house.look(MIDNIGHT_US, standing(1_700)) == (["50%", "80%"], [])
    assert house.look(MIDNIGHT_US, standing(1_500)) == ([], [])  # money came back: still told, not armed
    assert house.look(MIDNIGHT_US, standing(1_700, limit=30)) == ([], ["80%"])
    assert house.look(MIDNIGHT_US, standing(2_400, limit=30)) == (["80%"], [])


def test_a_rolling_window_has_slack() -> None:
    """At the threshold money comes and goes; the alert is over at four fifths of it."""
    house = House()
    assert house.look(NOON_US, standing(1_600, per="24h")) == (["50%", "80%"], [])
    assert house.look(NOON_US, standing(1_599, per="24h")) == ([], [])
    assert house.look(NOON_US, standing(1_279, per="24h")) == ([], ["80%"])
    assert house.look(NOON_US, standing(1_600, per="24h")) == (["80%"], [])


def test_the_text_says_what_how_much_and_the_way_out() -> None:
    """The figures are plain money, with what is held, when it resets and what to do."""
    base = standing(1_642, forecast=False)
    (_, condition) = evaluate(
        RULES,
        Facts((Standing(base.budget, "", base.window, base.span, base.limit, Use(base.use.spent, 5_000_000), 2),)),
        NOON_US,
    )
    assert condition.annotation("summary") == "Budget search: 82.1 % of $20.00 spent"
    assert condition.annotation("description") == (
        "Budget search has spent $16.42 of $20.00 per day, and $0.0050 more is held by calls under way; 2 attempts are "
        "unpriced and not in these figures: 82.1 %, at or above 80 %. It resets at 2025-10-10 00:00 UTC."
    )
    assert "Raise the limit of search" in condition.annotation("way_out")
    assert dict(condition.labels) == {
        "alertname": "BursarBudgetThreshold",
        "rule": "default",
        "budget": "search",
        "window": "day",
        "window_start": "2025-10-09 00:00 UTC",
        "threshold": "80%",
        "severity": "warning",
    }


@pytest.mark.parametrize(
    ("per", "hours", "cents", "fires"),
    [
        ("day", 4, 500, False),  # before a fifth of the day
        ("day", 6, 500, True),  # $5 in 6 hours is $20 in 24
        ("day", 6, 499, False),
        ("24h", 6, 1_900, False),  # rolling
        ("lifetime", 6, 1_900, False),
    ],
)
def test_a_forecast_is_a_line_through_what_is_spent(per: str, hours: int, cents: int, fires: bool) -> None:
    """In calendar windows, from a fifth of the window on, when the line reaches the limit before its end."""
    fired, _ = House().look(MIDNIGHT_US + hours * HOUR_US, standing(cents, per=per, thresholds=()))
    assert fired == (["BudgetForecast"] if fires else [])


def test_a_forecast_is_told_once_in_a_window() -> None:
    """It stays when spending pauses, goes with a raise, and is not made for what is spent already."""
    house, six = House(), MIDNIGHT_US + 6 * HOUR_US
    assert house.look(six, standing(600, thresholds=())) == (["BudgetForecast"], [])
    assert house.look(six + 6 * HOUR_US, standing(600, thresholds=())) == ([], [])
    assert house.look(six + 6 * HOUR_US, standing(600, limit=40, thresholds=())) == ([], ["BudgetForecast"])
    assert House().look(six, standing(2_000, thresholds=())) == ([], [])
    assert House().look(six, standing(600, thresholds=(), forecast=False)) == ([], [])


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2_600), st.sampled_from(["", "ann", "bob"])),
        min_size=1,
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_a_threshold_fires_at_most_once_per_window_and_subject(steps: list[tuple[int, int, str]], random: Any) -> None:
    """Whatever is spent or comes back, in whatever order it is looked at: once, as long as nobody raises the limit."""
    steps.sort(key=lambda step: step[0])
    house = House()
    seen: list[tuple[str, str, str]] = []
    for day, cents, subject in steps:
        now_us = MIDNIGHT_US + day * DAY_US + HOUR_US
        others = [standing(cents, at_us=now_us, subject=subject)]
        # Every subject is always looked at: what is not reported is over.
        latest = {s: c for d, c, s in steps if d == day and (d, c, s) <= (day, cents, subject)}
        others += [standing(c, at_us=now_us, subject=s) for s, c in latest.items() if s != subject]
        others += [standing(0, at_us=now_us, subject=s) for s in ("", "ann", "bob") if s != subject and s not in latest]
        random.shuffle(others)
        conditions = evaluate(RULES, Facts(tuple(others), firing=house.firing), now_us)
        change = transitions(house.firing, conditions)
        for key in change.resolved:
            del house.firing[key]
        for condition in change.fired:
            house.firing[condition.key] = condition
            seen.append((condition.label("subject"), condition.label("threshold"), condition.label("window_start")))
    assert len(seen) == len(set(seen))


def test_of_thresholds_crossed_at_once_the_highest_is_worth_a_notice() -> None:
    """One message says 100 %, not four; other subjects and the forecast are things of their own."""
    standings = (standing(2_000, subject="ann"), standing(1_700, subject="bob"))
    fired = evaluate(RULES, Facts(standings), NOON_US)
    loud = [c for c in fired if c.key in loudest(fired)]
    assert sorted((c.label("subject"), _short(c)) for c in loud) == [
        ("ann", "100%"),
        ("bob", "80%"),
        ("bob", "BudgetForecast"),
    ]


def test_a_spend_rule_is_a_budget_that_only_watches() -> None:
    """The books count it per subject and window like any budget; nothing is held back by it."""
    rules = settings_from(rules={"big": {"spend": "$20", "per": "day", "each": "user", "match": {"team": "x*"}}}).rules
    budget = watching(rules[0])
    assert budget is not None
    assert (budget.name, budget.enforce, budget.thresholds, budget.forecast) == ("alert:big", False, (1000,), False)
    assert budget.covers(Scope(team="x1", user="ann"))
    assert not budget.covers(Scope(team="x1"))
    assert not budget.covers(Scope(team="y", user="ann"))
    window = budget.limits[0].window
    span = window.span(NOON_US)
    assert account_of(budget, window, span, "ann").startswith("budget:alert:big@")
    assert [watching(rule) for rule in rules[1:]] == [None]

    def at(cents: int) -> Standing:
        use = Use(cents * NANO_PER_USD // 100, NO_TOTALS.held)
        return Standing(budget, "ann", window, span, budget.limits[0].amount, use, 0)

    (condition,) = evaluate(rules, Facts((at(2_150),)), NOON_US)
    assert condition.annotation("summary") == "big: $21.50 per day for user ann"
    assert not evaluate(rules, Facts((at(1_999),)), NOON_US)
    assert not evaluate(RULES, Facts((at(2_150),)), NOON_US)  # its rule is no more


def _counts(tallies: Tallies, now_us: int, *rules: Rule) -> dict[str, Any]:
    counts = {span: tallies.counts(span, now_us) for span in spans_of(rules)}
    return {"counts": counts, "counting_since_us": tallies.since_us}


def test_failures_are_told_as_a_share_of_enough_attempts() -> None:
    """One of one is no outage; ten of twenty is. It is over when it falls below four fifths of the threshold."""
    rule = Rule("down", ShareRule("failed", 500, 10 * MINUTE_US, 20))
    house, tallies = House(rule), Tallies(NOON_US - DAY_US)
    tallies.add("settled", "openai", NOON_US)
    tallies.add("failed", "openai", NOON_US)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == ([], [])
    tallies.add("settled", "openai", NOON_US, 19)
    tallies.add("failed", "openai", NOON_US, 9)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == (["FailureRate"], [])
    (condition,) = house.firing.values()
    assert condition.annotation("summary") == "50 % of attempts at openai failed in 10 minutes"
    tallies.add("settled", "openai", NOON_US, 5)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == ([], [])  # 40 %: slack
    tallies.add("settled", "openai", NOON_US, 1)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == ([], ["FailureRate"])


def test_counts_that_begin_empty_resolve_nothing() -> None:
    """After a restart a rule knows nothing until its span has passed: what fires stays."""
    rule = Rule("no-price", CountRule("unpriced", 1, 10 * MINUTE_US))
    house, tallies = House(rule), Tallies(NOON_US - DAY_US)
    tallies.add("unpriced", "openai", NOON_US)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == (["Unpriced"], [])
    after = Tallies(NOON_US)
    assert house.look(NOON_US + MINUTE_US, **_counts(after, NOON_US + MINUTE_US, rule)) == ([], [])
    later = NOON_US + 10 * MINUTE_US
    assert house.look(later, **_counts(after, later, rule)) == ([], ["Unpriced"])


def test_denied_calls_are_counted_over_all_providers() -> None:
    """A denied call may have no provider yet."""
    rule = Rule("denied", CountRule("denied", 3, 10 * MINUTE_US))
    tallies = Tallies(0)
    for provider in ("", "openai", "google"):
        tallies.add("denied", provider, NOON_US)
    (condition,) = evaluate((rule,), Facts(**_counts(tallies, NOON_US, rule)), NOON_US)
    assert condition.annotation("summary") == "3 calls denied in 10 minutes"
    assert not condition.label("provider")


def test_fallbacks_are_told_as_a_count_or_a_share() -> None:
    """Both look at the same counter; the share is of the calls that were answered, here or elsewhere."""
    rules = (Rule("n", CountRule("fallback", 5, MINUTE_US)), Rule("s", ShareRule("fallback", 100, MINUTE_US, 20)))
    tallies = Tallies(0)
    tallies.add("settled", "openai", NOON_US, 40)
    tallies.add("failed", "openai", NOON_US, 5)
    tallies.add("fallback", "openai", NOON_US, 5)
    found = evaluate(rules, Facts(**_counts(tallies, NOON_US, *rules)), NOON_US)
    assert [c.annotation("summary") for c in found] == [
        "5 calls meant for openai served by a fallback in 1 minute",
        "12.5 % of calls meant for openai served by a fallback in 1 minute",
    ]
    assert found[1].annotation("description") == (
        "5 of 40 answered calls meant for openai were served by a fallback in the last 1 minute: 12.5 %. The rule s tells from "
        "10 % on, once there are 20 answered calls."
    )


def test_a_provider_that_is_left_alone_has_a_share_of_fallbacks() -> None:
    """With its breaker open nothing settles there: what went elsewhere is all of its calls, not none."""
    rule = Rule("s", ShareRule("fallback", 100, 10 * MINUTE_US, 20))
    house, tallies = House(rule), Tallies(NOON_US - DAY_US)
    tallies.add("settled", "openai", NOON_US, 2)
    tallies.add("failed", "openai", NOON_US, 2)
    tallies.add("fallback", "openai", NOON_US, 19)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == ([], [])  # not enough of them yet
    tallies.add("fallback", "openai", NOON_US)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == (["Fallbacks"], [])
    (condition,) = house.firing.values()
    assert condition.annotation("summary") == "100 % of calls meant for openai served by a fallback in 10 minutes"
    tallies.add("settled", "openai", NOON_US, 400)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == ([], ["Fallbacks"])


def test_breakers_that_open_are_told_by_provider() -> None:
    """Every opening counts, also of one breaker again and again; it is over when the span has passed."""
    rule = Rule("breakers", CountRule("opened", 2, 10 * MINUTE_US))
    house, tallies = House(rule), Tallies(NOON_US - DAY_US)
    tallies.add("opened", "groq", NOON_US)
    tallies.add("opened", "openai", NOON_US)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == ([], [])
    tallies.add("opened", "openai", NOON_US)
    assert house.look(NOON_US, **_counts(tallies, NOON_US, rule)) == (["BreakerOpen"], [])
    (condition,) = house.firing.values()
    assert dict(condition.labels) == {
        "alertname": "BursarBreakerOpen", "rule": "breakers", "provider": "openai", "severity": "warning",
    }  # fmt: skip
    assert condition.annotation("summary") == "Breakers at openai opened 2 times in 10 minutes"
    assert condition.annotation("description") == (
        "Breakers at openai opened 2 times in the last 10 minutes. The rule breakers tells from 2 on."
    )
    assert "bursar routes" in condition.annotation("way_out")
    later = NOON_US + 10 * MINUTE_US
    assert house.look(later, **_counts(tallies, later, rule)) == ([], ["BreakerOpen"])


def test_prices_lag_and_dead_letters() -> None:
    """A change of prices is told for an hour; the lag and dead letters while they are there."""
    house = House(Rule("p", PricesRule()), Rule("l", LagRule(100)), Rule("d", DeadLettersRule(1)))
    assert house.look(NOON_US, ledger_lag=99) == ([], [])
    change = PriceChange("2025-10-01", "2025-10-09", NOON_US)
    assert house.look(NOON_US, ledger_lag=100, prices=change, dead_letters=1) == (
        ["PricesChanged", "LedgerLag", "DeadLetters"],
        [],
    )
    assert house.look(NOON_US, ledger_lag=None, prices=change, dead_letters=1) == ([], [])  # not known: stays
    assert house.look(NOON_US + HOUR_US, ledger_lag=79, prices=change) == (
        [],
        ["PricesChanged", "LedgerLag", "DeadLetters"],
    )


def test_names_of_strangers_stay_on_one_line() -> None:
    """A subject is what a client sent: no line break of it gets into labels, keys or texts."""
    (condition, *_) = evaluate(RULES, Facts((standing(1_000, subject='a\r\nBcc: x"\x1b[31m'),)), NOON_US)
    text = condition.key + "".join(value for _, value in (*condition.labels, *condition.annotations))
    assert text.isprintable()


def test_tallies_count_by_the_minute_and_are_bounded() -> None:
    """A span is the running minute and those before it; old minutes go, and names past a limit are one."""
    tallies = Tallies(0)
    for minute in range(5):
        tallies.add("settled", "a", minute * MINUTE_US)
    assert tallies.counts(2 * MINUTE_US, 4 * MINUTE_US) == {("settled", "a"): 2}
    assert tallies.counts(2 * MINUTE_US, 9 * MINUTE_US) == {}
    for number in range(PROVIDERS_MAX + 50):
        tallies.add("denied", f"p{number}", 5 * MINUTE_US)
    found = tallies.counts(MINUTE_US, 5 * MINUTE_US)
    assert len(found) <= PROVIDERS_MAX
    assert sum(found.values()) == PROVIDERS_MAX + 50
    assert found["denied", OTHER] >= 50
    tallies.add("settled", "a", SPAN_US_MAX + 10 * MINUTE_US)
    assert sum(tallies.counts(SPAN_US_MAX, SPAN_US_MAX + 10 * MINUTE_US).values()) == 1


@given(st.integers(0, 1 << 62), st.integers(0, 1 << 40))
def test_waits_double_and_end(seed: int, after_s: int) -> None:
    """From 15 seconds to an hour, at most a quarter longer; a receiver may ask for up to six hours; then it is over."""
    waits = [next_try(NotSent("x"), attempts=n, now_us=0, seed=seed) for n in range(1, ATTEMPTS_MAX + 1)]
    assert waits.pop() is None
    for number, wait in enumerate(waits):
        least = min(15_000_000 << number, 3_600_000_000)
        assert wait is not None
        assert least <= wait < least * 5 // 4
    told = next_try(NotSent("x", after_s=after_s), attempts=1, now_us=0, seed=seed)
    assert told is not None
    assert told >= min(after_s, 6 * 3_600) * 1_000_000
    assert told <= 6 * HOUR_US
    assert next_try(NotSent("x", retry=False), attempts=1, now_us=0, seed=seed) is None


def test_the_first_rule_that_names_a_budget_tells_of_it() -> None:
    """Other rules do not repeat it; budgets that no rule names are told by the default one."""
    rules = (
        Rule("prod", BudgetsRule(("prod-*",)), "critical"),
        Rule("all-prod", BudgetsRule(("prod*",))),
        DEFAULT_RULE,
    )
    found = evaluate(
        rules, Facts((standing(1_000, name="prod-a"), standing(1_000, name="dev"))), NOON_US - 11 * HOUR_US
    )
    assert [(c.label("budget"), c.label("rule"), c.label("severity")) for c in found] == [
        ("prod-a", "prod", "critical"),
        ("dev", "default", "info"),
    ]
