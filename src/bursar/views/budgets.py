"""How budgets stand, as data: the same fields in the API, in ``--json`` and on the page.

Rule 1: money is exact decimal text in USD; tokens and calls are whole numbers.
Rule 2: an attempt without a price is counted beside what is spent, never in it as zero.
Rule 3: of the values of ``each`` the fullest come first, and what a limit leaves out is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bursar.core.budgets import Budget, Limit, Standing, Unit
from bursar.core.money import decimal_text
from bursar.core.refusals import time_text
from bursar.engine.ports import AskedApproval, BudgetDesk, KeptBudget, TaskStanding

__all__ = [
    "amount",
    "approval_json",
    "budget_json",
    "kept_json",
    "limit_json",
    "ordered",
    "shown",
    "standing_json",
    "standings_by_budget",
    "task_json",
    "used_share",
]


def amount(unit: Unit, value: int) -> str | int:
    """An amount as data."""
    return decimal_text(value) if unit == "usd" else value


def used_share(standing: Standing) -> int | None:
    """What is spent and held of the limit, in thousandths; None where the limit is nothing."""
    return standing.use.used * 1000 // standing.limit if standing.limit > 0 else None


def standings_by_budget(desk: BudgetDesk, kept: Sequence[KeptBudget]) -> dict[str, list[Standing]]:
    """How each budget stands, read in one go."""
    found: dict[str, list[Standing]] = {each.budget.name: [] for each in kept}
    for standing in desk.standings([each.budget for each in kept]):
        found[standing.budget.name].append(standing)
    return {name: ordered(standings) for name, standings in found.items()}


def ordered(standings: Sequence[Standing]) -> list[Standing]:
    """Window by window as the budget names them, the fullest first."""
    windows = {window: place for place, window in enumerate(dict.fromkeys(each.window.text for each in standings))}

    def key(standing: Standing) -> tuple[int, int, str]:
        share = used_share(standing)
        return windows[standing.window.text], -(1 << 62) if share is None else -share, standing.subject

    return sorted(standings, key=key)


def shown(standings: Sequence[Standing], limit: int) -> list[Standing]:
    """The first ``limit`` of each window."""
    found: list[Standing] = []
    counts: dict[str, int] = {}
    for standing in standings:
        count = counts[standing.window.text] = counts.get(standing.window.text, 0) + 1
        if count <= limit:
            found.append(standing)
    return found


def budget_json(kept: KeptBudget, standings: Sequence[Standing], *, limit: int, now_us: int) -> dict[str, Any]:
    """A budget with how it stands, ``limit`` subjects of each window at most."""
    rows = shown(standings, limit)
    return {
        **kept_json(kept, now_us=now_us),
        "standings": [standing_json(standing) for standing in rows],
        "more_standings": len(standings) - len(rows),
    }


def kept_json(kept: KeptBudget, *, now_us: int) -> dict[str, Any]:
    """A budget's definition. ``spec`` is as it was written."""
    budget = kept.budget
    raised = budget.raised
    return {
        "name": budget.name,
        "source": kept.source,
        "changed_at": None if kept.changed_us is None else time_text(kept.changed_us),
        "unit": budget.unit,
        "limits": [limit_json(budget, limit, now_us) for limit in budget.limits],
        "each": budget.each,
        "match": {column: list(patterns) for column, patterns in budget.match},
        "enforced": budget.enforce,
        "raise": None
        if raised is None
        else {
            "by": amount(budget.unit, raised.by),
            "until": time_text(raised.until_us),
            "in_force": now_us < raised.until_us,
        },
        "spec": dict(kept.spec),
    }


def limit_json(budget: Budget, limit: Limit, now_us: int) -> dict[str, Any]:
    """One window's limit; ``now`` has a raise that is in force in it."""
    return {
        "window": limit.window.text,
        "limit": amount(budget.unit, limit.amount),
        "now": amount(budget.unit, budget.limit_at(limit, now_us)),
    }


def standing_json(standing: Standing) -> dict[str, Any]:
    return {
        "budget": standing.budget.name,
        "subject": standing.subject,
        "window": standing.window.text,
        **_figures(standing),
        "starts_at": None if standing.window.kind in ("lifetime", "rolling") else time_text(standing.span.start_us),
        # A rolling window has no such moment: it gives back a part at a time.
        "resets_at": None
        if standing.span.end_us is None or standing.window.kind == "rolling"
        else time_text(standing.span.end_us),
    }


def task_json(task: TaskStanding) -> dict[str, Any]:
    return {
        "task": task.limit.task,
        "parent_task": task.limit.parent,
        **_figures(task.standing),
        "reserve": decimal_text(task.limit.reserve),
    }


def approval_json(asked: AskedApproval) -> dict[str, Any]:
    def time(at_us: int | None) -> str | None:
        return None if at_us is None else time_text(at_us)

    who: Mapping[str, str] = asked.who
    return {
        "id": asked.id,
        "budget": asked.budget,
        "who": dict(who),
        "state": asked.state,
        "asked_at": time(asked.asked_us),
        "decided_at": time(asked.decided_us),
        "ends_at": time(asked.expires_us),
    }


def _figures(standing: Standing) -> dict[str, Any]:
    unit, use, share = standing.budget.unit, standing.use, used_share(standing)
    return {
        "unit": unit,
        "limit": amount(unit, standing.limit),
        "spent": amount(unit, use.spent),
        "held": amount(unit, use.held),
        "left": amount(unit, standing.limit - use.used),
        "used_share": None if share is None else share / 1000,
        "unpriced_attempts": standing.unpriced,
    }
