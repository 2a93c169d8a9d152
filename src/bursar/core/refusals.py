"""A budget's refusal in words and in figures, the same at every door.

Rule 1: the text names the budget, what is left, what was needed, when it resets and the way out.
Rule 2: a refusal is final for the same request at the same moment: nobody should send it again unchanged.
"""

from __future__ import annotations

from datetime import datetime, timezone
from shlex import quote
from typing import Any

from .admission import Refusal
from .budget_fields import amount_text
from .money import decimal_text

__all__ = ["refusal_details", "refusal_text", "time_text"]


def refusal_text(refusal: Refusal) -> str:
    """One paragraph for the agent and for whoever reads its log."""
    if refusal.code == "too_deep":
        return (
            f"task {refusal.subject!r} would stand {refusal.needed} levels deep, at most {refusal.limit} are possible: "
            "give it a parent nearer to the top"
        )
    unit = refusal.unit
    who = f" for {refusal.subject!r}" if refusal.subject else ""
    per = "" if refusal.window == "lifetime" else f" per {refusal.window}"
    state = (
        f"budget {refusal.budget!r}{who} has {amount_text(unit, refusal.limit)}{per}: "
        f"{amount_text(unit, refusal.spent)} spent, {amount_text(unit, refusal.held)} held"
    )
    if refusal.kept:
        state += f", {amount_text(unit, refusal.kept)} kept for the last call"
    match refusal.code:
        case "approval_required":
            return f"{state}. Calls need somebody's yes from here on: bursar approve {refusal.approval}"
        case "cached_only":
            return f"{state}. Only cached answers are given from here on, and there is none for this call. {_way_out(refusal)}"
        case "unpriced":
            return (
                f"{state}. This model has no price, so nobody knows what the call would cost. Give it one under prices in "
                "bursar.yaml, or set on_unpriced: assume-AMOUNT or allow for this budget"
            )
        case "budget_held":
            return (
                f"{state}. This call needs up to {_needed(refusal)}; calls under way hold the rest, and did not give "
                "enough back in time. It may be asked for again when they have ended"
            )
        case "budget_exceeded":
            needs = f" This call needs up to {_needed(refusal)}."
            if refusal.needed is None:
                needs = " From here on its ladder lets nothing through."
            return f"{state}.{needs} {_way_out(refusal)}"


def _needed(refusal: Refusal) -> str:
    return "more" if refusal.needed is None else amount_text(refusal.unit, refusal.needed)


def _way_out(refusal: Refusal) -> str:
    if refusal.budget == "task":
        raise_it = f"raise it with `bursar budgets set --task {quote(refusal.subject)} --limit AMOUNT`"
    else:
        raise_it = f"raise it where it was set, `bursar budgets show {refusal.budget}` says where"
    if refusal.resets_us is None:
        return f"It does not reset by itself: {raise_it}" if refusal.window == "lifetime" else f"Wait, or {raise_it}"
    return f"It resets at {time_text(refusal.resets_us)}; or {raise_it}"


def refusal_details(refusal: Refusal) -> dict[str, Any]:
    """The same as data. Money is exact decimal text in USD, other units are whole numbers."""

    def amount(value: int | None) -> Any:
        if value is None or refusal.unit != "usd":
            return value
        return decimal_text(value)

    details: dict[str, Any] = {
        "budget": refusal.budget,
        "subject": refusal.subject,
        "window": refusal.window,
        "unit": refusal.unit,
        "limit": amount(refusal.limit),
        "spent": amount(refusal.spent),
        "held": amount(refusal.held),
        "needed": amount(refusal.needed),
        "resets_at": None if refusal.resets_us is None else time_text(refusal.resets_us),
        "retryable": refusal.code == "budget_held",
    }
    if refusal.approval:
        details["approval_id"] = refusal.approval
    return details


def time_text(at_us: int) -> str:
    """A moment as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at_us // 1_000_000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
