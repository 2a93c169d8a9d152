"""The one exception of this door."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from bursar.core.admission import Refusal
from bursar.core.refusals import refusal_details, refusal_text

__all__ = ["BudgetExceeded"]


class BudgetExceeded(BaseException):
    """A budget, or the failure policy of one, does not let a call through. Nothing was sent and nothing was spent.

    It is no ``Exception``, as ``asyncio.CancelledError`` is none: the retry loops of SDKs and the tool loops of agent
    frameworks catch every ``Exception`` and would send the call again, or feed the refusal to the model. Catch it by name.

    ``code`` says why (budget_exceeded, budget_held, unpriced, cached_only, approval_required, too_deep, unavailable);
    ``budget``, ``subject`` and ``window`` which budget; ``limit``, ``spent``, ``held`` and ``needed`` are USD (Decimal) where
    ``unit`` is "usd", else whole numbers; ``needed`` is None where nobody knows. ``resets_at`` is ISO 8601 or None,
    ``approval_id`` what ``bursar approve`` takes. ``details`` holds the same as JSON-able data.
    """

    __module__ = "bursar"  # where users import it from, and what tracebacks should say

    def __init__(self, message: str, *, call_id: str, task: str, details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.call_id = call_id
        self.task = task
        self.details = dict(details)
        self.code: str = details["code"]
        self.budget: str = details.get("budget", "")
        self.subject: str = details.get("subject", "")
        self.window: str = details.get("window", "")
        self.unit: str = details.get("unit", "usd")
        self.resets_at: str | None = details.get("resets_at")
        self.retryable: bool = details.get("retryable", False)
        self.approval_id: str = details.get("approval_id", "")

    @property
    def limit(self) -> Decimal | int | None:
        return self._amount("limit")

    @property
    def spent(self) -> Decimal | int | None:
        return self._amount("spent")

    @property
    def held(self) -> Decimal | int | None:
        return self._amount("held")

    @property
    def needed(self) -> Decimal | int | None:
        return self._amount("needed")

    def _amount(self, name: str) -> Decimal | int | None:
        value = self.details.get(name)
        return Decimal(value) if isinstance(value, str) else value

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (str(self), self.call_id, self.task, self.details)

    @classmethod
    def of(cls, refusal: Refusal | None, reason: str, *, call_id: str, task: str) -> BudgetExceeded:
        """From a budget's refusal, or from why nobody could be asked."""
        if refusal is None:
            text = (
                f"this call cannot be held for: {reason}. Budgets that may be open meanwhile say so (on_store_failure)"
            )
            return cls(text, call_id=call_id, task=task, details={"code": "unavailable", "retryable": True})
        details = {"code": refusal.code, **refusal_details(refusal)}
        return cls(refusal_text(refusal), call_id=call_id, task=task, details=details)


def _made_again(message: str, call_id: str, task: str, details: Mapping[str, Any]) -> BudgetExceeded:
    """For pickle: it must cross from a worker process to its parent."""
    return BudgetExceeded(message, call_id=call_id, task=task, details=details)
