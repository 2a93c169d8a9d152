"""What of the alert rules is true now.

Rule 1: an alert is identified by its labels without the severity (``Condition.key``). A budget's window is one of them:
        each threshold fires at most once in each window, and the next window arms it again.
Rule 2: what fires stays firing until it is over: a budget's threshold until its window ends, or until a raise takes the
        share below it. Money that comes back within a window (a correction) does not arm it again.
Rule 3: what slides (rolling windows, counts of the last minutes, the lag) is over when it has fallen below four fifths
        of what the rule says: at the threshold itself it would fire over and over.
Rule 4: counts begin empty when the process does. Until they reach back as far as the rule looks, an alert that fires
        stays as it is: not known is not resolved.
Rule 5: a forecast is a line through what is spent: it says when the limit would be reached at the pace of this window.
        It is made in calendar windows only, from a fifth of the window on (before that one call decides it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, assert_never

from .alert_rules import (
    BudgetsRule,
    CountRule,
    DeadLettersRule,
    LagRule,
    PricesRule,
    Rule,
    Severity,
    ShareRule,
    SpendRule,
    rule_of_budget,
)
from .alert_text import amount_text, moment_text, money_text, one_line, percent_text, span_text
from .budgets import Budget, Standing
from .tallies import Counts, TallyKind
from .values import valueclass
from .windows import CALENDAR_KINDS

__all__ = [
    "FORECAST_PART",
    "PRICES_CHANGED_US",
    "Condition",
    "Facts",
    "PriceChange",
    "Transitions",
    "evaluate",
    "loudest",
    "transitions",
]

FORECAST_PART: Final = 5
"""A forecast is made after 1/FORECAST_PART of the window."""

PRICES_CHANGED_US: Final = 3_600_000_000
"""A change of prices is an event: its alert resolves by itself after an hour."""

_SUMMARY_LENGTH_MAX: Final = 250


# --- facts and conditions ---------------------------------------------------------------------------------------


@valueclass
class Condition:
    """Something that is true and that a rule says to tell. ``level`` is the limit or threshold it was measured against;
    of several thresholds of one thing, ``step`` tells which is higher."""

    key: str
    labels: tuple[tuple[str, str], ...]
    annotations: tuple[tuple[str, str], ...]
    level: int = 0
    step: int = 0

    def label(self, name: str) -> str:
        return dict(self.labels).get(name, "")

    def annotation(self, name: str) -> str:
        return dict(self.annotations).get(name, "")


@valueclass
class PriceChange:
    """The last change of the price book that was seen."""

    before: str
    after: str
    at_us: int


@valueclass
class Facts:
    """How things stand. ``firing`` is what fires already, by key; ``counts`` by span; ``counting_since_us`` see rule 4."""

    standings: tuple[Standing, ...] = ()
    counts: Mapping[int, Counts] | None = None
    counting_since_us: int = 0
    prices: PriceChange | None = None
    ledger_lag: int | None = None
    dead_letters: int = 0
    firing: Mapping[str, Condition] | None = None


@valueclass
class Transitions:
    """What begins to fire, and the keys of what is over."""

    fired: tuple[Condition, ...]
    resolved: tuple[str, ...]


def evaluate(rules: Sequence[Rule], facts: Facts, now_us: int) -> tuple[Condition, ...]:
    """The conditions that hold now, each key once. What fires already and is not over is among them as it was fired."""
    found: dict[str, Condition] = {}
    firing = facts.firing or {}
    for condition in (*_of_budgets(rules, facts.standings, firing, now_us), *_of_rules(rules, facts, now_us)):
        found.setdefault(condition.key, condition)
    return tuple(found.values())


def transitions(firing: Mapping[str, Condition], conditions: Sequence[Condition]) -> Transitions:
    """What changed between what fires and what holds."""
    holding = {condition.key for condition in conditions}
    fired = tuple(condition for condition in conditions if condition.key not in firing)
    return Transitions(fired, tuple(key for key in firing if key not in holding))


def loudest(fired: Sequence[Condition]) -> frozenset[str]:
    """The keys that are worth a notice: of several thresholds crossed at once the highest, not each of them."""
    highest: dict[tuple[tuple[str, str], ...], Condition] = {}
    for condition in fired:
        about = tuple(pair for pair in condition.labels if pair[0] not in ("threshold", "severity"))
        if about not in highest or highest[about].step < condition.step:
            highest[about] = condition
    return frozenset(condition.key for condition in highest.values())


# --- budgets ----------------------------------------------------------------------------------------------------


def _of_budgets(
    rules: Sequence[Rule], standings: Iterable[Standing], firing: Mapping[str, Condition], now_us: int
) -> Iterator[Condition]:
    # Most of many subjects are far from any threshold: their texts are not made.
    told = {(condition.label("budget"), condition.label("subject")) for condition in firing.values()}
    for standing in standings:
        budget = standing.budget
        known = (budget.name, one_line(standing.subject)) in told
        if standing.use.spent <= 0 and not known:
            continue
        rule = rule_of_budget(rules, budget.name)
        if rule is None:
            continue
        if isinstance(rule.what, SpendRule):
            if known or standing.share >= 1000:
                yield from _spend(rule, standing, firing)
            continue
        for threshold in budget.thresholds:
            if known or standing.share >= threshold:
                yield from _threshold(rule, standing, threshold, firing)
        if budget.forecast:
            yield from _forecast(rule, standing, firing, now_us, known=known)


def _threshold(rule: Rule, standing: Standing, threshold: int, firing: Mapping[str, Condition]) -> Iterator[Condition]:
    budget, share = standing.budget, percent_text(standing.share)
    severity: Severity = "info" if threshold < 800 else "warning" if threshold < 1000 else "critical"
    name = _budget_name(standing)
    condition = _condition(
        "BursarBudgetThreshold",
        rule,
        severity,
        {**_budget_labels(standing), "threshold": percent_text(threshold).replace(" ", "")},
        (
            f"{name}: {share} of {amount_text(budget.unit, standing.limit)} spent",
            f"{name} has spent {_figures(standing)}: {share}, at or above {percent_text(threshold)}. {_ends(standing)}",
            _way_out(budget),
        ),
        standing.limit,
        step=threshold,
    )
    yield from _while(condition, firing, standing, reached=standing.share >= threshold, at=threshold)


def _spend(rule: Rule, standing: Standing, firing: Mapping[str, Condition]) -> Iterator[Condition]:
    assert isinstance(rule.what, SpendRule)
    who = f"{rule.what.each} {standing.subject}" if standing.subject else "what the rule matches"
    spent, limit = money_text(standing.use.spent), money_text(standing.limit)
    condition = _condition(
        "BursarSpend",
        rule,
        "warning",
        _budget_labels(standing),
        (
            f"{rule.name}: {spent} per {standing.window.text}" + (f" for {who}" if standing.subject else ""),
            f"{who} has spent {spent}; the rule {rule.name} tells from {limit} per {standing.window.text} on. "
            + _ends(standing),
            "See `bursar spend` for what it went to; a budget with a limit would hold it back.",
        ),
        standing.limit,
    )
    yield from _while(condition, firing, standing, reached=standing.share >= 1000, at=1000)


def _while(
    condition: Condition, firing: Mapping[str, Condition], standing: Standing, *, reached: bool, at: int
) -> Iterator[Condition]:
    """The condition while it holds, as it was fired if it fires (rules 2 and 3)."""
    fired = firing.get(condition.key)
    if fired is None:
        if reached:
            yield condition
    elif not reached and standing.limit > fired.level:  # a raise
        return
    elif reached or standing.window.kind != "rolling" or standing.share * 5 >= at * 4:
        yield fired


def _forecast(
    rule: Rule, standing: Standing, firing: Mapping[str, Condition], now_us: int, *, known: bool
) -> Iterator[Condition]:
    window, span = standing.window, standing.span
    if window.kind not in CALENDAR_KINDS or span.end_us is None or standing.limit <= 0:
        return
    length, past = span.end_us - span.start_us, now_us - span.start_us
    if past * FORECAST_PART < length or now_us >= span.end_us:
        return
    spent, limit = standing.use.spent, standing.limit
    expected = spent * length // past
    if not known and expected < limit:
        return
    unit, name = standing.budget.unit, _budget_name(standing)
    # Where the line meets the limit. What is over already was reached in the past, which a threshold has told.
    reaches_us = span.start_us + past * limit // spent if spent > 0 else span.end_us
    condition = _condition(
        "BursarBudgetForecast",
        rule,
        "warning",
        _budget_labels(standing),
        (
            f"{name}: on the way to {amount_text(unit, expected)} of {amount_text(unit, limit)}",
            (
                f"{name} has spent {_figures(standing)}. At the pace of this {window.text} it would reach the limit at "
                f"{moment_text(reaches_us)} and {amount_text(unit, expected)} by its end. {_ends(standing)}"
            ),
            _way_out(standing.budget),
        ),
        limit,
    )
    fired = firing.get(condition.key)
    if fired is None:
        if limit <= expected and spent < limit:
            yield condition
    elif expected >= limit or limit <= fired.level:
        yield fired


def _budget_name(standing: Standing) -> str:
    budget = standing.budget
    return f"Budget {budget.name}" + (f" ({budget.each} {standing.subject})" if standing.subject else "")


def _budget_labels(standing: Standing) -> dict[str, str]:
    calendar = standing.window.kind in CALENDAR_KINDS
    return {
        "budget": standing.budget.name,
        "subject": standing.subject,
        "window": standing.window.text,
        "window_start": moment_text(standing.span.start_us) if calendar else "",
    }


def _figures(standing: Standing) -> str:
    unit, use = standing.budget.unit, standing.use
    text = f"{amount_text(unit, use.spent)} of {amount_text(unit, standing.limit)} per {standing.window.text}"
    if use.held > 0:
        text += f", and {amount_text(unit, use.held)} more is held by calls under way"
    if standing.unpriced > 0:
        text += f"; {standing.unpriced:,} attempts are unpriced and not in these figures"
    return text


def _ends(standing: Standing) -> str:
    end_us = standing.span.end_us
    if standing.window.kind == "rolling":
        return f"Money comes back as it gets older than {standing.window.text}."
    return "It does not reset by itself." if end_us is None else f"It resets at {moment_text(end_us)}."


def _way_out(budget: Budget) -> str:
    if not budget.enforce:
        return "This budget only watches. Set `enforce: true` to hold calls back, or give it a higher limit."
    return f"Raise the limit of {budget.name} or wait for the reset; `bursar spend` shows what it went to."


# --- everything else --------------------------------------------------------------------------------------------


def _of_rules(rules: Sequence[Rule], facts: Facts, now_us: int) -> Iterator[Condition]:
    for rule in rules:
        match rule.what:
            case BudgetsRule() | SpendRule():
                pass
            case CountRule() | ShareRule():
                yield from _of_counts(rule, rule.what, facts, now_us)
            case PricesRule():
                yield from _prices(rule, facts.prices, now_us)
            case LagRule(entries):
                yield from _sliding(_lag(rule, entries, facts.ledger_lag or 0), facts, facts.ledger_lag, entries)
            case DeadLettersRule(at_least):
                yield from _dead_letters(rule, at_least, facts)
            case _:
                assert_never(rule.what)


def _sliding(condition: Condition, facts: Facts, value: int | None, at: int) -> Iterator[Condition]:
    """The condition while the value is there, with the slack of rule 3. A value that is not known changes nothing."""
    fired = (facts.firing or {}).get(condition.key)
    if fired is not None:
        if value is None or value * 5 >= at * 4:
            yield fired
    elif value is not None and value >= at:
        yield condition


def _of_counts(rule: Rule, what: CountRule | ShareRule, facts: Facts, now_us: int) -> Iterator[Condition]:
    counts = (facts.counts or {}).get(what.within_us, {})
    complete = now_us - facts.counting_since_us >= what.within_us
    fired = {c.label("provider") for c in (facts.firing or {}).values() if c.label("rule") == rule.name}
    if what.kind == "denied":
        providers = {""}
    else:
        providers = {provider for kind, provider in counts if kind in (what.kind, "settled")} | fired
    for provider in sorted(providers):
        count = sum(n for (kind, p), n in counts.items() if kind == what.kind and (p == provider or kind == "denied"))
        attempts = _attempts(what, provider, counts)
        if isinstance(what, CountRule):
            value, at, enough = count, what.at_least, True
        else:
            value = count * 1000 // attempts if attempts else 0
            at, enough = what.share, attempts >= what.attempts_min
        condition = _counted(rule, what, provider, count, attempts)
        if condition.key in (facts.firing or {}):
            reached = value * 5 >= at * 4
            yield from _sliding(condition, facts, value if complete or reached else None, at)
        elif enough and value >= at:
            yield condition


def _attempts(what: CountRule | ShareRule, provider: str, counts: Counts) -> int:
    """What the count is a share of."""
    settled = counts.get(("settled", provider), 0)
    if what.kind != "fallback":
        return settled
    # A provider that is left alone settles nothing: the calls that went elsewhere for it belong to the whole, its failures do not.
    return max(0, settled - counts.get(("failed", provider), 0)) + counts.get(("fallback", provider), 0)


_COUNT_NAMES: Final[Mapping[TallyKind, str]] = {
    "unpriced": "BursarUnpriced",
    "denied": "BursarDenied",
    "failed": "BursarFailureRate",
    "fallback": "BursarFallbacks",
    "opened": "BursarBreakerOpen",
}
_COUNT_WORDS: Final[Mapping[TallyKind, str]] = {
    "unpriced": "unpriced",
    "denied": "denied",
    "failed": "failed",
    "fallback": "served by a fallback",
    "opened": "opened",
}
_COUNT_WAYS_OUT: Final[Mapping[TallyKind, str]] = {
    "unpriced": "`bursar spend` says which models lack a price; `bursar prices refresh`, or state one under `prices:`.",
    "denied": "Look which budget said no, and raise it or let it be; clients were told the reason with each denial.",
    "failed": "See the errors in the console and the provider's status page.",
    "fallback": "`bursar routes` says why the first choice is left, `bursar why` of one call; fallbacks cost what they cost.",
    "opened": "`bursar routes` shows which targets are left alone and why; they are tried again by themselves, one call at a time.",
}


def _counted(rule: Rule, what: CountRule | ShareRule, provider: str, count: int, attempts: int) -> Condition:
    word, within = _COUNT_WORDS[what.kind], span_text(what.within_us)
    noun = "call" if what.kind in ("denied", "fallback") else "attempt"
    nouns = f"{count:,} {noun}" + ("" if count == 1 else "s")
    # Who answered a call instead of a provider has had no attempt there.
    at = f" {'meant for' if what.kind == 'fallback' else 'at'} {provider}" if provider else ""
    if isinstance(what, ShareRule):
        share = percent_text(count * 1000 // attempts) if attempts else "0 %"
        whole = f"answered {noun}s" if what.kind == "fallback" else f"{noun}s"
        summary = f"{share} of {noun}s{at} {word} in {within}"
        text = f"{count:,} of {attempts:,} {whole}{at} were {word} in the last {within}: {share}. The rule {rule.name} tells "
        text += f"from {percent_text(what.share)} on, once there are {what.attempts_min:,} {whole}."
    elif what.kind == "opened":  # one breaker may open again and again
        opened = f"Breakers{at} opened {'once' if count == 1 else f'{count:,} times'} in"
        summary = f"{opened} {within}"
        text = f"{opened} the last {within}. The rule {rule.name} tells from {what.at_least:,} on."
    else:
        summary = f"{nouns}{at} {word} in {within}"
        text = f"{nouns}{at} {'was' if count == 1 else 'were'} {word} in the last {within}. The rule {rule.name} tells "
        text += f"from {what.at_least:,} on."
    severity: Severity = "critical" if what.kind == "failed" else "warning"
    level = what.share if isinstance(what, ShareRule) else what.at_least
    texts = (summary, text, _COUNT_WAYS_OUT[what.kind])
    return _condition(_COUNT_NAMES[what.kind], rule, severity, {"provider": provider}, texts, level)


def _prices(rule: Rule, change: PriceChange | None, now_us: int) -> Iterator[Condition]:
    if change is None or now_us - change.at_us >= PRICES_CHANGED_US:
        return
    yield _condition(
        "BursarPricesChanged",
        rule,
        "info",
        {"price_book": change.after, "changed": moment_text(change.at_us)},
        (
            "The prices in force have changed",
            (
                f"Since {moment_text(change.at_us)} calls are priced by {change.after}; before it was {change.before}. What "
                "was charged stays as it is."
            ),
            "`bursar prices diff` shows what is different.",
        ),
        0,
    )


def _lag(rule: Rule, entries: int, lag: int) -> Condition:
    return _condition(
        "BursarLedgerLag",
        rule,
        "warning",
        {},
        (
            f"The ledger is {lag:,} entries behind the books",
            (
                f"{lag:,} entries of the books are not in the ledger; the rule {rule.name} tells from {entries:,} on. Reports "
                "are late, budgets and balances are not."
            ),
            "See the log for why shipping fails; `bursar doctor` looks at disk and stores. Nothing is lost.",
        ),
        entries,
    )


def _dead_letters(rule: Rule, at_least: int, facts: Facts) -> Iterator[Condition]:
    dead = facts.dead_letters
    condition = _condition(
        "BursarDeadLetters",
        rule,
        "warning",
        {},
        (
            f"{dead:,} alert notices could not be delivered",
            f"{dead:,} notices are dead letters: their channel refused them or did not answer for hours.",
            "`bursar alerts list` says why; `bursar alerts test` tries the channels, `bursar alerts retry` sends again.",
        ),
        at_least,
    )
    yield from _sliding(condition, facts, dead, at_least)


def _condition(
    alertname: str,
    rule: Rule,
    severity: Severity,
    labels: Mapping[str, str],
    texts: tuple[str, str, str],
    level: int,
    *,
    step: int = 0,
) -> Condition:
    identity = {"rule": rule.name, **{name: one_line(value) for name, value in labels.items() if value}}
    inside = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(identity.items()))
    summary, description, way_out = texts
    return Condition(
        key=f"{alertname}{{{inside}}}",
        labels=tuple(sorted({**identity, "alertname": alertname, "severity": rule.severity or severity}.items())),
        annotations=(
            ("description", one_line(description)),
            ("summary", one_line(summary, _SUMMARY_LENGTH_MAX)),
            ("way_out", one_line(way_out)),
        ),
        level=level,
        step=step,
    )
