"""``bursar task``: one task as a tree with a waterfall, its critical path, and where the money went.

Rule 1: a line is a task, a span, or a call; a call that took several attempts has a line for each below it. A span around
        one call and nothing else shares its line.
Rule 2: a bar begins and ends where its line does on the task's time; whatever is shorter than a character has one.
Rule 3: amounts of findings, and what kept answers avoided, are printed apart from what was spent, never in its columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Final

from bursar.views.feed import Step
from bursar.views.findings import Finding
from bursar.views.trace import Node, TaskTree

from . import output
from .output import Column, Line, clean, compact, money

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["local", "print_trace", "tokens"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FINDINGS: Final = 8
_PATH: Final = 6
_BARS: Final = {"critical": "█", "other": "▒", "around": "─"}
_ASCII_BARS: Final = {"critical": "#", "other": "=", "around": "-"}
_FINDING_NAMES: Final = {
    "context_growth": "context growth",
    "cache_miss": "cache misses",
    "repeated_tool": "repeated tool",
    "failed_billed": "failed, billed",
    "retry": "retries",
}


def print_trace(console: Console, tree: TaskTree, zone: tzinfo, limit: int) -> None:
    """Everything of a task that fits into ``limit`` lines, and what was left out."""
    _print_head(console, tree, zone)
    lines = list(_lines(tree.root, tree, 0))
    if lines:
        _print_lines(console, tree, lines[:limit])
    hidden = max(0, len(lines) - limit) + tree.steps_left_out + tree.spans_left_out
    if hidden:
        console.print(
            f"{output.plural(hidden, 'more line')} in the sums but not shown; --limit shows more.", style="dim"
        )
    for circle in tree.circles:
        console.print(f"A circle of parents was cut: {clean(circle)}.", style="yellow")
    for note in tree.notes:
        console.print(f"{clean(note[:1].upper() + note[1:])}.", style="yellow")
    _print_unpriced(console, tree)
    _print_kept(console, tree)
    _print_path(console, tree)
    _print_findings(console, tree)


def _print_head(console: Console, tree: TaskTree, zone: tzinfo) -> None:
    root, whole = tree.root, tree.root.total
    console.print(f"Task {clean(root.task)}", style="bold")
    facts = [
        f"{name} {clean(value)}"
        for name, value in (
            ("agent", root.agent),
            ("user", root.user),
            ("session", root.session),
            ("part of", root.parent),
        )
        if value
    ]
    facts.append(f"from {local(root.first_us, zone)} for {_took(root.first_us, root.ended_us)}")
    console.print(", ".join(facts))
    counts = [output.plural(tree.task_count, "task")] if tree.task_count > 1 else []
    counts += [
        output.plural(whole.calls, "call"),
        f"{compact(tokens(whole.input_tokens, whole.output_tokens))} tokens",
    ]
    if root.all_errors:
        counts.append(output.plural(root.all_errors, "error"))
    own = f" ({money(root.own.cost_nanousd)} itself)" if tree.task_count > 1 else ""
    console.print(f"{money(whole.cost_nanousd)}{own}, {', '.join(counts)}")
    if root.outcome is not None:
        console.print(f"Outcome: {_outcome(root)}")
    console.print()


def _outcome(node: Node) -> str:
    """What became of a task, and what that cost beside what it was worth."""
    assert node.outcome is not None
    outcome, value, cost = node.outcome, node.outcome.value_nanousd, node.total.cost_nanousd
    text = clean(outcome.outcome) + (f" ({clean(outcome.note)})" if outcome.note else "")
    text += (
        f", for {output.estimate(cost, node.total.estimated_calls)}" if cost is not None else ", at a cost not known"
    )
    if value is None:
        return f"{text}; what it was worth was not said"
    share = output.percent(cost, value)
    return f"{text}; worth {money(value)}" + (f", of which it cost {share}" if share else "")


# --- the tree ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the tree: a task or span, a call, or one of a call's attempts. ``bar`` says how its bar is drawn."""

    depth: int
    item: Node | Step
    name: str
    bar: str
    is_part: bool = False


def _lines(node: Node, tree: TaskTree, depth: int) -> Iterator[_Row]:
    """The calls and the tasks and spans in a node, in the order they started."""
    calls: dict[str, list[Step]] = {}
    for step in node.steps:
        calls.setdefault(step.call_id, []).append(step)
    items: list[tuple[int, int, list[Step] | Node]] = [(call[0].started_us, 0, call) for call in calls.values()]
    items += [(child.first_us, 1, child) for child in node.children]
    for _, _, item in sorted(items, key=lambda entry: entry[:2]):
        if isinstance(item, list):
            yield from _call_lines(item, tree, depth)
        elif item.kind in ("model", "tool") and not item.children and len({step.call_id for step in item.steps}) == 1:
            yield from _call_lines(list(item.steps), tree, depth, item.name)
        elif item.kind in ("model", "tool"):
            yield _Row(depth, item, item.name, _bar_of(item.critical_us) if not item.steps else "around")
            yield from _lines(item, tree, depth + 1)
        else:
            agent = f" ({item.agent})" if item.agent and item.agent not in item.name else ""
            # A step without anything in it is where the work was done.
            is_leaf = item.kind == "step" and not item.children and not item.steps
            yield _Row(depth, item, f"> {item.name}{agent}", _bar_of(item.critical_us) if is_leaf else "around")
            yield from _lines(item, tree, depth + 1)


def _call_lines(call: list[Step], tree: TaskTree, depth: int, name: str = "") -> Iterator[_Row]:
    """Its attempts by the name of the span around them, or else each by what was asked for in it."""
    for step in call:
        number = f"attempt {step.number}: " if len(call) > 1 else ""
        bar = _bar_of(tree.critical.get(step.sequence, 0))
        yield _Row(depth, step, number + (name or _operation(step)), bar, is_part=step.number > 1)


def _bar_of(critical_us: int) -> str:
    return "critical" if critical_us else "other"


def _operation(step: Step) -> str:
    name = step.model or step.operation if step.kind == "tool" else step.operation
    return name + (f" [{', '.join(step.tools)}]" if step.tools else "")


def _print_lines(console: Console, tree: TaskTree, rows: Sequence[_Row]) -> None:
    root = tree.root
    width = max(12, min(36, console.width // 6))
    ascii_only = console.options.ascii_only
    marks = [_mark(row.item) if isinstance(row.item, Step) else "" for row in rows]
    avoided = [_avoided(row.item) for row in rows]
    columns = [
        Column("Start", spare=5),
        Column("Step", "text", width_min=24),
        Column("When", "bar", spare=3),
        Column("Model", "text", width_min=10, spare=0),
        Column("Result", "text", spare=8),
        *([Column("Rung", "text", spare=1, width_min=20)] if any(marks) else []),
        *([Column("Avoided", spare=6)] if any(avoided) else []),
        Column("Input", spare=6),
        Column("Output", spare=7),
        Column("Took", spare=2),
        Column("Cost"),
        Column("Share", spare=4),
    ]
    costs = output.aligned([_cost(row.item) for row in rows])
    lines: list[Line] = []
    for row, cost, mark, saved in zip(rows, costs, marks, output.aligned(avoided), strict=True):
        item = row.item
        started_us = item.first_us if isinstance(item, Node) else item.started_us
        ended_us = item.ended_us if isinstance(item, Node) else started_us + int((item.latency_ms or 0) * 1000)
        usage = item.total if isinstance(item, Node) else item
        nanousd = usage.cost_nanousd
        begin, length = started_us - root.first_us, root.ended_us - root.first_us
        no_calls = isinstance(item, Node) and not item.total.attempts
        is_tool = no_calls or (isinstance(item, Step) and item.kind == "tool")
        cells = [
            "+" + output.duration(begin / 1000),
            "  " * row.depth + clean(row.name),
            _bar(begin, ended_us - root.first_us, length, width, (_ASCII_BARS if ascii_only else _BARS)[row.bar]),
            "" if isinstance(item, Node) or item.kind == "tool" else clean(item.model),
            clean(_result(item)),
            *([clean(mark)] if any(marks) else []),
            *([saved] if any(avoided) else []),
            "" if is_tool else compact(usage.input_tokens),
            "" if is_tool else compact(usage.output_tokens),
            _took(started_us, ended_us) if isinstance(item, Node) else output.duration(item.latency_ms),
            "" if no_calls else cost,
            "" if no_calls else output.percent(nanousd, root.total.cost_nanousd),
        ]
        lines.append(Line(cells, _style(item)))
    output.print_table(console, columns, lines)
    bars = _ASCII_BARS if ascii_only else _BARS
    legend = f"{bars['critical']} on the critical path, {bars['other']} beside it, {bars['around']} around others"
    console.print(legend, style="dim")


def _style(item: Node | Step) -> str:
    if isinstance(item, Node):
        return "red" if item.status == "error" and item.kind != "task" else "bold" if item.kind == "task" else ""
    return "" if item.status == "ok" else "red"


def _result(item: Node | Step) -> str:
    if isinstance(item, Step):
        return "" if item.status == "ok" else f"{item.status} {item.error}".rstrip()
    parts = [item.outcome.outcome] if item.outcome else []
    if item.status == "error" and not item.children:
        parts.append(f"error {item.error}".rstrip())
    elif item.all_errors:
        parts.append(output.plural(item.all_errors, "error"))
    return ", ".join(parts)


def _mark(step: Step) -> str:
    """What a route or a cache made of it: nothing to say of its first rung."""
    why = [step.cause.replace("_", " ")] if step.cause else []
    if step.is_kept:
        return f"kept ({', '.join([step.cache, *why])})"
    if step.rung in ("", "primary"):
        return ""
    return step.rung + (f" ({why[0]})" if why else "")


def _avoided(item: Step | Node) -> str:
    if isinstance(item, Node) or not item.is_kept:
        return ""
    return "not known" if item.avoided_nanousd is None else money(item.avoided_nanousd)


def _bar(begin: int, end: int, whole: int, width: int, mark: str) -> str:
    """The stretch from begin to end of the whole, in characters."""
    if whole <= 0:
        return mark
    first = min(width - 1, max(0, begin * width // whole))
    last = min(width, max(first + 1, -(-end * width // whole)))
    return " " * first + mark * (last - first)


def _cost(item: Step | Node) -> str:
    if isinstance(item, Node):
        if not item.total.attempts:
            return ""
        return output.estimate(item.total.cost_nanousd, item.total.estimated_calls)
    return output.estimate(item.cost_nanousd, item.estimated)


# --- below the tree ----------------------------------------------------------------------------------------------


def _print_unpriced(console: Console, tree: TaskTree) -> None:
    reasons: dict[str, int] = {}
    waiting = [tree.root]
    for node in waiting:
        waiting.extend(node.children)
        for step in node.steps:
            if step.cost_nanousd is None:
                reason = step.unpriced_reason or ""
                reasons[reason] = reasons.get(reason, 0) + 1
    top = sorted(reasons.items(), key=lambda pair: -pair[1])[:5]
    output.print_notes(console, tree.root.total.unpriced_calls, tree.root.total.estimated_calls, top, 0)


def _print_kept(console: Console, tree: TaskTree) -> None:
    kept = tree.kept
    if not kept.answers:
        return
    known = "" if kept.unknown == kept.answers else f" avoided {money(kept.avoided_nanousd)}, which is in no sum"
    unknown = f" of {kept.unknown:,} it is not known what it avoided" if kept.unknown else ""
    text = ";".join(part for part in (known, unknown) if part)
    console.print(f"{output.plural(kept.answers, 'kept answer')}{text}.", style="dim")


def _print_path(console: Console, tree: TaskTree) -> None:
    length = tree.root.ended_us - tree.root.first_us
    if length <= 0:
        return
    parts = [
        f"{name} {_took(0, tree.path_us[kind])} ({output.percent(tree.path_us[kind], length)})"
        for kind, name in (("model", "models"), ("tool", "tools"), ("own", "own work and what nobody recorded"))
        if tree.path_us[kind]
    ]
    console.print()
    console.print(f"Critical path, {_took(0, length)}: {', '.join(parts)}", style="bold")
    longest = sorted(tree.path, key=lambda step: step.started_us - step.ended_us)[:_PATH]
    # What takes less than a hundredth is no place to begin, but of many equals some are shown.
    longest = [step for step in longest if 100 * (step.ended_us - step.started_us) >= length] or longest
    lines = [
        Line(
            [
                "+" + output.duration((step.started_us - tree.root.first_us) / 1000),
                clean(step.name if step.attempt_id else f"> {step.name}"),
                clean(step.task if step.task != step.name else ""),
                _took(step.started_us, step.ended_us),
                output.percent(step.ended_us - step.started_us, length),
            ]
        )
        for step in sorted(longest, key=lambda step: step.started_us)
    ]
    columns = [
        Column("Start"),
        Column("In", "text", width_min=20),
        Column("Task", "text", spare=1),
        Column("Took"),
        Column("Share"),
    ]
    output.print_table(console, columns, lines)
    if rest := len(tree.path) + tree.path_left_out - len(lines):
        console.print(f"{output.plural(rest, 'shorter piece')} not shown; --json has more.", style="dim")


def _print_findings(console: Console, tree: TaskTree) -> None:
    if not tree.findings:
        return
    from rich.table import Table
    from rich.text import Text

    console.print()
    console.print("Where the money went", style="bold")
    console.print("Parts of what was spent. They overlap: do not add them up.", style="dim")
    table = Table.grid(padding=(0, 2))
    for justify in ("right", "left", "left"):
        table.add_column(justify=justify, no_wrap=justify == "right")
    shown = tree.findings[:_FINDINGS]
    for amount, finding in zip(output.aligned([_amount(finding) for finding in shown]), shown, strict=True):
        unknown = f" {output.plural(finding.unknown, 'step')} of unknown cost." if finding.unknown else ""
        text = clean(finding.text) + (unknown if finding.amount_nanousd is not None else "")
        table.add_row(Text(amount), Text(_FINDING_NAMES[finding.kind]), Text(text))
    console.print(table)
    if rest := len(tree.findings) + tree.findings_left_out - len(shown):
        console.print(f"{output.plural(rest, 'more finding')} not shown; --json has more.", style="dim")
    if tree.attempts_left_out:
        count = output.plural(tree.attempts_left_out, "attempt")
        console.print(f"The last {count} were not looked at for this and for the critical path.", style="yellow")


def _amount(finding: Finding) -> str:
    if finding.amount_nanousd is None:
        return "not known"
    return output.estimate(finding.amount_nanousd, finding.estimated)


def tokens(one: int | None, other: int | None) -> int | None:
    """Two counts together; None when neither is known."""
    return None if one is None and other is None else (one or 0) + (other or 0)


def local(microseconds: int, zone: tzinfo) -> str:
    """A moment to the minute, in a time zone."""
    return (_EPOCH + timedelta(microseconds=microseconds)).astimezone(zone).strftime("%Y-%m-%d %H:%M")


def _took(begin_us: int, end_us: int) -> str:
    return output.duration((end_us - begin_us) / 1000)
