"""Budgets: what they are, whom they cover, and how they stand.

Rule 1: a budget is a limit on matching scopes over windows; each window, and each value of ``each``, has an account of its
        own in the books, whose balance is what is used of it.
Rule 2: a child task draws from what is left of every task above it; nobody opens an allowance of their own.
Rule 3: an attempt without a known price is NULL money everywhere; what a budget counts for it is said by ``on_unpriced``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Final, Literal, NamedTuple, TypeAlias

from .ladder import Rung
from .money import NanoUSD
from .scopes import SCOPE_COLUMNS, Scope
from .values import valueclass
from .windows import Span, Window

__all__ = [
    "DEFAULT_THRESHOLDS",
    "FLOOR_TOKENS",
    "LABEL_PREFIX",
    "NO_TOTALS",
    "TASK_DEPTH_MAX",
    "TASK_RULES",
    "Budget",
    "Check",
    "Limit",
    "Raise",
    "Standing",
    "TaskLimit",
    "Totals",
    "TotalsOf",
    "Unit",
    "Use",
    "account_of",
    "account_prefix",
    "check_of",
    "scope_value",
    "task_budget",
    "thousandths",
    "use_of",
]

Unit: TypeAlias = Literal["usd", "tokens", "calls"]

DEFAULT_THRESHOLDS: Final = (500, 800, 950, 1000)
"""Shares of a limit, in thousandths, at which an alert is raised where a budget names none."""

FLOOR_TOKENS: Final = 256
"""An answer is never cut to fewer output tokens than this: it would cost money and say nothing."""

LABEL_PREFIX: Final = "label:"
TASK_DEPTH_MAX: Final = 32
_CHECKS_MAX: Final = 10_000
_COLUMNS: Final = frozenset(SCOPE_COLUMNS)


class Totals(NamedTuple):
    """What is held and spent on one account. Money is nano-USD; ``unpriced`` counts attempts without a known charge, and
    ``assumed`` is what was held for them."""

    held: int = 0
    spent: int = 0
    unpriced: int = 0
    held_tokens: int = 0
    spent_tokens: int = 0
    held_calls: int = 0
    spent_calls: int = 0
    assumed: int = 0

    def plus(self, other: Sequence[int]) -> Totals:
        # Written out: it is done for every account of every hold.
        a, b, c, d, e, f, g, h = other
        return Totals(
            self[0] + a, self[1] + b, self[2] + c, self[3] + d, self[4] + e, self[5] + f, self[6] + g, self[7] + h
        )  # fmt: skip


NO_TOTALS: Final = Totals()


@valueclass
class Limit:
    """At most ``amount`` (nano-USD, tokens or calls) in one window."""

    window: Window
    amount: int


@valueclass
class Raise:
    """``by`` more on every limit until a moment."""

    by: int
    until_us: int


@valueclass
class Budget:
    """A limit on what matching calls may use.

    ``match`` holds scope columns (or ``label:NAME``) and the patterns of which one must fit; ``each`` makes a balance of
    its own for each value of a column. ``assume`` is the amount held for an attempt without a price, where ``on_unpriced``
    is "assume"; what was held for one whose charge stays unknown counts as used, unless it is "allow". ``open_up_to`` is what may be used while the books cannot be written: None is nothing.
    ``reserve`` is kept back for calls that say they are a task's last. ``input`` "likely" lets a call through whose input
    fits only if its prompt cache still holds what it held: what a cache miss costs more is then spent over the limit.
    ``enforce`` False only watches.
    """

    name: str
    unit: Unit
    limits: tuple[Limit, ...]
    match: tuple[tuple[str, tuple[str, ...]], ...] = ()
    each: str = ""
    on_unpriced: Literal["deny", "assume", "allow"] = "deny"
    assume: NanoUSD = NanoUSD(0)
    open_up_to: NanoUSD | None = None
    thresholds: tuple[int, ...] = DEFAULT_THRESHOLDS
    forecast: bool = True
    ladder: tuple[Rung, ...] = ()
    reserve: int = 0
    floor_tokens: int = FLOOR_TOKENS
    streams: Literal["clamp", "extend"] = "clamp"
    input: Literal["dearest", "likely"] = "dearest"
    enforce: bool = True
    raised: Raise | None = None
    checks: dict[tuple[int, str], Check] = field(default_factory=dict, init=False, compare=False, repr=False)
    """The last check of each limit and value: it holds until its window ends (``check_of``)."""

    def covers(self, scope: Scope) -> bool:
        """Whether a call with this scope falls under it. With ``each``, a call without that value does not."""
        if self.each and self.each != "task" and not scope_value(scope, self.each):
            return False
        if not self.match:
            return True
        return all(
            (value := scope_value(scope, column)) in patterns
            or any(fnmatchcase(value, pattern) for pattern in patterns)
            for column, patterns in self.match
        )

    def limit_at(self, limit: Limit, now_us: int) -> int:
        """The amount of a limit, with a raise that is in force."""
        raised = self.raised
        return limit.amount + (raised.by if raised is not None and now_us < raised.until_us else 0)


TASK_RULES: Final = Budget("task", "usd", (), each="task", thresholds=())
"""How the limits behave that tasks open at run time, unless the budget ``task`` of the configuration says otherwise."""


@valueclass
class TaskLimit:
    """A task as the books know it: its limit (None: it has none of its own), what is kept for its last call, and above
    which task it stands."""

    task: str
    parent: str = ""
    limit: NanoUSD | None = None
    reserve: NanoUSD = NanoUSD(0)


@valueclass
class Check:
    """One window of one budget, as it concerns one call. ``accounts`` add up to what is used, ``posted`` is the one that
    this call is entered in; ``kept`` is the part of the limit that only a last call may use."""

    budget: Budget
    subject: str
    window: Window
    span: Span
    limit: int
    posted: str
    accounts: tuple[str, ...]
    kept: int = 0


class Use(NamedTuple):
    """What is used of a check, in the budget's unit."""

    spent: int
    held: int

    @property
    def used(self) -> int:
        return self.spent + self.held


@valueclass
class Standing:
    """How one window of one budget stands: for reports, metrics and alerts. ``limit`` has a raise in it."""

    budget: Budget
    subject: str
    window: Window
    span: Span
    limit: int
    use: Use
    unpriced: int

    @property
    def share(self) -> int:
        """What is spent of the limit, in thousandths; what is only held does not count."""
        return thousandths(self.use.spent, self.limit) if self.limit > 0 else 1000


# --- which budgets, which accounts ------------------------------------------------------------------------------


def scope_value(scope: Scope, column: str) -> str:
    """The value of a scope column or of ``label:NAME``, "" where there is none."""
    if column in _COLUMNS:
        return getattr(scope, column)
    assert column.startswith(LABEL_PREFIX), column
    return dict(scope.labels).get(column[len(LABEL_PREFIX) :], "")


def account_prefix(budget: str, window: Window, span: Span) -> str:
    """What the names of all accounts of one window begin with; with ``each``, ``=value`` follows."""
    if span.end_us is None:
        return f"budget:{budget}"
    mark = "~" if window.kind == "rolling" else "@"
    return f"budget:{budget}{mark}{span.start_us // 1_000_000}-{span.end_us // 1_000_000}"


def account_of(budget: Budget, window: Window, span: Span, subject: str) -> str:
    name = account_prefix(budget.name, window, span)
    return f"{name}={subject}" if budget.each else name


def check_of(budget: Budget, index: int, subject: str, at_us: int) -> Check:
    """The check of one of a budget's limits, for one value of ``each`` ("" without it)."""
    limit = budget.limits[index]
    window = limit.window
    recent = budget.checks.get((index, subject))
    if recent is not None and budget.raised is None and _still(recent, at_us):
        return recent
    span = window.span(at_us)
    posted = account_of(budget, window, span, subject)
    accounts = (posted,)
    if window.kind == "rolling":
        accounts = tuple(account_of(budget, window, part, subject) for part in window.rolling_spans(at_us))
    check = Check(budget, subject, window, span, budget.limit_at(limit, at_us), posted, accounts, budget.reserve)
    if len(budget.checks) >= _CHECKS_MAX:  # values come from strangers: remember them, within bounds
        budget.checks.clear()
    budget.checks[index, subject] = check
    return check


def _still(check: Check, at_us: int) -> bool:
    """Whether a check made earlier is that of this moment."""
    span, window = check.span, check.window
    if at_us < span.start_us or (span.end_us is not None and at_us >= span.end_us):
        return False
    # Of a rolling window the part at its far end may have fallen out.
    return window.kind != "rolling" or check.accounts[0] == account_of(
        check.budget, window, window.first_part(at_us), check.subject
    )


_LIFETIME: Final = Window("lifetime", "lifetime")
_FOREVER: Final = Span(0, None)


def task_budget(task: TaskLimit, rules: Budget = TASK_RULES) -> Check:
    """The check of a task's own limit, by these rules. Its account holds the task and everything below it."""
    assert task.limit is not None
    account = f"task:{task.task}"
    return Check(rules, task.task, _LIFETIME, _FOREVER, task.limit, account, (account,), min(task.reserve, task.limit))


TotalsOf: TypeAlias = Callable[[str], Totals]
"""The totals of an account as of one moment; ``NO_TOTALS`` of one that nothing was entered in."""


def use_of(check: Check, totals: TotalsOf) -> Use:
    """What is used of a check, attempts without a price counted as its budget says."""
    budget = check.budget
    unit = budget.unit
    counts = budget.on_unpriced != "allow"
    if unit == "usd" and len(check.accounts) == 1:  # nearly always
        found = totals(check.posted)
        return Use(found.spent + found.assumed if counts else found.spent, found.held)
    spent = held = 0
    for account in check.accounts:
        found = totals(account)
        if unit == "usd":
            spent += found.spent + (found.assumed if counts else 0)
            held += found.held
        elif unit == "tokens":
            spent += found.spent_tokens
            held += found.held_tokens
        else:
            spent += found.spent_calls
            held += found.held_calls
    return Use(spent, held)


def thousandths(part: int, limit: int) -> int:
    """A part of a limit in thousandths."""
    return part * 1000 // limit if limit > 0 else part
