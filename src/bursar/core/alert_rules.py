"""Alert rules: what may be told, to whom, and how loud.

Rule 1: a rule says one thing. Who hears of it is said by its channels and its severity.
Rule 2: a spend rule is a budget that only watches (``watching``): the books count it like any other.
Rule 3: every budget is reported, by the first rule that names it, else by ``DEFAULT_RULE``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias

from .budgets import Budget, Limit
from .money import NanoUSD
from .values import valueclass
from .windows import Window

__all__ = [
    "DEFAULT_RULE",
    "SEVERITIES",
    "WATCH_PREFIX",
    "BudgetsRule",
    "CountRule",
    "DeadLettersRule",
    "LagRule",
    "PricesRule",
    "Rule",
    "Severity",
    "ShareRule",
    "SpendRule",
    "What",
    "rule_of_budget",
    "spans_of",
    "watching",
]

Severity: TypeAlias = Literal["info", "warning", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")

WATCH_PREFIX: Final = "alert:"
"""What the names of budgets begin with that only count for a spend rule."""


@valueclass
class BudgetsRule:
    """The thresholds and the forecast of budgets whose name fits one of the patterns."""

    patterns: tuple[str, ...] = ("*",)


@valueclass
class SpendRule:
    """More than an amount in a window, for all matching calls or for each value of a column."""

    amount: NanoUSD
    window: Window
    each: str = ""
    match: tuple[tuple[str, tuple[str, ...]], ...] = ()


@valueclass
class CountRule:
    """At least so many in the last ``within_us``, by provider; denied calls of all providers together. ``opened``: times that a
    breaker opened."""

    kind: Literal["unpriced", "denied", "fallback", "opened"]
    at_least: int
    within_us: int


@valueclass
class ShareRule:
    """At least this share (thousandths) of a provider's attempts, once there are ``attempts_min`` of them. ``fallback``: of the
    calls that were answered and whose first choice it was."""

    kind: Literal["failed", "fallback"]
    share: int
    within_us: int
    attempts_min: int


@valueclass
class PricesRule:
    """The price book in force is another one."""


@valueclass
class LagRule:
    """The ledger lacks at least so many entries of the books."""

    entries: int


@valueclass
class DeadLettersRule:
    """At least so many notices could not be delivered."""

    at_least: int


What: TypeAlias = BudgetsRule | SpendRule | CountRule | ShareRule | PricesRule | LagRule | DeadLettersRule


@valueclass
class Rule:
    """``severity`` None: that of the kind. ``channels`` None: all; empty: none, it is only seen."""

    name: str
    what: What
    severity: Severity | None = None
    channels: tuple[str, ...] | None = None


DEFAULT_RULE: Final = Rule("default", BudgetsRule())
"""Always there, after all others: every budget is watched."""


def watching(rule: Rule) -> Budget | None:
    """The budget that counts for a spend rule; None for any other rule."""
    what = rule.what
    if not isinstance(what, SpendRule):
        return None
    return Budget(
        name=f"{WATCH_PREFIX}{rule.name}",
        unit="usd",
        limits=(Limit(what.window, what.amount),),
        match=what.match,
        each=what.each,
        on_unpriced="allow",
        thresholds=(1000,),
        forecast=False,
        enforce=False,
    )


def spans_of(rules: Iterable[Rule]) -> frozenset[int]:
    """The spans over which the rules count: ``Facts.counts`` has the counts of each."""
    return frozenset(rule.what.within_us for rule in rules if isinstance(rule.what, CountRule | ShareRule))


def rule_of_budget(rules: Sequence[Rule], budget: str) -> Rule | None:
    """The rule that tells of a budget; None for one that counts for a rule which is no more."""
    if budget.startswith(WATCH_PREFIX):
        name = budget[len(WATCH_PREFIX) :]
        return next((rule for rule in rules if rule.name == name and isinstance(rule.what, SpendRule)), None)
    for rule in rules:
        if isinstance(rule.what, BudgetsRule) and any(fnmatchcase(budget, p) for p in rule.what.patterns):
            return rule
    return DEFAULT_RULE
