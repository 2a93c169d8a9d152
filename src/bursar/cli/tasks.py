"""``bursar tasks`` and ``bursar task``: what each task cost, and where in it the money went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.views.asking import time_zone
from bursar.views.feed import Step
from bursar.views.measures import Measures
from bursar.views.spend import ROWS_MAX, first_and_last, unpriced_reasons
from bursar.views.tasks import Node, NoTask, SeveralTasks, TaskList, TaskTree, task, tasks

from . import output
from .output import Column, Line, clean, compact, money

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["task_command", "tasks_command"]

_TABLE_ROWS: Final = 25
_STEPS: Final = 200
_WIDE: Final = 110
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@click.command("tasks")
@output.question_options
def tasks_command(**options: Any) -> None:
    """What each task cost, alone and with its sub-tasks.

    \b
    bursar tasks --since today
    bursar tasks --where session=s_42
    """
    question = output.ask(**options)
    machine = question.as_json or question.as_csv
    from bursar.compose import open_queries

    with output.usage_errors(), open_queries(question.data) as queries:
        answer = tasks(queries, limit=question.limit or (ROWS_MAX if machine else _TABLE_ROWS), **question.span)
        reasons = unpriced_reasons(queries, **question.span) if answer.total.unpriced_calls and not machine else ()
        known = first_and_last(queries) if not answer.total.attempts else None
    if question.as_json:
        output.print_json(answer.to_json())
    elif question.as_csv:
        output.print_csv(answer.to_json()["rows"], _CSV_COLUMNS)
    elif not answer.total.attempts:
        output.print_nothing(known)
    else:
        console = output.new_console()
        _print_tasks(console, answer, time_zone(question.tz))
        left_out = answer.task_count - len(answer.rows)
        output.print_notes(console, answer.total.unpriced_calls, answer.total.estimated_calls, reasons, left_out)


_CSV_COLUMNS: Final = (
    *("task", "parent_task", "agent", "user", "session", "status", "first_at", "last_at"),
    *Measures().to_json(),
    *("errors", "sub_tasks", "all_calls", "all_errors", "all_unpriced_calls", "all_cost_usd"),
)


def _print_tasks(console: Console, answer: TaskList, zone: tzinfo) -> None:
    columns = [
        Column("Task", "text", width_min=48),
        Column("Parent", "text", spare=9 if console.width < _WIDE else 8),
        Column("Agent", "text", spare=2),
        Column("User", "text", spare=6),
        Column("Started", spare=3),
        Column("Status", "text", spare=7),
        Column("Calls"),
        Column("Errors", spare=4),
        Column("Tokens", spare=1),
        Column("Own cost"),
        Column("With all"),
    ]
    own = [output.estimate(row.own.cost_nanousd, row.own.estimated_calls) for row in answer.rows]
    whole = [output.estimate(row.all_cost_nanousd, row.all_estimated_calls) for row in answer.rows]
    lines = [
        Line(
            [
                *(clean(text) for text in (row.task, row.parent, row.agent, row.user)),
                _local(row.first_us, zone),
                row.status,
                compact(row.own.calls),
                compact(row.errors) if row.errors else "",
                compact(_tokens(row.own.input_tokens, row.own.output_tokens)),
                cost if row.own.attempts else "",
                all_cost,
            ]
        )
        for row, cost, all_cost in zip(answer.rows, output.aligned(own), output.aligned(whole), strict=True)
    ]
    if lines:
        output.print_table(console, columns, lines)
    if answer.without_task.attempts:
        rest = answer.without_task
        console.print(
            f"{output.plural(rest.calls, 'call')} ({money(rest.cost_nanousd)}) without a task; "
            "the header x-bursar-task names one.",
            style="dim",
        )


@click.command("task")
@click.argument("id")
@click.option("--limit", type=click.IntRange(min=1), default=_STEPS, show_default=True, help="At most this many steps.")
@click.option("--json", "as_json", is_flag=True, help="The whole tree as JSON, exact.")
@output.data_option
@click.option("--tz", default="UTC", show_default=True, help="Time zone of times (IANA name).")
def task_command(id: str, limit: int, as_json: bool, data: Path | None, tz: str) -> None:  # noqa: A002 -- the argument's name
    """The steps of one task and of its sub-tasks. ID may be the beginning of the task's id."""
    from bursar.compose import open_queries

    with output.usage_errors(), open_queries(data) as queries:
        zone = time_zone(tz)
        answer = task(queries, id)
    match answer:
        case NoTask():
            raise click.ClickException(f"no task has the id {clean(id)!r} or one that begins so; see `bursar tasks`")
        case SeveralTasks(candidates=candidates, more=more):
            listed = "".join(f"\n  {clean(name)}" for name in candidates) + ("\n  ..." if more else "")
            raise click.ClickException(f"several tasks begin with {clean(id)!r}; give more of the id:{listed}")
        case TaskTree():
            if as_json:
                output.print_json(answer.to_json())
            else:
                _print_tree(output.new_console(), answer, zone, limit)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the tree: a step, or the head of a sub-task."""

    depth: int
    item: Step | Node


def _lines(node: Node, depth: int) -> Iterator[_Line]:
    """The steps and sub-tasks of a node in the order they started."""
    items: list[tuple[int, int, Step | Node]] = [(step.started_us, 0, step) for step in node.steps]
    items += [(child.first_us, 1, child) for child in node.children]
    for _, _, item in sorted(items, key=lambda entry: entry[:2]):
        yield _Line(depth, item)
        if isinstance(item, Node):
            yield from _lines(item, depth + 1)


def _print_tree(console: Console, tree: TaskTree, zone: tzinfo, limit: int) -> None:
    root = tree.root
    whole = root.total
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
    facts.append(f"from {_local(root.first_us, zone)} for {_took(root)}")
    console.print(", ".join(facts))
    counts = [output.plural(tree.task_count, "task")] if tree.task_count > 1 else []
    counts += [
        output.plural(whole.calls, "call"),
        f"{compact(_tokens(whole.input_tokens, whole.output_tokens))} tokens",
    ]
    if root.all_errors:
        counts.append(output.plural(root.all_errors, "error"))
    own = f" ({money(root.own.cost_nanousd)} itself)" if tree.task_count > 1 else ""
    console.print(f"{money(whole.cost_nanousd)}{own}, {', '.join(counts)}")
    console.print()
    lines = list(_lines(root, 0))
    _print_lines(console, root, lines[:limit])
    hidden = len(lines) - len(lines[:limit]) + tree.steps_left_out
    if hidden:
        console.print(
            f"{output.plural(hidden, 'more line')} in the sums but not shown; --limit shows more.", style="dim"
        )
    for circle in tree.circles:
        console.print(f"A circle of parents was cut: {clean(circle)}.", style="yellow")
    reasons: dict[str, int] = {}
    for line in lines:
        if isinstance(line.item, Step) and line.item.cost_nanousd is None:
            reason = line.item.unpriced_reason or ""
            reasons[reason] = reasons.get(reason, 0) + 1
    top = sorted(reasons.items(), key=lambda pair: -pair[1])[:5]
    output.print_notes(console, whole.unpriced_calls, whole.estimated_calls, top, 0)


def _took(node: Node) -> str:
    """From the first start to the last end of everything in a node."""
    end_us = node.last_us
    waiting = [node]
    for current in waiting:
        waiting.extend(current.children)
        for step in current.steps:
            end_us = max(end_us, step.started_us + int((step.latency_ms or 0) * 1000))
    return output.duration((end_us - node.first_us) / 1000)


def _print_lines(console: Console, root: Node, lines: list[_Line]) -> None:
    columns = [
        Column("Start", spare=4),
        Column("Step", "text", width_min=32),
        Column("Model", "text"),
        Column("Result", "text", spare=6),
        Column("Input", spare=2),
        Column("Output", spare=3),
        Column("Took", spare=5),
        Column("Cost"),
        Column("Share", spare=1),
    ]
    costs = output.aligned([_cost(line.item) for line in lines])
    rows: list[Line] = []
    for line, cost in zip(lines, costs, strict=True):
        item = line.item
        if isinstance(item, Node):
            started_us, style = item.first_us, "bold"
            name, model = f"> {item.task}" + (f" ({item.agent})" if item.agent else ""), ""
            result = output.plural(item.all_errors, "error") if item.all_errors else ""
            usage, took, nanousd = item.total, _took(item), item.total.cost_nanousd
        else:
            started_us, style = item.started_us, "" if item.status == "ok" else "red"
            name, model = item.operation + (f" [{', '.join(item.tools)}]" if item.tools else ""), item.model
            result = "" if item.status == "ok" else f"{item.status} {item.error}"
            name += "" if item.status == "ok" else f" ({item.status})"
            usage, took, nanousd = item, output.duration(item.latency_ms), item.cost_nanousd
        cells = [
            "+" + output.duration((started_us - root.first_us) / 1000),
            "  " * line.depth + clean(name),
            clean(model),
            clean(result),
            compact(usage.input_tokens),
            compact(usage.output_tokens),
            took,
            cost,
            output.percent(nanousd, root.total.cost_nanousd),
        ]
        rows.append(Line(cells, style))
    output.print_table(console, columns, rows)


def _cost(item: Step | Node) -> str:
    if isinstance(item, Node):
        return output.estimate(item.total.cost_nanousd, item.total.estimated_calls)
    return output.estimate(item.cost_nanousd, item.estimated)


def _tokens(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


def _local(microseconds: int, zone: tzinfo) -> str:
    return (_EPOCH + timedelta(microseconds=microseconds)).astimezone(zone).strftime("%Y-%m-%d %H:%M")
