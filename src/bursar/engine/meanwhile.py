"""Holds in memory alone, for as long as the books cannot be written.

Rule 1: a call is let through only where every budget that looks at it says how much may be used meanwhile.
Rule 2: what was admitted is not given back before the books work again: its ending cannot be counted either.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

from bursar.core.admission import Admitted, Claim, admit, checks_of, posted
from bursar.core.budgets import NO_TOTALS, Totals
from bursar.core.call import Held

__all__ = ["Meanwhile"]


class Meanwhile:
    """What was used since the books failed, by account. Not shared between threads."""

    def __init__(self) -> None:
        self._used: dict[str, Totals] = {}

    def forget(self) -> None:
        """The books work again."""
        self._used.clear()

    def hold(self, claim: Claim, limited_tasks: AbstractSet[str]) -> Held | None:
        """None where a budget says nothing of this, or has no more. It ends as an observed attempt.

        ``limited_tasks`` are known to have limits of their own, which nobody can look up now.
        """
        if claim.task is not None or claim.scope.task in limited_tasks:
            return None
        checks = checks_of(claim, (), claim.at_us)
        if not checks or any(check.budget.open_up_to is None for check in checks):
            return None
        capped = [
            replace(c, limit=min(c.limit, c.budget.open_up_to or 0), kept=0, accounts=(c.posted,)) for c in checks
        ]
        outcome = admit(
            replace(claim, patient=False),
            [check for check in capped if check.budget.unit == "usd"],
            lambda account: self._used.get(account, NO_TOTALS),
            lambda _: False,
        )
        if not isinstance(outcome, Admitted):
            return None
        for check in capped:
            before = self._used.get(check.posted, NO_TOTALS)
            self._used[check.posted] = before._replace(held=before.held + (outcome.amount or 0))
        return Held(outcome.amount, claim.opened(outcome), outcome, (), posted(claim, (), checks))
