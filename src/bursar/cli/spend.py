"""``bursar spend``: what was spent, by whom and on what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.views.asking import TIMES
from bursar.views.measures import Measures
from bursar.views.spend import ROWS_MAX, Report, first_and_last, spend, unpriced_reasons

from . import output
from .output import Column, Line, Question, clean, compact

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["spend_command"]

_TABLE_ROWS: Final = 25
_WIDE: Final = 110


@click.command("spend")
@click.option("--by", multiple=True, metavar="COLUMN,...", help="Group by these, e.g. team,model or day or label:env.")
@output.question_options
def spend_command(by: Sequence[str], **options: Any) -> None:
    """What was spent, by model or any other column.

    \b
    bursar spend
    bursar spend --by team,model --since month
    bursar spend --by day --since 7d --where agent=coder
    """
    question = output.ask(**options)
    columns = [name.strip() for text in by or ("model",) for name in text.split(",")]
    machine = question.as_json or question.as_csv
    limit = question.limit or (ROWS_MAX if machine else _TABLE_ROWS)
    from bursar.compose import open_queries

    with output.usage_errors(), open_queries(question.data) as queries:
        report = spend(queries, by=columns, tz=question.tz, limit=limit, **question.span)
        reasons = unpriced_reasons(queries, **question.span) if report.total.unpriced_calls and not machine else ()
        known = first_and_last(queries) if not report.total.attempts else None
    left_out = report.group_count - len(report.rows)
    if question.as_json:
        output.print_json(report.to_json())
    elif question.as_csv:
        output.print_csv(report.to_json()["rows"], [*columns, *report.total.to_json()])
    elif not report.total.attempts:
        output.print_nothing(known)
        return
    else:
        console = output.new_console()
        _print_table(console, report, question)
        output.print_notes(console, report.total.unpriced_calls, report.total.estimated_calls, reasons, left_out)
        return
    if left_out:
        click.echo(f"{left_out:,} more rows are left out; the total is over all of them. Raise --limit.", err=True)


def _print_table(console: Console, report: Report, question: Question) -> None:
    names = [name if ":" in name else name.replace("_", " ").capitalize() for name in report.by]
    columns = [
        *(Column(name, "text", width_min=20) for name in names),
        Column("Calls"),
        Column("Input", spare=2),
        Column("Cached", spare=3),
        Column("Output", spare=1),
        Column("Unpriced", spare=0 if report.total.unpriced_calls else 9),
        Column("Cost"),
        Column("Share", spare=4),
        Column("", "bar", spare=5),
    ]
    groups = [row.measures for row in report.rows]
    dearest = max((group.cost_nanousd or 0 for group in groups), default=0)
    costs = output.aligned([output.estimate(m.cost_nanousd, m.estimated_calls) for m in (*groups, report.total)])
    width, ascii_only = 24 if console.width >= _WIDE else 6, console.options.ascii_only
    lines = [
        Line(
            [
                *(clean(key) or "(none)" for key in row.keys),
                *_counts(row.measures),
                cost,
                output.percent(row.measures.cost_nanousd, report.total.cost_nanousd),
                output.bar(row.measures.cost_nanousd, dearest, width=width, ascii_only=ascii_only),
            ]
        )
        for row, cost in zip(report.rows, costs, strict=False)
    ]
    footer = ["Total", *("" for _ in names[1:]), *_counts(report.total), costs[-1], "", ""]
    output.print_table(console, columns, lines, footer)
    if question.tz != "UTC" and set(TIMES) & set(report.by):
        console.print(f"Times are in {question.tz}.", style="dim")


def _counts(m: Measures) -> list[str]:
    known = [compact(count) for count in (m.calls, m.input_tokens, m.cache_read_tokens, m.output_tokens)]
    return [*known, compact(m.unpriced_calls) if m.unpriced_calls else ""]
