"""``bursar tasks`` and ``bursar task``: what each task cost, and where in it the money went."""

from __future__ import annotations

from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.views.asking import time_zone
from bursar.views.measures import Measures
from bursar.views.spend import ROWS_MAX, first_and_last, unpriced_reasons
from bursar.views.tasks import TaskList, tasks
from bursar.views.trace import NoTask, SeveralTasks, TaskTree, task

from . import output
from .output import Column, Line, clean, compact, money
from .task_trace import local, print_trace, tokens

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["task_command", "tasks_command"]

_TABLE_ROWS: Final = 25
_STEPS: Final = 200
_WIDE: Final = 110


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
    *("outcome", "value_usd"),
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
                local(row.first_us, zone),
                clean(row.outcome or row.status),
                compact(row.own.calls),
                compact(row.errors) if row.errors else "",
                compact(tokens(row.own.input_tokens, row.own.output_tokens)),
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
@click.option("--limit", type=click.IntRange(min=1), default=_STEPS, show_default=True, help="At most this many lines.")
@click.option("--json", "as_json", is_flag=True, help="The whole tree as JSON, exact.")
@output.data_option
@click.option("--tz", default="UTC", show_default=True, help="Time zone of times (IANA name).")
def task_command(id: str, limit: int, as_json: bool, data: Path | None, tz: str) -> None:  # noqa: A002 -- the argument's name
    """The life of one task: what happened when, what it waited for, and where the money went.

    ID may be the beginning of the task's id.
    """
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
                print_trace(output.new_console(), answer, zone, limit)
