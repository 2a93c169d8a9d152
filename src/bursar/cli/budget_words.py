"""Budgets in words: what one says of itself, and how it stands, for people.

Rule 1: an amount that is not known shows as a word beside the sums, never as zero in them.
Rule 2: every part of a definition that is not the default is said; nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from bursar.core.budget_fields import amount_text
from bursar.core.budgets import DEFAULT_THRESHOLDS, FLOOR_TOKENS, Budget, Standing, Unit
from bursar.core.ladder import Rung
from bursar.engine.ports import KeptBudget
from bursar.views.budgets import used_share

from .output import Column, Line, bar, clean, compact, money, plural, print_table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["definition", "figure", "one_line", "print_standings", "rung_words", "share_words"]

_WIDE: Final = 110
_NEAR, _FULL = 800, 1000


def figure(unit: Unit, amount: int) -> str:
    """An amount in a table: money to the cent, counts in few characters."""
    return money(amount) if unit == "usd" else f"{'-' if amount < 0 else ''}{compact(abs(amount))}"


def one_line(budget: Budget, now_us: int) -> str:
    """What a budget allows, in one line."""
    if not budget.limits:
        return "how the limits behave that tasks have of their own"
    parts = [" and ".join(_limit_words(budget, now_us))]
    if budget.each:
        parts.append(f"for each {budget.each}")
    if budget.match:
        parts.append(f"where {_match_words(budget)}")
    if not budget.enforce:
        parts.append("(watched, not enforced)")
    return " ".join(parts)


def definition(kept: KeptBudget, now_us: int) -> list[tuple[str, str]]:
    """What a budget says of itself, as names and texts."""
    budget = kept.budget
    found = [
        ("limit", " and ".join(_limit_words(budget, now_us)) or "what each task states for itself"),
        ("for", f"each {budget.each}" if budget.each else "all together"),
        ("calls", f"where {_match_words(budget)}" if budget.match else "all"),
    ]
    if kept.source == "file":
        found.append(("source", "bursar.yaml: change it there"))
    else:
        found.append(("source", f"set {_minute(kept.changed_us or 0)} UTC by command or API"))
    if not budget.enforce:
        found.append(("enforced", "no, only watched"))
    if (raised := budget.raised) is not None:
        state = "until" if now_us < raised.until_us else "was over at"
        found.append(("raise", f"{amount_text(budget.unit, raised.by)} more, {state} {_minute(raised.until_us)} UTC"))
    if budget.reserve:
        found.append(("reserve", f"{amount_text(budget.unit, budget.reserve)} kept for a task's last call"))
    if budget.unit == "usd":
        found.append(("unpriced", _unpriced_words(budget)))
    if budget.open_up_to is not None:
        found.append(("books fail", f"up to {amount_text('usd', budget.open_up_to)} may be used meanwhile"))
    if budget.thresholds != DEFAULT_THRESHOLDS:
        found.append(("alerts at", ", ".join(map(share_words, budget.thresholds)) or "no share"))
    if not budget.forecast:
        found.append(("forecast", "no alert before it happens"))
    if budget.floor_tokens != FLOOR_TOKENS:
        found.append(("floor", f"no answer is cut below {budget.floor_tokens} tokens"))
    if budget.streams != "clamp":
        found.append(("streams", "ask for more as they go on"))
    if budget.input != "dearest":
        found.append(("input", "held as if the prompt cache still had it"))
    found += [("ladder" if not place else "", rung_words(rung)) for place, rung in enumerate(budget.ladder)]
    return found


def rung_words(rung: Rung) -> str:
    """What a rung does, from when on."""
    match rung.action:
        case "note":
            does = f"the model is told {rung.text!r}"
        case "output_cap":
            does = f"answers have at most {rung.number} tokens"
        case "effort":
            does = f"reasoning effort is at most {rung.text}"
        case "model":
            does = ", ".join(f"{cheaper} takes the place of {name}" for name, cheaper in rung.models)
        case "tier":
            does = f"service tier {rung.text}"
        case "cached":
            does = "only cached answers"
        case "tools":
            does = f"only the tools {', '.join(rung.patterns)}"
        case "approve":
            does = "calls need somebody's yes"
        case "refuse":
            does = "calls are refused"
    return f"from {share_words(rung.at)} on: {does}"


def share_words(thousandths: int) -> str:
    """``80%``, ``99.5%``."""
    whole, part = divmod(thousandths, 10)
    return f"{whole}.{part}%" if part else f"{whole}%"


def print_standings(console: Console, standings: Sequence[Standing], *, names: str = "Budget") -> None:
    """How windows stand, one a line, and what their figures leave out. ``names`` "Task": the limits of tasks."""
    own = names == "Task"
    subjects = not own and any(each.subject for each in standings)
    unknown = [each for each in standings if _unknown(each)]
    width, ascii_only = 20 if console.width >= _WIDE else 8, console.options.ascii_only
    table: list[tuple[Column, Callable[[Standing], str]]] = [
        (Column(names, "text", width_min=12), (lambda each: clean(each.subject)) if own else _name),
        *([(Column("For", "text", width_min=12), lambda each: clean(each.subject))] if subjects else []),
        *([] if own else [(Column("Window", "text", spare=2, width_min=8), lambda each: each.window.text)]),
        (Column("Limit"), _limit),
        (Column("Spent"), lambda each: figure(each.budget.unit, each.use.spent)),
        (Column("Held", spare=4), lambda each: figure(each.budget.unit, each.use.held) if each.use.held else ""),
        *([(Column("Unpriced"), lambda each: f"{each.unpriced:,}" if _unknown(each) else "")] if unknown else []),
        (Column("Left"), lambda each: figure(each.budget.unit, each.limit - each.use.used)),
        (Column("Used"), _used),
        (Column("", "bar", spare=5), lambda e: bar(e.use.used, e.limit, width=width, ascii_only=ascii_only)),
        *([] if own else [(Column("Resets (UTC)", "text", spare=1, width_min=16), _resets)]),
    ]
    lines = [Line([cell(each) for _, cell in table], style=_style(each)) for each in standings]
    print_table(console, [column for column, _ in table], lines)
    if unknown:
        count = sum(each.unpriced for each in unknown)
        console.print(
            f"{plural(count, 'attempt')} unpriced: the cost is not known. Spent has for each what on_unpriced says: "
            "an assumed amount, or nothing.",
            style="yellow",
        )


def _name(standing: Standing) -> str:
    return standing.budget.name + ("" if standing.budget.enforce else " (watched)")


def _limit(standing: Standing) -> str:
    unit = standing.budget.unit
    return figure(unit, standing.limit) + ("" if unit == "usd" else f" {unit}")


def _style(standing: Standing) -> str:
    share = used_share(standing)
    return "red" if share is None or share >= _FULL else "yellow" if share >= _NEAR else ""


def _used(standing: Standing) -> str:
    share = used_share(standing)
    if share is None:
        return "-"
    return f"{share // 10}%" if share >= 10 or not standing.use.used else "<1%"


def _unknown(standing: Standing) -> bool:
    """Tokens and calls of an attempt are known, also where its price is not."""
    return standing.unpriced > 0 and standing.budget.unit == "usd"


def _resets(standing: Standing) -> str:
    if standing.window.kind == "rolling":
        return "bit by bit"
    return "never" if standing.span.end_us is None else _minute(standing.span.end_us)


def _limit_words(budget: Budget, now_us: int) -> list[str]:
    return [
        f"{amount_text(budget.unit, budget.limit_at(limit, now_us))} "
        + ("in all" if limit.window.kind == "lifetime" else f"per {limit.window.text}")
        for limit in budget.limits
    ]


def _match_words(budget: Budget) -> str:
    return " and ".join(f"{column} is {' or '.join(patterns)}" for column, patterns in budget.match)


def _unpriced_words(budget: Budget) -> str:
    match budget.on_unpriced:
        case "deny":
            return "a call without a price is refused"
        case "allow":
            return "a call without a price is let through and counts nothing"
        case "assume":
            return f"a call without a price counts {amount_text('usd', budget.assume)}"


def _minute(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, timezone.utc).strftime("%Y-%m-%d %H:%M")
